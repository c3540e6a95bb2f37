"""fold-scales on random linear ops in FP64, where folding is exact to a few units of 2^-53."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qcompiler.load import load
from qcompiler.passes.fold_scales import FoldScales

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A linear op, its operands, and on which axis its input and output have channels."""

    op: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    attrs: dict[str, Any]
    channels: tuple[int, int]
    axes: tuple[int, int]


def convolution(transposed: bool, groups: int, pad: int) -> Case:
    ins, outs = 2 * groups, 3 * groups
    w = (ins, 3, 2, 2) if transposed else (outs, 2, 2, 2)
    attrs: dict[str, Any] = {"group": groups, "pads": [pad] * 4}
    op = "ConvTranspose" if transposed else "Conv"
    return Case(op, (2, ins, 4, 3), w, attrs, (ins, outs), (1, 1))


def gemm(trans_a: int, trans_b: int) -> Case:
    x, w = ((4, 2), (2, 4))[trans_a], ((4, 3), (3, 4))[trans_b]
    x = (4, 2) if trans_a else (2, 4)
    attrs: dict[str, Any] = {"transA": trans_a, "transB": trans_b}
    return Case("Gemm", x, w, attrs, (4, 3), (0 if trans_a else 1, 1))


CASES = st.one_of(
    st.builds(convolution, st.just(False), st.integers(1, 2), st.integers(0, 1)),
    st.builds(convolution, st.just(True), st.just(1), st.integers(0, 1)),
    st.builds(gemm, st.integers(0, 1), st.integers(0, 1)),
    st.sampled_from([(2, 4), (2, 3, 4), (4,)]).map(
        lambda x: Case("MatMul", x, (4, 3), {}, (4, 3), (len(x) - 1, len(x) - 1))
    ),
)


def build(
    case: Case, constant: F64, op: str, *, after: bool, first: bool, bias: F64 | None
) -> ModelProto:
    """The linear op with an element-wise op of a constant behind or before it."""
    linear_in, linear_out = ("x", "a") if after else ("a", "y")
    inputs = [linear_in, "w", *([] if bias is None or case.op == "MatMul" else ["b"])]
    nodes = [helper.make_node(case.op, inputs, [linear_out], **case.attrs)]
    if bias is not None and case.op == "MatMul":
        nodes = [helper.make_node(case.op, inputs, ["m"], **case.attrs)]
        nodes.append(helper.make_node("Add", ["b", "m"], [linear_out]))
    data, result = ("a", "y") if after else ("x", "a")
    operands = ["c", data] if first else [data, "c"]
    nodes.insert(len(nodes) if after else 0, helper.make_node(op, operands, [result]))
    weight = np.random.default_rng(1).standard_normal(case.w)
    constants: dict[str, F64] = {"w": weight, "c": constant}
    if bias is not None:
        constants["b"] = bias
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, case.x)],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def single(model: ModelProto) -> ModelProto:
    """The same model in FP32, which is what ONNX Runtime has convolutions for."""
    graph = model.graph
    for proto in graph.initializer:
        proto.CopyFrom(
            numpy_helper.from_array(numpy_helper.to_array(proto).astype(np.float32), proto.name)
        )
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT
    return model


def run(model: ModelProto, x: F64) -> F64:
    outputs = ReferenceEvaluator(model).run(None, {"x": x})
    assert isinstance(outputs, list)
    return np.asarray(outputs[0])


@settings(deadline=None, max_examples=150)
@given(
    case=CASES,
    op=st.sampled_from(["Mul", "Div", "Add", "Sub"]),
    after=st.booleans(),
    first=st.booleans(),
    by_channel=st.booleans(),
    with_bias=st.booleans(),
)
def test_the_function_stays_and_folding_happens_where_the_algebra_allows(
    case: Case, op: str, after: bool, first: bool, by_channel: bool, with_bias: bool
) -> None:
    """Both sides of every op: the exact conditions of the module's docstring."""
    rng = np.random.default_rng(7)
    side = 1 if after else 0
    rank = len(case.x)
    shape = [1] * rank
    if by_channel:
        shape[case.axes[side]] = case.channels[side]
    constant = rng.uniform(0.5, 2.0, shape)
    bias = rng.standard_normal(case.channels[1]) if with_bias else None
    model = build(case, constant, op, after=after, first=first, bias=bias)
    x = rng.standard_normal(case.x)
    expected = run(model, x)
    graph = load(model)
    graph.infer()
    rewrites = FoldScales().run(graph)
    graph.sweep()
    actual = run(graph.proto(), x)
    # At most 40 products and 4 roundings each side of the equation.
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=100 * 2.0**-53 * np.abs(expected).max()
    )
    shifts = op in ("Add", "Sub")
    possible = not (op == "Div" and first)
    if shifts and case.op == "MatMul":
        possible = with_bias
    if shifts and not after and case.op in ("Conv", "ConvTranspose"):
        possible = case.op == "Conv" and not any(case.attrs["pads"])
    assert rewrites == int(possible)


@pytest.mark.parametrize("after", [True, False])
def test_grouped_transposed_convolution(after: bool) -> None:
    """Group g of the outputs lies at row block g, column j; onnx.reference 1.23 cannot run it."""
    case = convolution(True, 2, 1)
    rng = np.random.default_rng(3)
    constant = rng.uniform(0.5, 2.0, (case.channels[int(after)], 1, 1))
    model = single(
        build(case, constant, "Mul", after=after, first=False, bias=rng.standard_normal(6))
    )
    graph = load(model)
    graph.infer()
    assert FoldScales().run(graph) == 1
    graph.sweep()
    x = rng.standard_normal(case.x).astype(np.float32)
    before, folded = (
        np.asarray(
            ort.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(
                None, {"x": x}
            )[0]
        )
        for m in (model, graph.proto())
    )
    np.testing.assert_allclose(folded, before, rtol=0, atol=20 * 2.0**-24 * np.abs(before).max())


@pytest.mark.parametrize("c", [np.full((3, 1), 2.0), np.full((2, 3), 2.0), np.full((1, 1, 1), 2.0)])
def test_constants_of_other_shapes_stay(c: F64) -> None:
    """Varying over rows, over everything, or of a rank that the result would take on."""
    case = Case("MatMul", (c.shape[0] if c.ndim == 2 else 2, 4), (4, 3), {}, (4, 3), (1, 1))
    graph = load(build(case, c, "Mul", after=True, first=False, bias=None))
    graph.infer()
    assert FoldScales().run(graph) == 0


def test_division_by_zero_stays() -> None:
    case = Case("MatMul", (2, 4), (4, 3), {}, (4, 3), (1, 1))
    graph = load(build(case, np.array([1.0, 0.0, 1.0]), "Div", after=True, first=False, bias=None))
    graph.infer()
    assert FoldScales().run(graph) == 0
