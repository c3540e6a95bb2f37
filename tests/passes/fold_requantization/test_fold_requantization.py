"""Which codes come back: every code, many scales, and the runtimes' own arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qcompiler.backends import tensorrt
from qcompiler.load import load
from qcompiler.passes.fold_requantization import FoldRequantization, returns_every_code
from qcompiler.passes.merge_qdq import MergeQdq
from qcompiler.pipeline import Pipeline
from qcompiler.verify import check_onnx

INT8, UINT8 = np.dtype(np.int8), np.dtype(np.uint8)
FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
HALF, BRAIN = np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)
SINGLE = np.dtype(np.float32)
Tensor = NDArray[Any]


def positive(dtype: np.dtype[Any]) -> Tensor:
    """Every positive finite number of a 16-bit float type."""
    every = np.arange(1, 1 << 15, dtype=np.uint16).view(dtype)
    return every[np.isfinite(every.astype(np.float32))]


def zeros(scale: Tensor, codes: np.dtype[Any], value: int = 0) -> Tensor:
    return np.full(scale.shape, value).astype(codes)


@pytest.mark.parametrize(("codes", "zero"), [(INT8, 0), (INT8, -128), (UINT8, 0), (UINT8, 255)])
def test_every_normal_significand_of_fp32(codes: np.dtype[Any], zero: int) -> None:
    """The bound of the docstring does not depend on the exponent: 2^15 significands, at three."""
    fraction = np.linspace(1, 2, 1 << 14, endpoint=False, dtype=np.float32)
    fraction = np.concatenate([fraction, np.nextafter(fraction, np.float32(2))])
    for power in (-126, -7, 100):
        scale = np.ldexp(fraction, power)
        assert returns_every_code(scale, zeros(scale, codes, zero), codes)


@pytest.mark.parametrize(("codes", "zero"), [(INT8, 0), (INT8, 127), (UINT8, 255), (UINT8, 7)])
def test_every_normal_scale_of_fp16(codes: np.dtype[Any], zero: int) -> None:
    """All 8-bit codes come back unless a product overflows; FP16 ends at 65504."""
    scale = positive(HALF)
    info = np.iinfo(codes)
    most = max(info.max - zero, zero - info.min)
    tiny = float(np.finfo(np.float16).tiny)
    wide = scale.astype(np.float64)
    fits = (wide >= tiny) & (wide * most < 65504 + 16)
    assert returns_every_code(scale[fits], zeros(scale[fits], codes, zero), codes)
    # A product that overflows comes back as the outermost code, which is right for that one only.
    over = scale[wide * (most - 1) >= 65504 + 16]
    lost = [not returns_every_code(s[None], zeros(s[None], codes, zero), codes) for s in over[::97]]
    assert all(lost)


@pytest.mark.parametrize("dtype", [HALF, BRAIN, SINGLE])
def test_every_scale_for_fp8(dtype: np.dtype[Any]) -> None:
    """Four bits of significand survive two roundings, wherever products are normal."""
    scale = positive(BRAIN).astype(np.float32) if dtype == SINGLE else positive(dtype)
    # Least normal number and largest number of the type; 2^-9 is the least positive code, 448 the
    # largest.
    least, most = (2.0**-14, 65504.0) if dtype == HALF else (2.0**-126, 3.38e38)
    wide = scale.astype(np.float64)
    fits = (wide * 2.0**-9 >= least) & (wide * 448 <= most)
    assert returns_every_code(scale[fits], zeros(scale[fits], FP8), FP8)


def test_bf16_loses_codes_of_some_scales_and_none_of_powers_of_two() -> None:
    """Its 8 bits are as many as a code has: two roundings can step over half a code."""
    scale = positive(BRAIN)
    wide = scale.astype(np.float64)
    scale = scale[(wide >= 1) & (wide < 2)]
    kept = [returns_every_code(s[None], zeros(s[None], INT8), INT8) for s in scale]
    assert kept[0]
    assert not all(kept)


@pytest.mark.parametrize("scale", [1e-45, 1e-44, 1.1754942e-38])
def test_subnormal_products_of_integers_are_exact(scale: float) -> None:
    """``k s`` is a multiple of the least subnormal number, and a quotient of equals."""
    s = np.array(scale, np.float32)
    assert returns_every_code(s, zeros(s, INT8), INT8)


@pytest.mark.parametrize("scale", [1e38, 3e36, float(np.finfo(np.float32).max)])
def test_a_scale_whose_products_overflow_is_refused(scale: float) -> None:
    s = np.array(scale, np.float32)
    assert not returns_every_code(s, zeros(s, INT8), INT8)


@pytest.mark.parametrize("codes", [np.int16, np.int32, ml_dtypes.int4, ml_dtypes.float8_e5m2])
def test_other_codes_are_refused(codes: type[Any]) -> None:
    one = np.array(1.0, np.float32)
    assert not returns_every_code(one, zeros(one, np.dtype(codes)), np.dtype(codes))


def requantized(scale: Tensor, zero: Tensor, *, move: bool) -> ModelProto:
    """``codes -> [Identity ->] DQ [-> Transpose] -> Q``, and DQ of the result."""
    code_type = helper.np_dtype_to_tensor_dtype(zero.dtype)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["c"]),
        helper.make_node("DequantizeLinear", ["c", "s", "z"], ["v"]),
        helper.make_node("Transpose", ["v"], ["t"]),
        helper.make_node("QuantizeLinear", ["t" if move else "v", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["d", "s", "z"], ["y"]),
    ]
    kind = helper.np_dtype_to_tensor_dtype(scale.dtype)
    assert code_type in (TensorProto.INT8, TensorProto.UINT8)
    graph = helper.make_graph(
        nodes if move else [n for n in nodes if n.op_type != "Transpose"],
        "g",
        [helper.make_tensor_value_info("x", kind, [16, 16])],
        [helper.make_tensor_value_info("y", kind, [16, 16])],
        [numpy_helper.from_array(scale, "s"), numpy_helper.from_array(zero, "z")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


@settings(deadline=None, max_examples=60)
@given(
    exponent=st.floats(-20, 4),
    codes=st.sampled_from([INT8, UINT8]),
    kind=st.sampled_from([HALF, SINGLE]),
    offset=st.integers(0, 255),
    move=st.booleans(),
)
def test_bit_for_bit_in_both_runtimes(
    exponent: float, codes: np.dtype[Any], kind: np.dtype[Any], offset: int, move: bool
) -> None:
    """The folded model gives the very bits of the original, on all 256 codes and beyond."""
    scale = np.array(2.0**exponent).astype(kind)
    zero = np.array(offset + np.iinfo(codes).min).astype(codes)
    before = requantized(scale, zero, move=move)
    graph = load(before)
    graph.infer()
    (step,) = Pipeline((FoldRequantization(),)).run(graph)
    assert step.rewrites == int(returns_every_code(scale, zero, codes))
    after = graph.proto()
    assert check_onnx(graph) == ""
    steps = np.arange(256).reshape(16, 16) + np.iinfo(codes).min - int(zero)
    x = (steps * scale.astype(np.float64)).astype(kind)
    for run in (_reference, _runtime):
        assert run(before, x).tobytes() == run(after, x).tobytes()


def _reference(model: ModelProto, x: Tensor) -> Tensor:
    outputs = ReferenceEvaluator(model).run(None, {"x": x})
    assert isinstance(outputs, list)
    return np.asarray(outputs[0])


def _runtime(model: ModelProto, x: Tensor) -> Tensor:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


def test_dedicated_pairs_behind_a_move_become_one() -> None:
    """A pair for each reader: all Q go, and their DQ, equal now, are merged."""
    model = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]>
        g (float[2,3] x) => (float[3,2] y, float[3,2] w) <float s = {0.5}, int8 z = {0}>
        {
          a = QuantizeLinear (x, s, z)
          v = DequantizeLinear (a, s, z)
          t = Transpose (v)
          b = QuantizeLinear (t, s, z)
          c = QuantizeLinear (t, s, z)
          d = DequantizeLinear (b, s, z)
          e = DequantizeLinear (c, s, z)
          y = Neg (d)
          w = Abs (e)
        }"""
    )
    graph = load(model)
    graph.infer()
    first, second = Pipeline((FoldRequantization(), MergeQdq())).run(graph)
    assert (first.rewrites, second.rewrites) == (2, 1)
    expected = ["QuantizeLinear", "Transpose", "DequantizeLinear", "Neg", "Abs"]
    assert [n.op for n in graph.nodes] == expected


MOVES = (
    "Split <axis = 1, num_outputs = 2>",
    "Reshape",
    "Transpose <perm = [0, 2, 1]>",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "Flatten",
    "Expand",
)
CONSTANTS = {"Reshape": "flat", "Slice": "zero, two, zero", "Expand": "shape"}


def chain(moves: tuple[str, ...]) -> str:
    """A pair in front of, between and behind movements of [2, 6], in ONNX text."""
    text = "c0 = QuantizeLinear (x, s, z) v0 = DequantizeLinear (c0, s, z)"
    for i, move in enumerate(moves):
        op, _, attrs = move.partition(" ")
        operands = ", ".join(filter(None, [f"v{i}", CONSTANTS.get(op, _operand(op))]))
        results = f"m{i}, left" if op == "Split" else f"m{i}"
        text += f" {results} = {op} {attrs} ({operands})"
        text += f" c{i + 1} = QuantizeLinear (m{i}, s, z)"
        text += f" v{i + 1} = DequantizeLinear (c{i + 1}, s, z)"
    return f"""<ir_version: 10, opset_import: ["" : 21]>
    g (float[2,6] x) => (float[] y)
    <float s = {{0.5}}, int8 z = {{0}}, int64[1] zero = {{0}}, int64[1] two = {{2}},
     int64[2] flat = {{3, 4}}, int64[3] shape = {{3, 2, 6}}> {{ {text} y = Abs (v{len(moves)}) }}"""


def _operand(op: str) -> str:
    return "zero" if op in ("Squeeze", "Unsqueeze") else ""


@pytest.mark.parametrize("move", MOVES)
def test_tensorrt_takes_moved_codes(move: str, tmp_path: Path) -> None:
    """Every operator of the list, on computed INT8 codes."""
    moves = ("Unsqueeze", move) if "perm" in move or move == "Squeeze" else (move,)
    graph = load(_declared(chain(moves)))
    graph.infer()
    (step,) = Pipeline((FoldRequantization(),)).run(graph)
    assert step.rewrites == len(moves)
    assert [n.op for n in graph.nodes].count("QuantizeLinear") == 1
    onnx.save(graph.proto(), tmp_path / "model.onnx")
    assert tensorrt.build(tmp_path / "model.onnx").errors == ()


@pytest.mark.parametrize(
    ("nodes", "kind"),
    [
        ("c0 = QuantizeLinear (x, s, z) m = Slice (c0, zero, two, zero)", "float8e4m3fn"),
        ("c0 = QuantizeLinear (x, s, z) m = Unsqueeze (c0, zero)", "float8e4m3fn"),
        ("m = Gather (W, zero)", "int8"),
    ],
)
def test_tensorrt_refuses_what_is_not_moved(nodes: str, kind: str, tmp_path: Path) -> None:
    """FP8 codes but for Reshape and Transpose, and constant codes: why these stay."""
    code = np.int8 if kind == "int8" else ml_dtypes.float8_e4m3fn
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
    g (float[2,6] x) => (float[] y) <float s = {{0.5}}, int64[1] zero = {{0}}, int64[1] two = {{2}}>
    {{ {nodes} v = DequantizeLinear (m, s, z) w = Abs (v) u = ReduceMax <keepdims = 0> (x)
       y = Add (w, u) }}"""
    model = _declared(text, z=np.zeros((), code), W=np.ones((4, 6), code))
    onnx.save(model, tmp_path / "model.onnx")
    verdict = tensorrt.build(tmp_path / "model.onnx")
    assert verdict.stage == "build"
    assert "allowed before DQ" in verdict.errors[0] or "not consumed" in verdict.errors[0]


def _declared(text: str, **constants: Tensor) -> ModelProto:
    """A model of text; what nobody reads is left out, and the output gets its shape."""
    model = onnx.parser.parse_model(text)
    model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in constants.items())
    read = {name for node in model.graph.node for name in node.input}
    kept = [t for t in model.graph.initializer if t.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(model, data_prop=True)
