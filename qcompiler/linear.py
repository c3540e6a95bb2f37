"""A linear operator with a constant weight, seen through its channels.

What ``fold-scales`` needs to know of Conv, ConvTranspose, Gemm and MatMul alike: which axis of the
weight, of the data and of the result counts the channels, and what a constant input gives; and,
``fold-norm-scales`` too, of the element-wise nodes beside them: by what they scale and shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from qcompiler.graph import Graph, Node, Tensor
from qcompiler.match import is_float

F64: TypeAlias = NDArray[np.float64]

SCALAR_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
"""Operators that commute with a scalar factor, and that one is carried through."""

_CONVOLUTIONS = ("Conv", "ConvTranspose")
# Readers that see the shape of a tensor, not its values.
_BLIND = ("Shape", "Size")


@dataclass(frozen=True, eq=False)
class Affine:
    """``data * scale + shift`` with constants as stored; None for 1 and 0."""

    data: Tensor
    constant_slot: int
    scale: F64 | None
    shift: F64 | None

    @property
    def is_scalar_factor(self) -> bool:
        """Whether it only multiplies, and by one number."""
        return self.shift is None and self.scale is not None and self.scale.size == 1

    @property
    def rank(self) -> int:
        """Rank of the data; 0 if unknown, which lets only 0-D constants pass."""
        return 0 if self.data.shape is None else len(self.data.shape)


def affine_of(graph: Graph, node: Node) -> Affine | None:
    """An element-wise node with one floating-point constant operand, as scale and shift."""
    if node.op not in ("Mul", "Div", "Add", "Sub") or node.domain or len(node.inputs) != 2:
        return None
    slots = [i for i, t in enumerate(node.inputs) if graph.is_constant(t)]
    if len(slots) != 1 or not is_float(node.inputs[slots[0]], double=True):
        return None
    slot = slots[0]
    c = np.asarray(graph.values(node.inputs[slot]), np.float64)
    pair = _scale_and_shift(node.op, c, constant_first=slot == 0)
    if pair is None or not all(v is None or np.isfinite(v).all() for v in pair):
        return None
    return Affine(node.inputs[1 - slot], slot, *pair)


def _scale_and_shift(
    op: str, c: F64, *, constant_first: bool
) -> tuple[F64 | None, F64 | None] | None:
    if op == "Mul":
        return c, None
    if op == "Add":
        return None, c
    if op == "Sub":
        return (np.full((), -1.0), c) if constant_first else (None, -c)
    return None if constant_first or (c == 0).any() else (1 / c, None)


def vector_of(c: F64 | None, rank: int, axis: int, count: int) -> F64 | None:
    """A constant as a vector of 1 or ``count`` elements; None if it varies along other axes.

    Args:
        c: The constant as stored, broadcast against data of that rank.
        rank: Rank of the data.
        axis: Channel axis of the data; negative counts from the end.
        count: Number of channels.
    """
    if c is None or c.ndim > rank or c.size not in (1, count):
        return None
    shape = (1,) * (rank - c.ndim) + c.shape
    return c.reshape(-1) if c.size == 1 or shape[axis] == count else None


def sole_reader(graph: Graph, tensor: Tensor) -> tuple[Node, int] | None:
    """The one (node, slot) that reads a tensor's values; None if there are more or it is pinned."""
    users = [(n, i) for n, i in graph.users(tensor) if n.op not in _BLIND or n.domain]
    return users[0] if len(users) == 1 and not graph.is_pinned(tensor) else None


def upstream(graph: Graph, tensor: Tensor) -> Tensor | None:
    """Where the data come from, through data movement that nobody else looks into."""
    while True:
        if sole_reader(graph, tensor) is None:
            return None
        node = graph.producer(tensor)
        if node is None or node.op not in SCALAR_MOVES or node.domain:
            return tensor
        tensor = node.inputs[0]


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear op with a constant weight; for a MatMul together with the Add of its bias.

    Attributes:
        node: The op; its slot 0 is the data, slot 1 the weight.
        bias: (node, slot) that holds the bias, or None without one.
        result: What it computes, bias included.
    """

    node: Node
    bias: tuple[Node, int] | None
    result: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(int(n or 0) for n in self.node.inputs[1].shape or ())

    @property
    def groups(self) -> int:
        """The ``group`` attribute."""
        return int(self.node.attrs.get("group", 1))

    @property
    def is_convolution(self) -> bool:
        """Whether the data have space behind their channels."""
        return self.node.op in _CONVOLUTIONS

    def weight_axis(self, side: int) -> int:
        """The weight's output (side 0) or input (side 1) axis, within a group."""
        turned = self.node.op == "Conv" or bool(self.node.attrs.get("transB", 0))
        return side if turned else 1 - side

    def channels(self, side: int) -> int:
        """Number of output or input channels: axis 1 of a convolution's weight is per group."""
        axis = self.weight_axis(side)
        return self.shape[axis] * (self.groups if self.is_convolution and axis == 1 else 1)

    def data_axis(self, side: int) -> int:
        """Channel axis of the result or the data."""
        if self.is_convolution:
            return 1
        return 0 if side and self.node.attrs.get("transA", 0) else -1

    def result_rank(self) -> int:
        """Rank of the result; 1, which is true of a row of it, if unknown."""
        if self.node.op != "MatMul":
            return len(self.shape)
        return 1 if self.result.shape is None else len(self.result.shape)

    def sums_everywhere(self) -> bool:
        """Whether every output element sums over the whole weight: no padding, no stride gaps."""
        if not self.is_convolution:
            return True
        attrs = self.node.attrs
        unpadded = attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        return self.node.op == "Conv" and unpadded and not any(attrs.get("pads", ()))

    def grouped(self, values: F64) -> F64:
        """The weight as ``[groups, axis 0 of a group, axis 1, ...]``."""
        return values.reshape(self.groups, values.shape[0] // self.groups, *values.shape[1:])

    def along(self, vector: F64, side: int) -> F64:
        """A vector over channels, shaped to broadcast against ``grouped``."""
        shape = [1] * (len(self.shape) + 1)
        if vector.size > 1:
            shape[0], shape[1 + self.weight_axis(side)] = self.groups, -1
        return vector.reshape(shape)

    def response(self, values: F64, vector: F64) -> F64:
        """``W t``: the output, by channel, to an input that is constant in each channel."""
        product = self.grouped(values) * self.along(vector, 1)
        kept = (0, 1 + self.weight_axis(0))
        total: F64 = product.sum(axis=tuple(i for i in range(product.ndim) if i not in kept))
        return total.reshape(-1)


def linear_of(graph: Graph, node: Node) -> Linear | None:
    """The linear op that a node is, if its weight is a constant."""
    if node.domain or node.op not in (*_CONVOLUTIONS, "Gemm", "MatMul"):
        return None
    weight = node.inputs[1]
    if not graph.is_constant(weight) or not is_float(weight, double=True):
        return None
    rank = len(weight.shape or ())
    if rank < 3 if node.op in _CONVOLUTIONS else rank != 2:
        return None
    if node.op == "MatMul":
        return _with_bias(graph, Linear(node, None, node.outputs[0]))
    has_bias = len(node.inputs) > 2 and bool(node.inputs[2].name)
    return Linear(node, (node, 2) if has_bias else None, node.outputs[0])


def _with_bias(graph: Graph, matmul: Linear) -> Linear:
    reader = sole_reader(graph, matmul.result)
    step = None if reader is None or reader[0].op != "Add" else affine_of(graph, reader[0])
    if reader is None or step is None:
        return matmul
    if vector_of(step.shift, matmul.result_rank(), -1, matmul.channels(0)) is None:
        return matmul
    add = reader[0]
    return Linear(matmul.node, (add, step.constant_slot), add.outputs[0])
