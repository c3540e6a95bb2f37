"""fold-weight-moves on random weights, movements and granularities: not a bit may change."""

from __future__ import annotations

import math
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qcompiler.load import load
from qcompiler.passes.fold_weight_moves import FoldWeightMoves
from qcompiler.pipeline import Pipeline
from qcompiler.verify import check_onnx

Tensor = NDArray[Any]
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
CODES = st.sampled_from([np.int8, np.uint8, ml_dtypes.int4, ml_dtypes.float8_e4m3fn])


@st.composite
def moves(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[NodeProto, tuple[int, ...], Tensor]:
    """A node that moves a tensor of a shape, the shape it gives, and its constant operand."""
    kind = draw(st.sampled_from(["Transpose", "Reshape", "Flatten", "Unsqueeze", "Squeeze"]))
    none = np.zeros(0, np.int64)
    if kind == "Transpose":
        perm = draw(st.permutations(range(len(shape))))
        return helper.make_node(kind, ["w"], ["y"], perm=perm), tuple(shape[i] for i in perm), none
    if kind == "Flatten":
        axis = draw(st.integers(0, len(shape)))
        sides = (math.prod(shape[:axis]), math.prod(shape[axis:]))
        return helper.make_node(kind, ["w"], ["y"], axis=axis), sides, none
    if kind == "Unsqueeze":
        axis = draw(st.integers(0, len(shape)))
        longer = (*shape[:axis], 1, *shape[axis:])
        return helper.make_node(kind, ["w", "c"], ["y"]), longer, np.array([axis])
    if kind == "Squeeze":
        gone = [i for i, n in enumerate(shape) if n == 1]
        rest = tuple(n for n in shape if n != 1)
        return helper.make_node(kind, ["w", "c"], ["y"]), rest, np.array(gone, np.int64)
    after = draw(st.permutations(_factors(shape)).map(tuple))
    return helper.make_node(kind, ["w", "c"], ["y"]), after, np.array(after, np.int64)


def _factors(shape: tuple[int, ...]) -> list[int]:
    """Other lengths of the same product: 4 becomes 2 and 2, the rest stays."""
    return [f for n in shape for f in ((2, 2) if n == 4 else (n,))]


def build(
    after: tuple[int, ...], node: NodeProto, constants: dict[str, Tensor], attrs: dict[str, Any]
) -> ModelProto:
    """``y = move(DQ(W))`` and ``v = y + x``."""
    numbers = ["s", *(["z"] if "z" in constants else [])]
    nodes = [
        helper.make_node("DequantizeLinear", ["W", *numbers], ["w"], **attrs),
        node,
        helper.make_node("Add", ["y", "x"], ["v"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [])],
        [helper.make_tensor_value_info("v", TensorProto.FLOAT, after)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def run(model: ModelProto) -> Tensor:
    outputs = ReferenceEvaluator(model).run(None, {"x": np.float32(0.0)})
    assert isinstance(outputs, list)
    return np.asarray(outputs[0])


def _numbers(
    draw: st.DrawFn, shape: tuple[int, ...], code: type[Any]
) -> tuple[dict[str, Tensor], dict[str, int]]:
    """Scale, zero point and attributes: per tensor, per axis, or in blocks of 2."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    axis = draw(st.integers(0, len(shape) - 1))
    kind = draw(st.sampled_from(["tensor", "axis", "block"]))
    size: tuple[int, ...] = ()
    attrs: dict[str, int] = {}
    if kind == "axis":
        size, attrs = (shape[axis],), {"axis": axis}
    if kind == "block" and shape[axis] % 2 == 0:
        size = tuple(n // 2 if i == axis else n for i, n in enumerate(shape))
        attrs = {"axis": axis, "block_size": 2}
    numbers: dict[str, Tensor] = {"s": rng.uniform(0.5, 2, size).astype(np.float32)}
    if draw(st.booleans()):
        whole = code is not ml_dtypes.float8_e4m3fn
        numbers["z"] = (rng.integers(0, 5, size) if whole else np.zeros(size)).astype(code)
    return numbers, attrs


@settings(deadline=None, max_examples=300)
@given(data=st.data(), shape=SHAPES, code=CODES)
def test_the_bits_stay_and_axes_that_survive_are_followed(
    data: st.DataObject, shape: tuple[int, ...], code: type[Any]
) -> None:
    """Whatever is folded computes the same; a Transpose and one scale always fold."""
    node, after, operand = data.draw(moves(shape))
    numbers, attrs = data.draw(st.composite(_numbers)(shape, code))
    codes = (np.arange(math.prod(shape)).reshape(shape) % 8).astype(code)
    operands = {"c": operand} if len(node.input) > 1 else {}
    before = build(after, node, {"W": codes, **operands, **numbers}, attrs)
    expected = run(before)
    assert expected.shape == after
    graph = load(before)
    graph.infer()
    (step,) = Pipeline((FoldWeightMoves(),)).run(graph)
    assert run(graph.proto()).tobytes() == expected.tobytes()
    if node.op_type == "Transpose" or numbers["s"].ndim == 0:
        assert step.rewrites == 1
    if node.op_type in ("Unsqueeze", "Squeeze") and attrs and shape[attrs["axis"]] > 1:
        assert step.rewrites == 1
    if step.rewrites:
        assert check_onnx(graph) == ""
        assert [n.op for n in graph.nodes] == ["DequantizeLinear", "Add"]
