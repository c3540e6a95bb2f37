"""Facts about operators that quantization needs; no decisions.

Sources: the ONNX operator pages for slots and axes; TensorRT rule D06 for the output-channel axis
of a weight; rules E01 and E18 for the operators that only move data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from qcompiler.graph import Graph, Node, Shape, Tensor


@dataclass(frozen=True)
class WeightedOp:
    """Where a linear operator keeps its operands.

    Attributes:
        data: Input index of the activation.
        weight: Input index of the weight.
        bias: Input index of the bias, or None.
    """

    data: int = 0
    weight: int = 1
    bias: int | None = 2


WEIGHTED = {
    "Conv": WeightedOp(),
    "ConvTranspose": WeightedOp(),
    "Gemm": WeightedOp(),
    "MatMul": WeightedOp(bias=None),
}

ELEMENTWISE = frozenset(
    {"Add", "Div", "Elu", "Erf", "Gelu", "Mul", "Relu", "Sigmoid", "Sub", "Swish", "Tanh"}
)
"""Operators that compute with the elements of a tensor where they are."""

# y holds the same numbers as x, or some of them: the scale of x serves y (rules E01, E18).
_MOVES = frozenset(
    {
        "MaxPool", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split",
        "Gather", "Expand", "Tile", "Identity", "DepthToSpace", "SpaceToDepth",
    }
)  # fmt: skip
_RESHAPES = frozenset({"Reshape", "Transpose", "Unsqueeze", "Squeeze"})
_GLOBAL_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool"})
_GATES = frozenset({"Sigmoid", "HardSigmoid", "Tanh"})


def is_standard(node: Node) -> bool:
    """Whether a node belongs to ONNX's default operator set."""
    return node.domain in (None, "", "ai.onnx")


def is_weighted(node: Node) -> bool:
    """Whether a node is one of the four linear operators with a weight slot."""
    return is_standard(node) and node.op in WEIGHTED


def weight_slot(graph: Graph, node: Node) -> int | None:
    """Input index of the constant operand of a linear operator; None if both are computed.

    ``MatMul`` is symmetric: its constant may be on the left.
    """
    if not is_weighted(node):
        return None
    slot = WEIGHTED[node.op]
    if graph.is_constant(node.inputs[slot.weight]):
        return slot.weight
    if node.op == "MatMul" and graph.is_constant(node.inputs[0]):
        return 0
    return None


def weight_axis(node: Node, slot: int, rank: int) -> int:
    """The output-channel axis of a weight (rule D06).

    ``Conv [O, I/g, ...]`` 0, ``ConvTranspose [I, O/g, ...]`` 1, ``Gemm`` B ``[N, K]`` with transB 0
    and ``[K, N]`` 1, ``MatMul`` right operand ``[..., K, N]`` last, left one ``[..., M, K]`` last
    but one.
    """
    if node.op == "Conv":
        return 0
    if node.op == "ConvTranspose":
        return 1
    if node.op == "Gemm":
        return 0 if node.attrs.get("transB", 0) else 1
    return rank - 1 if slot == 1 else rank - 2


def groups(node: Node) -> int:
    """The ``group`` attribute of a convolution."""
    return int(node.attrs.get("group", 1))


def is_depthwise(node: Node, weight_shape: tuple[int, ...]) -> bool:
    """Whether a convolution has one input channel a group and more than one group."""
    return node.op == "Conv" and groups(node) > 1 and weight_shape[1] == 1


def reduction_length(node: Node, slot: int, shape: tuple[int, ...]) -> int:
    """K: how many products one output element sums."""
    if node.op == "Conv":
        return math.prod(shape[1:])
    if node.op == "ConvTranspose":
        return shape[0] // groups(node) * math.prod(shape[2:])
    if node.op == "Gemm":
        return shape[1] if node.attrs.get("transB", 0) else shape[0]
    return shape[-2] if slot == 1 else shape[-1]


def moves_data(node: Node) -> bool:
    """Whether a node's first input and outputs hold the same values in another order (or fewer).

    ``Resize`` in nearest mode and ``Pad`` by reflection or repetition belong to them; ``Pad`` with
    a constant only when the constant is zero, which every symmetric scale represents.
    """
    if not is_standard(node):
        return False
    if node.op in _MOVES:
        return True
    mode = node.attrs.get("mode")
    if node.op in ("Resize", "Upsample"):
        return mode in (None, "nearest")
    return node.op == "Pad" and (mode in ("reflect", "edge", "wrap") or len(node.inputs) < 3)


def moved_source(node: Node) -> list[Tensor]:
    """Tensors that a data-moving node passes on whole: all inputs of Concat, else the first.

    Of ``Split`` none: its parts may have ranges of their own, as query, key and value have that
    come from one projection, and nothing is gained if they are rounded alike.
    """
    if is_standard(node) and node.op == "Concat":
        return [t for t in node.inputs if t.name]
    return [node.inputs[0]] if moves_data(node) and node.op != "Split" else []


def in_gate(graph: Graph, node: Node) -> bool:
    """Whether a linear operator sits inside a squeeze-excite gate (rule E09).

    ``pool -> [linear -> activation]* -> Sigmoid -> Mul``: forward from the operator a sigmoid-like
    node must follow through single-reader element-wise nodes and linears, backward a global pool.
    ``x * Sigmoid(x)`` counts as one activation.
    """
    return _pooled_before(graph, node) and _gate_after(graph, node)


def _pooled_before(graph: Graph, node: Node) -> bool:
    for _ in range(8):
        producer = graph.producer(node.inputs[0])
        if producer is None or not is_standard(producer):
            return False
        if producer.op in _GLOBAL_POOLS or _reduces_space(producer):
            return True
        source = _self_gated(graph, producer)
        if source is not None:
            producer = source
        elif not (is_weighted(producer) or len([t for t in producer.inputs if t.inputs]) == 1):
            return False
        node = producer
    return False


def _self_gated(graph: Graph, node: Node) -> Node | None:
    """The gate of ``x * gate(x)``, which reads x; None if the node is no such product."""
    if node.op != "Mul":
        return None
    for x, gate in (node.inputs, node.inputs[::-1]):
        producer = graph.producer(gate)
        if producer is not None and producer.op in _GATES and producer.inputs[0] is x:
            return producer
    return None


def _reduces_space(node: Node) -> bool:
    if node.op != "ReduceMean":
        return False
    shape = node.inputs[0].shape
    return shape is not None and len(shape) == 4


def _gate_after(graph: Graph, node: Node) -> bool:
    for _ in range(8):
        user = graph.sole_user(node.outputs[0]) or _self_gate_after(graph, node.outputs[0])
        if user is None or not is_standard(user):
            return False
        if user.op in _GATES or user.op == "Clip":
            after = graph.sole_user(user.outputs[0])
            if after is not None and after.op in ("Mul", "Div"):
                return True
        node = user
    return False


def _self_gate_after(graph: Graph, tensor: Tensor) -> Node | None:
    """The product ``x * gate(x)`` if it and its gate are all that reads x."""
    users = [node for node, _ in graph.users(tensor)]
    if len(users) != 2 or graph.is_pinned(tensor):
        return None
    for product, gate in (users, users[::-1]):
        if _self_gated(graph, product) is gate:
            return product
    return None


def splits_evenly(graph: Graph, node: Node) -> bool:
    """Whether the result of a matrix product is split into equal parts that are then reshaped.

    It is the merged projection of query, key and value: past a constant bias, reshaped and
    transposed, it goes into a ``Split`` and nowhere else.  Two forms are no such thing, because
    compilers leave their ``Split`` where it is: parts that are computed with as they are (gate and
    up of a gated MLP), and parts that keep the axis of the cut in a ``Transpose`` each.
    """
    user = graph.sole_user(node.outputs[0])
    while user is not None and (user.op in _RESHAPES or _adds_constant(graph, user)):
        user = graph.sole_user(user.outputs[0])
    if user is None or not is_standard(user) or user.op != "Split" or len(user.outputs) < 2:
        return False
    if all(_stays(graph, part) for part in user.outputs):
        return False
    if len(user.inputs) < 2 or not user.inputs[1].name:
        return True
    sizes = user.inputs[1]
    return graph.is_constant(sizes) and len(set(graph.values(sizes).tolist())) == 1


def _stays(graph: Graph, part: Tensor) -> bool:
    """Whether all that reads a part of a Split computes with it, or transposes it, as it is."""
    readers = [reader.op for reader, _ in graph.users(part)]
    kept = all(op == "Transpose" or op in ELEMENTWISE for op in readers)
    return kept and bool(readers) and not graph.is_pinned(part)


def _adds_constant(graph: Graph, node: Node) -> bool:
    return node.op == "Add" and any(graph.is_constant(t) for t in node.inputs)


def static(shape: Shape | None) -> tuple[int, ...] | None:
    """A shape as integers, or None if any dimension is symbolic or unknown."""
    if shape is None or not all(isinstance(d, int) for d in shape):
        return None
    return tuple(int(d) for d in shape if isinstance(d, int))


def constant_shape(tensor: Tensor) -> tuple[int, ...]:
    """The shape of a constant."""
    return tuple(int(d) for d in tensor.shape or () if isinstance(d, int))
