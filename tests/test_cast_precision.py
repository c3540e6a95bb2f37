"""Casting to float16: how close it stays, that it is thorough, and that nothing turns infinite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, parser
from onnx.reference import ReferenceEvaluator

from models import build
from qcompiler import targets
from qcompiler.emit import emit
from qcompiler.errors import InputError, UsageError
from qcompiler.graph import Graph, label
from qcompiler.load import load
from qcompiler.narrow import BFLOAT16, FLOAT16, Narrow
from qcompiler.ops import is_standard
from qcompiler.passes.cast_precision import CastPrecision
from qcompiler.pipeline import Pipeline, parse_pass
from qcompiler.prepare import prepare
from qcompiler.verify import check_onnx
from tests import hand_made, strategies
from tests.contract.running import Feeds, feeds_for, session
from tests.golden import HERE, read_golden

# The floor of the pass: sqrt(n) 2^-11 is 1.8 % at n = 1,300 roundings one after the other.
FLOOR_DB = 35.0


def _stem(path: Path) -> str:
    return path.stem


def _prepared(name: str) -> Graph:
    graph, _ = prepare(build.load(name), targets.find("tensorrt"))
    return graph


def _cast(graph: Graph, *keep: str) -> int:
    (step,) = Pipeline((CastPrecision(keep=keep),)).run(graph)
    return step.rewrites


def _graph(text: str) -> Graph:
    graph = load(parser.parse_model(text))
    graph.infer()
    return graph


def _run(graph: Graph, feeds: Feeds) -> list[NDArray[Any]]:
    return list(session(graph.proto()).run(None, feeds))


def _decibels(exact: NDArray[Any], other: NDArray[Any]) -> float:
    signal = exact.astype(np.float64)
    error = signal - other.astype(np.float64)
    return float(10 * np.log10(np.square(signal).sum() / max(np.square(error).sum(), 1e-300)))


@pytest.mark.parametrize("name", build.names())
def test_models_stay_above_the_floor(name: str) -> None:
    """Valid, of the same declarations, finite, and 35 dB from float.

    onnx.reference rounds to float16 behind every operator; ONNX Runtime on a CPU does not.
    """
    graph = _prepared(name)
    before: ModelProto = graph.proto()
    assert _cast(graph)
    after = graph.proto()
    assert check_onnx(graph) == ""
    assert list(after.graph.input) == list(before.graph.input)
    assert list(after.graph.output) == list(before.graph.output)
    feeds = feeds_for(session(before))
    exact = session(before).run(None, feeds)
    for results in (session(after).run(None, feeds), ReferenceEvaluator(after).run(None, feeds)):
        for x, y in zip(exact, results, strict=True):
            assert x.dtype == y.dtype
            assert np.isfinite(y).all()
            assert _decibels(x, y) > FLOOR_DB


@pytest.mark.parametrize("name", build.names())
def test_casts_stand_at_the_border_only(name: str) -> None:
    """One for each float input and output, those of the model itself, and two for each island."""
    graph = _prepared(name)
    existing = sum(n.op == "Cast" for n in graph.nodes)
    _cast(graph)
    floats = [t for t in (*graph.inputs, *graph.outputs) if t.dtype == np.float32]
    islands = sum(graph.has_body(n) or n.op == "Cos" for n in graph.nodes)
    casts = [n for n in graph.nodes if n.op == "Cast"]
    assert len(casts) <= len(floats) + existing + 2 * islands
    for node in casts:
        source = graph.producer(node.inputs[0])
        assert source is None or source.op not in ("Cast", "DequantizeLinear"), label(node)


@pytest.mark.parametrize("name", sorted({*build.names()} - {"branch_if", "decoder_kv"}))
def test_nothing_but_the_border_is_float32(name: str) -> None:
    """Scalars and scales too; of the rest, one model has a body and one the angles of positions."""
    graph = _prepared(name)
    _cast(graph)
    border = {id(t) for t in (*graph.inputs, *graph.outputs)}
    # The scales of Resize are float32 in every opset.
    border |= {id(t) for n in graph.nodes if n.op == "Resize" for t in n.inputs[2:]}
    tensors = [t for n in graph.nodes for t in (*n.inputs, *n.outputs) if id(t) not in border]
    assert [t.name for t in tensors if t.name and t.dtype == np.float32] == []


@pytest.mark.parametrize("path", sorted((HERE / "cast_precision").glob("*.txt")), ids=_stem)
def test_goldens_are_done_after_one_run(path: Path) -> None:
    """Whatever stayed in float32, stays for the same reason the second time."""
    golden = read_golden(path)
    graph = load(golden.model)
    graph.infer()
    Pipeline(golden.passes).run(graph)
    assert [s.rewrites for s in Pipeline(golden.passes).run(graph)] == [0]


@settings(max_examples=50, deadline=None)
@given(strategies.models())
def test_any_model_stays_valid(model: ModelProto) -> None:
    graph = load(model)
    graph.infer()
    valid = check_onnx(graph) == ""
    _cast(graph)
    assert not valid or check_onnx(graph) == ""
    assert _cast(graph) == 0


@given(arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32)))
def test_narrow_rounds_like_numpy_and_stays_finite(values: NDArray[np.float32]) -> None:
    half = FLOAT16.narrow(values)
    fits = ~(np.isfinite(values) & (np.abs(values) > 65504))
    assert half.dtype == np.float16
    assert np.array_equal(half[fits], values[fits].astype(np.float16), equal_nan=True)
    assert np.array_equal(half[~fits], np.copysign(np.float16(65504), values[~fits]))


@given(arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32)))
def test_narrow_to_bfloat16_stays_finite(values: NDArray[np.float32]) -> None:
    """3.4028e38 would be rounded up to infinity."""
    found = BFLOAT16.narrow(values)
    finite = np.isfinite(values)
    assert np.array_equal(np.isfinite(found.astype(np.float32)), finite)
    with np.errstate(over="ignore"):
        exact = values.astype(ml_dtypes.bfloat16)
    fits = np.isfinite(exact.astype(np.float32)) | ~finite
    same = found.astype(np.float32)[fits], exact.astype(np.float32)[fits]
    assert np.array_equal(*same, equal_nan=True)


@pytest.mark.parametrize("low", [FLOAT16, BFLOAT16], ids=lambda low: low.name)
def test_the_figures_of_a_narrow_type(low: Narrow) -> None:
    limits: Any = ml_dtypes.finfo(low.dtype)  # type: ignore[no-untyped-call]
    assert (low.largest, low.least_normal) == (float(limits.max), float(limits.smallest_normal))
    assert low.unit == float(limits.eps) / 2
    assert onnx.helper.tensor_dtype_to_np_dtype(low.element) == low.dtype


def test_weights_make_up_for_scales_in_bfloat16() -> None:
    """A scale of 8 bits is off by up to 0.2 %, and so would be each weight of its channel."""
    scales = np.array([0.0101, 0.5], np.float32)
    codes = np.array([[-127, 127], [64, 3]], np.int8)
    source = hand_made.model(
        """g (float[1,2] x) => (float[1,2] y) {
          W = DequantizeLinear <axis = 1> (W_q, s)
          y = MatMul (x, W)
        }""",
        W_q=codes,
        s=scales,
    )
    graph = load(source)
    graph.infer()
    Pipeline((CastPrecision(to="bfloat16"),)).run(graph)
    stored = {t.name: graph.values(t) for t in graph.constants()}
    rounded = stored["s"].astype(np.float64)
    assert rounded.tolist() == [float(ml_dtypes.bfloat16(0.0101)), 0.5]
    error = stored["W_q"] * rounded - codes * scales.astype(np.float64)
    assert (np.abs(error) <= rounded / 2 * (1 + 1e-9)).all()


@given(arrays(np.float32, st.integers(1, 20), elements=st.floats(2**-60, 2**15, width=32)))
def test_small_scales_are_rounded_up(values: NDArray[np.float32]) -> None:
    half = FLOAT16.narrow(values, scale=True).astype(np.float64)
    small = values < 2.0**-14
    assert (half[small] >= values[small]).all()
    assert (np.abs(half - values) <= np.maximum(values * 2.0**-11, 2.0**-24)).all()


def test_codes_make_up_for_small_scales() -> None:
    """A scale of 1.5 steps of float16, one of a dead channel, and one that needs nothing."""
    scales = np.array([1.5 * 2**-24, 1e-30, 0.5], np.float32)
    codes = np.array([[-127, 64, 127], [127, -127, 1], [-128, 127, 3]], np.int8)
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,3] x) => (float[N,3] y) {
          W = DequantizeLinear <axis = 0> (W_q, s)
          y = MatMul (x, W)
        }"""
    )
    for name, array in (("W_q", codes), ("s", scales)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    graph = load(model)
    graph.infer()
    _cast(graph)
    stored = {t.name: graph.values(t) for t in graph.constants()}
    assert stored["s"].astype(np.float64).tolist() == [2 * 2**-24, 2**-24, 0.5]
    assert stored["W_q"].tolist() == [[-95, 48, 95], [0, 0, 0], [-128, 127, 3]]


def test_a_row_that_is_masked_out_is_no_nan() -> None:
    """With -inf in place of the lowest float32 the softmax of a whole masked row is 0 / 0."""
    graph = _graph(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,3] scores, int64[2,3] mask) => (float[2,3] y)
        <float one = {1}, float lowest = {-3.4028235e38}> {
          m = Cast <to = 1> (mask)
          n = Sub (one, m)
          a = Mul (n, lowest)
          s = Add (scores, a)
          y = Softmax (s)
        }"""
    )
    mask = np.array([[0, 0, 0], [1, 0, 1]], np.int64)
    feeds: Feeds = {"scores": np.array([[1, 2, 3], [0, 5, 0]], np.float32), "mask": mask}
    _cast(graph)
    (y,) = _run(graph, feeds)
    assert y[1].tolist() == [0.5, 0, 0.5]
    assert y[0].sum() == pytest.approx(1, abs=2**-9)


def test_an_epsilon_still_guards_against_zero() -> None:
    """1e-12 cast to float16 is 0, and the norm of a row of zeros would be 0 / 0."""
    graph = _graph(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[N,4] x) => (float[N,4] y) <float least = {1e-12}, int64[1] last = {-1}> {
          n = ReduceL2 (x, last)
          c = Clip (n, least)
          y = Div (x, c)
        }"""
    )
    _cast(graph)
    (y,) = _run(graph, {"x": np.array([[0, 0, 0, 0], [3, 0, 0, 4]], np.float32)})
    assert y[0].tolist() == [0, 0, 0, 0]
    assert y[1] == pytest.approx([0.6, 0, 0, 0.8], rel=2**-10)


def test_positions_beyond_2048_keep_their_angles() -> None:
    """In float16 the angle 4095 is 4096, one radian away."""
    text = """<ir_version: 10, opset_import: ["" : 21]>
    g (float[1,1] q, int64[1,1] position) => (float[1,1] y) <float[1,1] frequency = {1}> {
      p = Cast <to = 1> (position)
      a = MatMul (p, frequency)
      c = Cos (a)
      y = Mul (q, c)
    }"""
    graph = _graph(text)
    _cast(graph)
    feeds: Feeds = {"q": np.ones((1, 1), np.float32), "position": np.array([[4095]], np.int64)}
    (y,) = _run(graph, feeds)
    assert float(y[0, 0]) == pytest.approx(np.cos(4095), abs=2**-11)


def test_lengths_stay_exact() -> None:
    """2049 is no float16."""
    graph = _graph(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[1,N] x) => (int64[1] n, float[1,N] y) <float three = {3}> {
          s = Shape <start = 1> (x)
          f = Cast <to = 1> (s)
          d = Mul (f, three)
          n = Cast <to = 7> (d)
          y = Relu (x)
        }"""
    )
    assert _cast(graph)
    n, _ = _run(graph, {"x": np.ones((1, 683), np.float32)})
    assert n.tolist() == [2049]


def test_a_constant_is_stored_once_for_each_type() -> None:
    """A graph output keeps its float32 constant; the others share one in float16."""
    graph = _graph(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2] x) => (float[2] y, float[2] k) <float[2] k = {1, 2}> {
          a = Add (x, k)
          b = Mul (a, k)
          y = Sub (k, b)
        }"""
    )
    _cast(graph)
    stored = {t.name: str(t.dtype) for t in graph.constants()}
    assert stored == {"k_half": "float16", "k": "float32"}


def test_constant_nodes_need_not_be_lifted_before() -> None:
    graph = _graph(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2] x) => (float[2] y) {
          k = Constant <value_float = 0.5> ()
          l = Constant <value = float[2] {1, 2}> ()
          m = Constant <value_floats = [3.0, 4.0]> ()
          a = Mul (x, k)
          b = Add (a, l)
          y = Sub (b, m)
        }"""
    )
    _cast(graph)
    assert [n.op for n in graph.nodes] == ["Cast", "Mul", "Add", "Sub", "Cast"]
    assert {str(t.dtype) for t in graph.constants()} == {"float16"}


def test_what_the_schema_does_not_know_stays() -> None:
    """An operator of another domain, and one that makes a sequence, read and write float32."""
    graph = _graph(
        """<ir_version: 10, opset_import: ["" : 21, "other" : 1]>
        g (float[2] x) => (float[2] y, float[2] z) <int64 first = {0}> {
          a = Tanh (x)
          b = other.Thing (a)
          s = SequenceConstruct (a, a)
          y = SequenceAt (s, first)
          z = Neg (b)
        }"""
    )
    _cast(graph)
    (thing,) = [n for n in graph.nodes if not is_standard(n)]
    (pack,) = [n for n in graph.nodes if n.op == "SequenceConstruct"]
    assert thing.inputs[0].dtype == np.float32
    assert all(t is thing.inputs[0] for t in pack.inputs)
    (unpack,) = [n for n in graph.nodes if n.op == "SequenceAt"]
    assert graph.is_output(unpack.outputs[0])


def test_a_shared_pair_is_cast_if_any_reader_is() -> None:
    """Q and DQ agree on their scale, so a pair has one type; the kept reader gets a Cast."""
    graph = _graph(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2] x) => (float[2] y) <float s = {0.1}, int8 z = {0}> {
          q = QuantizeLinear (x, s, z)
          d = DequantizeLinear (q, s)
          [kept] a = Exp (d)
          b = Tanh (d)
          y = Add (a, b)
        }"""
    )
    _cast(graph, "kept")
    types = {str(n.inputs[1].dtype) for n in graph.nodes if n.op.endswith("Linear")}
    assert types == {"float16"}


def test_keep_leaves_a_node_in_float32() -> None:
    graph = _prepared("mlp")
    kept = next(n for n in graph.nodes if n.op in ("Gemm", "MatMul"))
    _cast(graph, label(kept))
    same = next(n for n in graph.nodes if label(n) == label(kept))
    assert {str(t.dtype) for t in (*same.inputs, *same.outputs) if t.name} == {"float32"}
    assert _cast(graph, label(kept)) == 0


def test_options() -> None:
    assert parse_pass("cast-precision{to=float16 keep=a,b}") == CastPrecision(keep=("a", "b"))
    with pytest.raises(UsageError, match="float8"):
        CastPrecision(to="float8")
    with pytest.raises(InputError) as caught:
        _cast(_prepared("mlp"), "no such node")
    assert caught.value.where == "no such node"


def test_weights_on_disk(tmp_path: Path) -> None:
    """Constants made while weights are spilled come out the same."""
    memory, disk = _prepared("residual"), _prepared("residual")
    disk.spill()
    for graph in (memory, disk):
        _cast(graph)
    emit(disk, tmp_path / "disk.onnx")
    reloaded = load(tmp_path / "disk.onnx")
    for tensor, twin in zip(memory.constants(), reloaded.constants(), strict=True):
        assert tensor.name == twin.name
        assert np.array_equal(memory.values(tensor), reloaded.values(twin))


def test_integer_and_narrow_constants_are_left() -> None:
    """Only float32 is cast; bfloat16 and integers are somebody's choice."""
    model = parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (bfloat16[2] x) => (bfloat16[2] y) { y = Add (x, k) }"""
    )
    values = np.array([1, 2]).astype(ml_dtypes.bfloat16)
    model.graph.initializer.append(onnx.numpy_helper.from_array(values, "k"))
    graph = load(model)
    graph.infer()
    assert _cast(graph) == 0
    assert graph.proto().graph.initializer[0].data_type == TensorProto.BFLOAT16
