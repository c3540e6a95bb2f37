"""The whole line: what must not change, what must be said, and odd models."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import qcompiler.graph
from models import build
from qcompiler import driver, judge
from qcompiler.backends import onnxruntime
from qcompiler.calibrate import collect
from qcompiler.compare import compare
from qcompiler.data.synthetic import WARNING
from qcompiler.driver import Options, Result
from qcompiler.errors import BackendError, InputError, UnsupportedError, UsageError
from qcompiler.evaluate import open_evaluation
from qcompiler.recipe import Recipe
from tests.compiled import compiled, model_bytes
from tests.hand_made import model, normal
from tests.recorded import Recorded

MODELS = Path(build.HERE)
RESNET = MODELS / "resnet20.onnx"


def _images(count: int) -> np.ndarray[Any, Any]:
    with np.load(MODELS / "resnet20.calib.npz") as file:
        images: np.ndarray[Any, Any] = file["input"][:count]
    return images


# ---------------------------------------------------------------------- what must not change


def _declared(values: Any) -> list[bytes]:
    return [v.SerializeToString(deterministic=True) for v in values]


@pytest.mark.parametrize("name", build.names())
def test_inputs_and_outputs_are_as_before(name: str) -> None:
    before, after = build.load(name).graph, compiled(name).model().graph
    assert _declared(after.input) == _declared(before.input)
    assert _declared(after.output) == _declared(before.output)


def test_names_and_metadata_survive() -> None:
    proto = build.load("residual")
    proto.doc_string, proto.producer_version = "what it is", "7"
    proto.metadata_props.add(key="author", value="somebody")
    result = driver.compile(proto)
    after = result.model()
    assert (after.doc_string, after.producer_name, after.producer_version) == (
        "what it is",
        proto.producer_name,
        "7",
    )
    assert {n.name for n in proto.graph.node} <= {n.name for n in after.graph.node}
    metadata = {p.key: p.value for p in after.metadata_props}
    assert metadata["author"] == "somebody"
    assert metadata["qcompiler.target"] == "tensorrt"
    assert metadata["qcompiler.recipe"] == "int8+fp16"
    assert metadata["qcompiler.plan_digest"] == result.plan.digest()
    assert metadata["qcompiler.version"] == qcompiler.__version__


def test_the_source_is_never_touched(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(build.load("residual"), path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    driver.compile(path).save(tmp_path / "out.onnx")
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "out.onnx"]
    proto = build.load("residual")
    driver.compile(proto)
    assert proto == build.load("residual")


def test_path_bytes_and_proto_give_the_same(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(build.load("mlp"), path)
    sources = (path, str(path), path.read_bytes(), build.load("mlp"))
    assert {model_bytes(driver.compile(s)) for s in sources} == {model_bytes(compiled("mlp"))}


def test_a_model_that_is_quantized_already_keeps_its_pairs() -> None:
    result = compiled("int8_already")
    before = [n.op_type for n in build.load("int8_already").graph.node]
    after = [n.op_type for n in result.model().graph.node]
    for op in ("QuantizeLinear", "DequantizeLinear"):
        assert after.count(op) == before.count(op)
    assert set(result.plan.skipped) == {"/conv1/Conv", "/conv2/Conv"}
    assert "nothing was quantized; `skipped` in the report says why" in result.report.warnings


def test_a_quantized_tensor_that_is_an_output_keeps_its_name_and_value() -> None:
    source = model(
        """g (float[4,32] x) => (float[4,32] h, float[4,32] y) {
          h = MatMul (x, W)
          y = MatMul (h, V)
        }""",
        W=(32, 32),
        V=(32, 32),
    )
    result = driver.compile(source, recipe="int8")
    assert "h" in {d.tensor for d in result.plan.activations}
    producer = next(n for n in result.model().graph.node if "h" in n.output)
    assert producer.op_type == "MatMul"


# ---------------------------------------------------------------------- what must be said


def _warned(result: Result, recorded: Recorded) -> tuple[bool, bool, bool, bool]:
    """Whether the warning stands in the report, the progress, the model; and the flag."""
    metadata = {p.key: p.value for p in result.model().metadata_props}
    return (
        WARNING in result.report.warnings,
        WARNING in recorded.warnings,
        metadata.get("qcompiler.warning") == WARNING,
        result.report.synthetic,
    )


def test_synthetic_data_are_said_everywhere_and_in_every_resumption() -> None:
    first = compiled("mlp")
    for options in (Options(), Options(statistics=first.statistics), Options(plan=first.plan)):
        recorded = Recorded()
        told = dataclasses.replace(options, progress=recorded)
        assert _warned(driver.compile(build.load("mlp"), options=told), recorded) == (True,) * 4


def test_real_data_are_not_called_synthetic() -> None:
    recorded = Recorded()
    data = {"x": normal("data", (640, 64))}
    result = driver.compile(build.load("mlp"), data=data, options=Options(progress=recorded))
    assert _warned(result, recorded) == (False,) * 4
    assert recorded.warnings == []
    assert recorded.stages == [
        "prepare",
        "scan",
        "calibrate",
        "decide",
        "spare",
        "round",
        "apply",
        "verify",
    ]


def test_a_glob_that_matches_nothing_is_the_callers_error() -> None:
    with pytest.raises(UsageError, match="--exclude 'nothing' matches no node"):
        driver.compile(build.load("mlp"), options=Options(exclude=("nothing",)))


def test_excluded_nodes_stay_float() -> None:
    result = driver.compile(build.load("mlp"), options=Options(exclude=("/fc2/*",)))
    assert result.plan.skipped == {"/fc2/Gemm": "excluded by '/fc2/*'"}
    assert result.report.coverage.nodes == 2


def test_an_optimizer_that_fails_is_a_warning_not_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxruntime.OrtSession

    def session(*args: Any, level: Any = "off", **rest: Any) -> Any:
        if level == "all" and "/fc1/MatMul" in [n.name for n in args[0].graph.node]:
            raise UnsupportedError("ONNX Runtime cannot load the model: a bug")
        return real(*args, level=level, **rest)

    monkeypatch.setattr(onnxruntime, "OrtSession", session)
    report = driver.compile(build.load("mlp")).report
    assert [o.sqnr_db_optimized for o in report.outputs] == [None]
    assert report.outputs[0].sqnr_db > 20
    assert any(w.endswith("cannot load the model: a bug") for w in report.warnings)


def test_every_session_knows_the_custom_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration, the reference, both verifications and both evaluations."""
    real, seen = onnxruntime.OrtSession, []

    def session(*args: Any, custom_ops: Any = (), **rest: Any) -> Any:
        seen.append(tuple(custom_ops))
        return real(*args, **rest)

    class Nothing:
        def score(self, *_: Any) -> tuple[str, float, int]:
            return "nothing", 1.0, 1

    monkeypatch.setattr(onnxruntime, "OrtSession", session)
    monkeypatch.setattr("qcompiler.calibrate.OrtSession", session)
    options = Options(custom_ops=(Path("operators.so"),))
    driver.compile(build.load("mlp"), evaluation=Nothing(), options=options)
    assert seen == [(Path("operators.so"),)] * 6


# ---------------------------------------------------------------------- held-out samples


def test_verification_runs_on_samples_that_were_not_calibrated_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used: list[bytes] = []
    verified: list[bytes] = []

    def watched(proto: Any, tensors: Any, samples: Any, **rest: Any) -> Any:
        class Watched:
            def __iter__(self) -> Iterator[Any]:
                for sample in samples:
                    used.append(sample.feeds["x"].tobytes())
                    yield sample

        return collect(proto, tensors, Watched(), **rest)

    def compared(reference: Any, tests: Any, samples: Any, *rest: Any, **named: Any) -> Any:
        verified.extend(s["x"].tobytes() for s in samples)
        return compare(reference, tests, samples, *rest, **named)

    monkeypatch.setattr(driver, "collect", watched)
    monkeypatch.setattr(judge, "compare", compared)
    data = {"x": normal("data", (32 * 40, 64))}
    report = driver.compile(build.load("mlp"), data=data).report
    assert (len(used), len(set(verified))) == (report.samples, report.held_out) == (35, 5)
    assert set(used).isdisjoint(verified)


def test_a_given_plan_is_verified_on_the_same_held_out_samples() -> None:
    data = {"x": normal("data", (32 * 40, 64))}
    first = driver.compile(build.load("mlp"), data=data)
    for options in (Options(plan=first.plan), Options(statistics=first.statistics)):
        again = driver.compile(build.load("mlp"), data=data, options=options)
        assert again.report.outputs == first.report.outputs
    without = driver.compile(build.load("mlp"), options=Options(plan=first.plan))
    assert without.report.outputs == ()


def test_one_sample_is_calibrated_on_and_nothing_is_verified() -> None:
    result = driver.compile(build.load("mlp"), data={"x": normal("data", (32, 64))})
    assert (result.report.samples, result.report.held_out, result.report.outputs) == (1, 0, ())
    assert any("one sample only" in w for w in result.report.warnings)
    assert result.report.coverage.nodes == 3


def test_no_samples_are_the_callers_error() -> None:
    with pytest.raises(InputError, match="samples"):
        driver.compile(build.load("mlp"), data=[])


# ---------------------------------------------------------------------- odd models


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("g (float[4] x) => (float[4] y) { y = Relu (x) }", {"x": np.ones((4, 4), np.float32)}),
        ("g (int64[4] x) => (int64[4] y) { y = Add (x, x) }", {"x": np.ones((4, 4), np.int64)}),
        ("g (string[4] x) => (string[4] y) { y = Identity (x) }", None),
    ],
    ids=["float", "int", "string"],
)
def test_a_model_without_linear_operators_passes_through(text: str, data: Any) -> None:
    for given in (None, data):
        result = driver.compile(model(text), data=given, recipe="int8")
        assert (result.plan.activations, result.plan.weights, result.plan.skipped) == ((), (), {})
        assert [n.op_type for n in result.model().graph.node] == [
            n.op_type for n in model(text).graph.node
        ]
        assert result.report.coverage.linear_nodes == 0
        if given is not None:
            assert [o.sqnr_db for o in result.report.outputs] == [999.0]


def test_bad_data_are_refused_even_if_there_is_nothing_to_calibrate() -> None:
    text = "g (float[4] x) => (float[4] y) { y = Relu (x) }"
    with pytest.raises(InputError):
        driver.compile(model(text), data={"z": np.ones((4, 4), np.float32)})


def test_half_precision_models_get_half_precision_scales() -> None:
    source = model(
        "g (float16[64,32] x) => (float16[64,32] y) { y = MatMul (x, W) }",
        W=normal("W", (32, 32), np.float16),
    )
    result = driver.compile(source)
    constants = {t.name: t.data_type for t in result.model().graph.initializer}
    assert constants["x_scale"] == constants["W_scale"] == TensorProto.FLOAT16
    assert result.report.outputs[0].sqnr_db > 20


def test_an_activation_that_overflows_is_named_and_its_node_left_float() -> None:
    """A logarithm of a negative number: NaN in the graph though the data are sound."""
    source = model(
        """g (float[4,32] x) => (float[4,32] y, float[4,32] z) {
          l = Log (x)
          [bad] y = MatMul (l, W)
          [good] z = MatMul (x, W)
        }""",
        W=(32, 32),
    )
    result = driver.compile(source)
    assert result.plan.skipped == {
        "bad": "its activation 'l' holds NaN or infinity in the calibration data"
    }
    assert result.plan.quantized_nodes() == {"good"}
    (weight,) = result.plan.weights
    assert [s.node for s in weight.slots] == ["good"]


def test_an_opset_beyond_the_target_is_refused() -> None:
    source = model(
        "g (float[4,32] x) => (float[4,32] y) { y = MatMul (x, W) }", opset=26, W=(32, 32)
    )
    with pytest.raises(UnsupportedError, match="opset 26; tensorrt reads up to 24"):
        driver.compile(source)


def test_unknown_names_are_the_callers_error() -> None:
    with pytest.raises(UsageError, match="no target"):
        driver.compile(build.load("mlp"), target="abacus")
    with pytest.raises(UsageError, match="no recipe"):
        driver.compile(build.load("mlp"), recipe="sourdough")


def test_a_recipe_as_a_value() -> None:
    recipe = Recipe(name="plain", range="minmax", search_weights=False)
    plan = driver.compile(build.load("mlp"), recipe=recipe).plan
    assert plan.recipe == "plain"
    for decision in plan.weights:
        assert decision.source == "largest value"


def test_a_run_that_fails_is_a_backend_error() -> None:
    """The data fit the declared shapes, but not what the graph does with them."""
    source = model(
        """g (float[4,32] x, int64[2] i) => (float[2,32] y) {
          r = Gather (x, i)
          y = MatMul (r, W)
        }""",
        W=(32, 32),
    )
    data = {"x": np.ones((3, 4, 32), np.float32), "i": np.full((3, 2), 9)}
    with pytest.raises(BackendError, match="ONNX Runtime failed while running the model"):
        driver.compile(source, data=data)


def test_evaluation_scores_both_models(tmp_path: Path) -> None:
    with np.load(MODELS / "resnet20.eval.npz") as file:
        np.savez(tmp_path / "eval.npz", input=file["input"][:100], labels=file["labels"][:100])
    result = driver.compile(
        RESNET,
        data={"input": _images(64)},
        evaluation=open_evaluation(str(tmp_path / "eval.npz")),
    )
    metric = result.report.metric
    assert metric is not None
    assert (metric.name, metric.samples) == ("top1", 100)
    assert metric.before > 0.8
    assert abs(metric.after - metric.before) <= 0.03  # three images of a hundred
