"""The no-regret gate: its arithmetic on listings made by hand, its verdicts on real engines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest

from models import build as models
from qcompiler.driver import compile  # noqa: A004 - the verb of the tool
from qcompiler.engine import baseline, gate, gpus, sidecar
from qcompiler.engine.build import BuildOptions, build
from qcompiler.engine.gpus import Gpu
from qcompiler.engine.listing import Layer, Memory, Tensor
from qcompiler.engine.measured import TOLERANCE
from qcompiler.engine.report import EngineReport, LinearNode
from qcompiler.engine.shapes import Shapes
from qcompiler.engine.sidecar import Sidecar
from qcompiler.engine.target_string import parse
from qcompiler.errors import BackendError, InputError
from tests.hand_made import model, normal

SM89 = parse("tensorrt-rtx:sm89")
# 1 byte a nanosecond; 1 FP32, 2 FP16, 4 INT8 operations a nanosecond.
CARD = Gpu("Toy", "SM89", 1.0, 1e-3, 2e-3, 4e-3, None, None, "NVIDIA, by hand")
NS = 1e-9


def _tensor(name: str, *dims: int, dtype: str) -> Tensor:
    return Tensor(name, dims, dtype, "")


def _layer(name: str, *, dtype: str, count: int, kind: str = "gemm") -> Layer:
    """A kernel that reads and writes ``count`` elements each."""
    inputs = (_tensor(f"{name}_in", 1, count, dtype=dtype),)
    outputs = (_tensor(f"{name}_out", 1, count, dtype=dtype),)
    return Layer(name, kind, inputs, (), outputs, ())


def _node(kernel: str, precision: str, macs: int) -> LinearNode:
    return LinearNode(
        node=f"n_{kernel}_{macs}",
        op="MatMul",
        precision=precision,
        stored="",
        attention=False,
        quantized="",
        macs=macs,
        kernel=kernel,
        reason="",
    )


def _report(*linear: LinearNode, kernels: int = 1, moved: int = 0, batch: int = 8) -> EngineReport:
    return EngineReport(
        batch=batch,
        kernels=kernels,
        kinds={},
        bookkeeping={},
        linear=linear,
        quantizers=(),
        movement=(),
        bytes_read=moved,
        bytes_written=0,
        memory=Memory(activation=64, weights=32, scratch=0),
        macs=sum(n.macs for n in linear),
        low_macs=0.0,
    )


def test_a_kernel_takes_the_longer_of_its_bytes_and_its_arithmetic() -> None:
    moves = _layer("moves", dtype="Half", count=100)  # 400 bytes: 400 ns
    report = _report(_node("moves", "fp16", 100))  # 200 operations: 100 ns
    assert gate.seconds((moves,), report, CARD) == pytest.approx(400 * NS)
    report = _report(_node("moves", "fp16", 1000))  # 2,000 operations: 1,000 ns
    assert gate.seconds((moves,), report, CARD) == pytest.approx(1000 * NS)


def test_the_rate_is_that_of_the_precision() -> None:
    layer = _layer("k", dtype="Half", count=1)
    for precision, expected in (("fp32", 2000), ("fp16", 1000), ("int8", 500), ("fp8", 1000)):
        report = _report(_node("k", precision, 1000))
        assert gate.seconds((layer,), report, CARD) == pytest.approx(expected * NS), precision


def test_kernels_add_up_and_bookkeeping_counts_nothing() -> None:
    layers = (
        _layer("a", dtype="Int8", count=100),  # 200 ns against 2 * 1000 / 4 = 500 ns
        _layer("q", dtype="Float", count=50, kind="kgen"),  # 400 ns, no linear node
        _layer("s", dtype="Float", count=10**6, kind="signal"),
    )
    report = _report(_node("a", "int8", 1000))
    assert gate.seconds(layers, report, CARD) == pytest.approx(900 * NS)


def test_nodes_of_one_kernel_are_added_before_the_larger_is_taken() -> None:
    layer = _layer("mha", dtype="Half", count=100)  # 400 ns
    report = _report(_node("mha", "fp16", 300), _node("mha", "fp16", 301))  # 300 + 301 ns
    assert gate.seconds((layer,), report, CARD) == pytest.approx(601 * NS)


def test_of_two_kernels_with_one_name_the_first_does_the_work() -> None:
    layers = (_layer("k", dtype="Half", count=1), _layer("k", dtype="Half", count=100))
    report = _report(_node("k", "fp16", 1000))
    assert gate.seconds(layers, report, CARD) == pytest.approx(1400 * NS)


def test_a_node_that_no_kernel_names_is_not_free() -> None:
    report = _report(_node("", "unknown", 50))
    assert gate.seconds((), report, CARD) == pytest.approx(100 * NS)


def test_dynamic_dimensions_count_as_the_batch() -> None:
    layer = Layer("k", "kgen", (_tensor("x", -1, 5, dtype="Int8"),), (), (), ())
    assert gate.seconds((layer,), _report(batch=8), CARD) == pytest.approx(40 * NS)
    assert gate.seconds((layer,), _report(batch=2), CARD) == pytest.approx(10 * NS)


@pytest.mark.parametrize(
    ("count", "verdict"), [(900, "pass"), (1000, "pass"), (1020, "pass"), (1021, "regret")]
)
def test_two_percent_above_fp16_are_tolerated(count: int, verdict: str) -> None:
    def engine(elements: int) -> tuple[tuple[Layer, ...], EngineReport]:
        return (_layer("k", dtype="Int8", count=elements),), _report(moved=2 * elements)

    found = gate.judge(engine(count), engine(1000), CARD)
    assert (found.verdict, TOLERANCE) == (verdict, 0.02)
    assert found.estimate is not None
    assert found.estimate.ours == pytest.approx(2 * count * NS)
    assert found.estimate.fp16 == pytest.approx(2000 * NS)
    assert "us of FP16 on the Toy" in found.why
    assert msgspec.json.decode(msgspec.json.encode(found), type=gate.Gate) == found


def test_without_figures_or_kernels_there_is_no_verdict() -> None:
    engine = ((_layer("k", dtype="Half", count=1),), _report())
    found = gate.judge(engine, engine, None)
    assert (found.verdict, found.estimate) == ("unknown", None)
    assert "--gpu" in found.why
    empty = ((), _report(kernels=0))
    assert gate.judge(empty, engine, CARD).why == "the library lists no kernels"
    assert gate.judge(engine, empty, CARD).verdict == "unknown"


# ---------------------------------------------------------------------------- real engines

Gated = Callable[..., Sidecar]


@pytest.fixture
def gated(tmp_path: Path) -> Gated:
    """Compiles a model, builds it, and holds it against its FP16 form."""

    def run(source: onnx.ModelProto, *, target: str = "tensorrt", gpu: str = "RTX 4090") -> Sidecar:
        path, plan = tmp_path / "source.onnx", tmp_path / "m.plan"
        onnx.save(source, path)
        compiled = tmp_path / "m.onnx"
        compile(path, target=target).save(compiled)
        facts = build(compiled, plan, SM89)
        return baseline.gated(facts, plan, compiled, path, SM89, gpu=gpus.find(gpu))

    return run


def _wide(layers: int = 3) -> onnx.ModelProto:
    """Matrix products of 1024 x 1024 on 64 rows: nearly all bytes are weights."""
    weights: dict[str, Any] = {f"W{i}": normal(f"W{i}", (1024, 1024)) for i in range(layers)}
    names = ["x", *(f"h{i}" for i in range(layers - 1)), "y"]
    body = "\n".join(
        f"[dense{i}] p{i} = MatMul({names[i]}, W{i})\n[relu{i}] {names[i + 1]} = Relu(p{i})"
        for i in range(layers)
    )
    return model(f"g (float[64,1024] x) => (float[64,1024] y) {{ {body} }}", **weights)


def test_int8_convolutions_of_a_small_network_lose_by_bytes(gated: Gated, tmp_path: Path) -> None:
    """Per-channel weights on a float32 base: each kernel writes FP32, and Q is one of its own."""
    facts = gated(models.load("residual"))
    found = facts.gate
    assert found is not None
    assert found.fp16 is not None
    assert found.estimate is not None
    assert found.verdict == "regret"
    assert found.ours.bytes_moved == facts.report.bytes_moved > 1.3 * found.fp16.bytes_moved
    assert found.ours.kernels > found.fp16.kernels
    assert found.ours.low_macs > 0.9
    assert found.fp16.low_macs == 0
    assert found.estimate.ours > 1.02 * found.estimate.fp16 > 0
    assert sidecar.read(tmp_path / "m.plan.json") == facts


def test_wide_matrix_products_win_by_their_weights(gated: Gated) -> None:
    found = gated(_wide()).gate
    assert found is not None
    assert found.fp16 is not None
    assert found.estimate is not None
    assert found.verdict == "pass", found.why
    # Three matrices of 2^20 elements, one byte against two.
    assert found.fp16.bytes_moved > 3 * 2**21
    assert found.ours.bytes_moved < found.fp16.bytes_moved
    assert found.ours.low_macs == 1
    assert found.estimate.ours < 0.9 * found.estimate.fp16


def test_dynamic_inputs_are_fixed_at_the_opt_shapes_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, plan = tmp_path / "s.onnx", tmp_path / "m.plan"
    onnx.save(models.load("dynamic_batch"), source)
    name = models.load("dynamic_batch").graph.input[0].name
    bounds = [{name: (n, 3, 16, 16)} for n in (1, 2, 3)]
    options = BuildOptions(shapes=Shapes(*bounds), level=2)
    facts = build(source, plan, SM89, options=options)
    seen: list[Sidecar] = []

    def spy(*args: object, **kwargs: object) -> Sidecar:
        seen.append(build(*args, **kwargs))  # type: ignore[arg-type]
        return seen[-1]

    monkeypatch.setattr(baseline, "build", spy)
    found = baseline.gated(facts, plan, source, source, SM89, gpu=CARD, options=options).gate
    assert found is not None
    assert found.estimate is not None
    assert found.estimate.shapes == f"{name}:2x3x16x16"
    for engine in seen:
        assert engine.options["optimization-level"] == 2
        bound = {engine.options[f"{b}-shapes"] for b in ("min", "opt", "max")}
        assert bound == {f"{name}:2x3x16x16"}
        dims = [d for n in engine.layers for t in (*n.inputs, *n.outputs) for d in t.dims]
        assert min(dims) > 0
    assert [{n.precision for n in e.report.linear} for e in seen] == [{"fp32"}, {"fp16"}]
    # The plan itself keeps its profile.
    assert facts.options["max-shapes"] == f"{name}:3x3x16x16"


def _tokens(batch: int | str) -> onnx.ModelProto:
    """Batch and 65 tokens become one axis, which a dynamic listing shows as one -1."""
    return model(
        f"""g (float[{batch},65,64] x) => (float[{batch},65,32] y)
        {{ [dense] y = MatMul(x, W) }}""",
        W=normal("W", (64, 32)),
    )


@pytest.mark.parametrize("same", [True, False])
def test_a_dynamic_model_is_judged_as_the_same_model_with_fixed_shapes(
    tmp_path: Path, same: bool
) -> None:
    gates = []
    for batch in (6, "N"):
        source, plan = tmp_path / f"{batch}.onnx", tmp_path / f"{batch}.plan"
        onnx.save(_tokens(batch), source)
        low = 6 if same else 2
        bounds = [{"x": (n, 65, 64)} for n in (low, 6, 6 if same else 8)]
        options = BuildOptions(shapes=Shapes(*bounds) if batch == "N" else Shapes())
        facts = build(source, plan, SM89, options=options)
        facts = baseline.gated(facts, plan, source, source, SM89, gpu=CARD, options=options)
        assert facts.gate is not None
        gates.append(facts.gate)
    fixed, dynamic = gates
    assert (dynamic.ours, dynamic.fp16) == (fixed.ours, fixed.fp16)
    assert fixed.estimate is not None
    assert dynamic.estimate is not None
    assert dynamic.estimate.ours == fixed.estimate.ours
    assert dynamic.estimate.fp16 == fixed.estimate.fp16
    # FP16: two operations for each of 6 * 65 * 64 * 32 products, at 2 a nanosecond.
    assert dynamic.estimate.fp16 >= 6 * 65 * 64 * 32 * NS


def test_an_fp16_form_that_does_not_build_gives_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, plan = tmp_path / "s.onnx", tmp_path / "m.plan"
    onnx.save(models.load("mlp"), source)
    facts = build(source, plan, SM89)

    def refuse(*_args: object, **_kwargs: object) -> Sidecar:
        raise BackendError("no kernel for this")

    monkeypatch.setattr(baseline, "build", refuse)
    found = baseline.gated(facts, plan, source, source, SM89, gpu=CARD).gate
    assert found is not None
    assert (found.verdict, found.fp16) == ("unknown", None)
    assert found.why == "nothing to compare with could be built: no kernel for this"


def test_a_source_with_other_inputs_is_refused(tmp_path: Path) -> None:
    paths = [tmp_path / "mlp.onnx", tmp_path / "wide.onnx"]
    onnx.save(models.load("mlp"), paths[0])
    other = _wide(1)
    other.graph.input[0].name = other.graph.node[0].input[0] = "else"
    onnx.save(other, paths[1])
    baseline.require_same_interface(paths[0], paths[0])
    with pytest.raises(InputError, match="its inputs are else"):
        baseline.require_same_interface(*paths)
