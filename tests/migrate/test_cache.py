"""Calibration caches: reading them, and that their scales arrive unchanged."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from models import build
from qcompiler import recipe as recipes
from qcompiler import targets
from qcompiler.calibrate import Statistics
from qcompiler.data.synthetic import synthetic
from qcompiler.decide import decide
from qcompiler.errors import InputError
from qcompiler.inputs import input_specs
from qcompiler.load import load
from qcompiler.migrate import cache
from qcompiler.numerics.ranges import METHODS, auto, to_qparams
from qcompiler.observers.histogram import Histogram
from qcompiler.plan import QuantPlan
from qcompiler.prepare import prepare
from qcompiler.scan import scan
from qcompiler.spec import Spec
from tests import hand_made

INT8 = Spec("int8")
HEADER = "TRT-8601-EntropyCalibration2"
ROOT = Path(__file__).resolve().parents[2]


def digits(scale: float) -> str:
    """As TensorRT prints them: most significant first, leading zeros left out."""
    (bits,) = struct.unpack(">I", struct.pack(">f", scale))
    return f"{bits:x}"


def text(scales: Mapping[str, float]) -> str:
    return f"{HEADER}\n" + "".join(f"{name}: {digits(s)}\n" for name, s in scales.items())


def _write(folder: Path, content: str | bytes) -> Path:
    path = folder / "calib.cache"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def _match(model: ModelProto | Path, scales: Mapping[str, float]) -> cache.Matched:
    graph, _ = prepare(model, targets.find("tensorrt"))
    points = scan(graph, recipes.find("int8"), targets.find("tensorrt"))
    found = cache.Cache(HEADER, dict(scales))
    return cache.match(found, load(model), graph, points, "calib.cache")


def _decided(model: ModelProto | Path, matched: cache.Matched, method: str) -> QuantPlan:
    target = targets.find("tensorrt")
    recipe = msgspec.structs.replace(recipes.find("int8"), range=method, search_weights=False)
    graph, _ = prepare(model, target)
    return decide(graph, scan(graph, recipe, target), matched.statistics, recipe)


def _model(nodes: str, **constants: Any) -> ModelProto:
    """Of ``x [4, 32]`` and square matrices ``w`` and ``v``."""
    text = f"g (float[4, 32] x) => (float[4, 32] y) {{ {nodes} }}"
    return hand_made.model(text, w=(32, 32), v=(32, 32), **constants)


def test_reads_what_tensorrt_writes(tmp_path: Path) -> None:
    content = (
        "TRT-100900-MinMaxCalibration\r\n"
        "input: 3c8950a4\r\n"
        "(Unnamed Layer* 3) [Constant]_output: 3f800000\n"
        "serving_default:0: 3d000000\n"
        "\n"
        "always_zero: 0\n"
        "small: 1\n"
    )
    found = cache.read(_write(tmp_path, content))
    assert found.header == "TRT-100900-MinMaxCalibration"
    assert found.scales == {
        "input": struct.unpack(">f", bytes.fromhex("3c8950a4"))[0],
        "(Unnamed Layer* 3) [Constant]_output": 1.0,
        "serving_default:0": 0.03125,
        "always_zero": 0.0,
        "small": 2.0**-149,
    }


@pytest.mark.parametrize(
    ("content", "message", "where"),
    [
        ("", "the first line is ''", "calib.cache:1"),
        ("input: 3c8950a4\n", "no calibration cache", "calib.cache:1"),
        (b"\xff\xfe\x00", "not text", "calib.cache"),
        (f"{HEADER}\n", "no entries", "calib.cache"),
        (f"{HEADER}\na: 3c8950a4\nb 3c8950a4\n", "not an entry: 'b 3c8950a4'", "calib.cache:3"),
        (f"{HEADER}\na: 3c8950a4ff\n", "not an entry", "calib.cache:2"),
        (f"{HEADER}\na: 3c8950ag\n", "not an entry", "calib.cache:2"),
        (f"{HEADER}\na:\n", "not an entry", "calib.cache:2"),
        (f"{HEADER}\n: 3c8950a4\n", "not an entry", "calib.cache:2"),
        (f"{HEADER}\na: bc8950a4\n", "the scale of 'a' is -0.01", "calib.cache:2"),
        (f"{HEADER}\na: 80000000\n", "the scale of 'a' is -0.0", "calib.cache:2"),
        (f"{HEADER}\na: 7fc00000\n", "the scale of 'a' is nan", "calib.cache:2"),
        (f"{HEADER}\n\na: 7f800000\n", "the scale of 'a' is inf", "calib.cache:3"),
        (f"{HEADER}\na: 3f800000\na: 40000000\n", "'a' has two scales", "calib.cache:3"),
    ],
)
def test_damage_is_reported_with_its_line(
    tmp_path: Path, content: str | bytes, message: str, where: str
) -> None:
    with pytest.raises(InputError) as caught:
        cache.read(_write(tmp_path, content))
    assert message in caught.value.message
    assert caught.value.where.endswith(where)
    assert caught.value.hint


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the cache"):
        cache.read(tmp_path / "none.cache")


SCALES = st.floats(2.0**-126, 2.0**120, width=32)


@settings(deadline=None)
@given(scale=SCALES, method=st.sampled_from(sorted(METHODS)))
def test_every_range_method_gives_the_very_scale(scale: float, method: str) -> None:
    found = METHODS[method](cache.histogram(scale), INT8)
    assert float(to_qparams(found, INT8).scale) == scale


@settings(deadline=None)
@given(scales=st.lists(SCALES, min_size=1, max_size=5), method=st.sampled_from(sorted(METHODS)))
def test_tensors_that_share_a_scale_get_the_largest(scales: list[float], method: str) -> None:
    merged = Histogram.empty()
    for scale in scales:
        merged = merged.merge(cache.histogram(scale))
    assert float(to_qparams(METHODS[method](merged, INT8), INT8).scale) == max(scales)


def test_a_tensor_that_was_always_zero_is_reproduced_as_zero() -> None:
    scale = to_qparams(auto(cache.histogram(0.0), INT8), INT8).scale
    assert float(scale) == 1.0


@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_demo_model_gets_the_scales_of_the_cache(method: str) -> None:
    """Every range method, with scales that no search would find."""
    model = ROOT / "models" / "resnet20.onnx"
    graph, _ = prepare(model, targets.find("tensorrt"))
    points = scan(graph, recipes.find("int8"), targets.find("tensorrt")).activations
    drawn = np.exp(np.random.default_rng(1).uniform(-6, 3, len(points))).astype(np.float32)
    scales = {p.tensor: float(s) for p, s in zip(points, drawn, strict=True)}
    matched = _match(model, scales | {"no_such_tensor": 1.0})
    assert (matched.missing, matched.moved, matched.unused) == ((), {}, 1)
    plan = _decided(model, matched, method)
    assert {d.tensor: d.scale for d in plan.activations} == scales
    assert len(plan.activations) == len(points) == 21
    assert not plan.synthetic


def test_statistics_survive_the_file(tmp_path: Path) -> None:
    matched = _match(build.load("mlp"), {"x": 0.5})
    path = tmp_path / "s.npz"
    matched.statistics.save(path)
    read = Statistics.read(path)
    assert read == matched.statistics
    assert HEADER in read.source


def test_a_group_shares_the_largest_of_its_scales() -> None:
    model = build.load("concat_add")
    graph, _ = prepare(model, targets.find("tensorrt"))
    points = scan(graph, recipes.find("int8"), targets.find("tensorrt")).activations
    scales = {p.tensor: 0.01 * (i + 1) for i, p in enumerate(points)}
    scales = {name: float(np.float32(s)) for name, s in scales.items()}
    members: dict[str, list[str]] = {}
    for point in points:
        members.setdefault(point.group, []).append(point.tensor)
    plan = _decided(model, _match(model, scales), "auto")
    decided = {d.tensor: d.scale for d in plan.activations}
    assert any(len(tensors) > 1 for tensors in members.values())
    for tensors in members.values():
        assert {decided[t] for t in tensors} == {max(scales[t] for t in tensors)}


def test_missing_tensors_are_named_and_their_nodes_stay_in_float() -> None:
    model = _model("a = MatMul(x, w) b = Relu(a) y = MatMul(b, v)")
    matched = _match(model, {"x": 0.5})
    assert matched.missing == ("b",)
    assert len(matched.nodes) == 1
    plan = _decided(model, matched, "auto")
    assert [d.tensor for d in plan.activations] == ["x"]
    assert set(plan.skipped) == set(matched.nodes)


def test_a_cache_of_another_model_is_an_error() -> None:
    with pytest.raises(
        InputError, match="no tensor that is to be quantized has an entry"
    ) as caught:
        _match(build.load("mlp"), {"conv1": 0.5, "conv2": 0.5})
    assert "'conv1'" in caught.value.message
    assert "names" in caught.value.hint


_CONSTANTS = {"s": np.array([4, 32], np.int64), "c": np.array(0.5, np.float32)}


@pytest.mark.parametrize(
    ("body", "scales", "expected"),
    [
        # The entry of the tensor itself.
        ("r = Relu(x) a = Reshape(r, s) y = MatMul(a, w)", {"r": 1.0, "a": 2.0}, ("a", 2.0)),
        # Moved values have the scale of where they come from.
        ("r = Relu(x) a = Reshape(r, s) y = MatMul(a, w)", {"r": 1.0}, ("a", 1.0)),
        # The factor is folded into w, so that `a` holds the values of r, not those it had.
        (
            "r = Relu(x) m = Mul(r, c) a = Reshape(m, s) y = MatMul(a, w)",
            {"r": 1.0, "m": 0.5, "a": 0.5},
            ("a", 1.0),
        ),
        # The factor is folded into v: `m` keeps its name and its values.
        (
            "h = MatMul(x, v) a = Reshape(h, s) m = Mul(a, c) y = MatMul(m, w)",
            {"x": 3.0, "h": 1.0, "a": 1.0, "m": 0.5},
            ("m", 0.5),
        ),
        # Likewise, but `m` has no entry: what comes before it was scaled under its old name.
        (
            "h = MatMul(x, v) a = Reshape(h, s) m = Mul(a, c) y = MatMul(m, w)",
            {"x": 3.0, "h": 1.0, "a": 1.0},
            ("m", None),
        ),
        # Both at once.
        (
            "h = MatMul(x, v) a = Reshape(h, s) m = Mul(a, c) b = Reshape(m, s) y = MatMul(b, w)",
            {"x": 3.0, "h": 1.0, "a": 1.0, "m": 0.5, "b": 0.25},
            ("b", 0.25),
        ),
    ],
)
def test_an_entry_counts_only_while_its_tensor_holds_the_same_values(
    body: str, scales: dict[str, float], expected: tuple[str, float | None]
) -> None:
    matched = _match(_model(body, **_CONSTANTS), scales)
    tensor, scale = expected
    assert matched.scales.get(tensor) == scale
    assert (tensor in matched.missing) == (scale is None)


def _values(model: ModelProto, feeds: Mapping[str, object], names: list[str]) -> dict[str, object]:
    copy = ModelProto()
    copy.CopyFrom(model)
    outputs = {o.name for o in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in outputs)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(copy.SerializeToString(), options)
    return dict(zip(names, session.run(names, dict(feeds)), strict=True))


def _largest(values: object) -> float:
    return float(np.abs(np.asarray(values, np.float64)).max(initial=0.0))


@pytest.mark.parametrize("name", sorted({*build.names()} - {"int8_already"}))
def test_names_of_the_zoo_mean_the_same_before_and_after_preparation(name: str) -> None:
    """The range of an entry is that of the tensor which gets it, on real values."""
    model = build.load(name)
    graph, _ = prepare(model, targets.find("tensorrt"))
    points = scan(graph, recipes.find("int8"), targets.find("tensorrt")).activations
    (feeds, *_) = synthetic(input_specs(graph), seed=0)
    computed = {o for node in model.graph.node for o in node.output if o}
    before = _values(model, feeds, sorted(computed))
    given = {n: float(np.float32(_largest(v) / 127)) for n, v in {**before, **feeds}.items()}
    matched = _match(model, given)
    assert matched.missing == ()
    wanted = [p.tensor for p in points if p.tensor not in feeds]
    after = _values(graph.proto(), feeds, wanted)
    for tensor, value in after.items():
        exact = _largest(value) / 127
        # Folding reorders float32 sums; a name with other values would be off by a factor.
        assert matched.scales[tensor] == pytest.approx(exact, rel=1e-3), tensor
