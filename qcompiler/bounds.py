"""Ranges that follow from what an operator reads, so that they need not be measured.

::

    moved, bounded     y is between the least and the largest of x and zero: Reshape, Relu, Max
    unit               y is within [-1, 1]: Sigmoid, Softmax, the output of an LSTM
    a link             y is one of its inputs (``qcompiler/bodies.py``)
    the cell of LSTM   |c'| <= |c| + 1 in every step
    the state of GRU   |h'| <= max (|h|, 1)

The first two are not measured at all.  The others are, but what was never run is not, and then
this is what there is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler import ops
from qcompiler.bodies import LINK, is_link
from qcompiler.graph import Graph, Node

# Results lie between those of the operands and zero, whatever the operands are.
_CONTAINED = frozenset(
    {
        "Abs", "AveragePool", "Cast", "Celu", "Clip", "Concat", "Elu", "Gelu", "GlobalMaxPool",
        "HardSwish", "Max", "MaxPool", "Min", "Mish", "Neg", "ReduceMax", "ReduceMin", "Relu",
        "Selu", "Swish", "Trilu", "Where",
    }
)  # fmt: skip
# Results lie within [-1, 1].
_UNIT = frozenset({"Cos", "Erf", "HardSigmoid", "Sigmoid", "Sin", "Softmax", "Softsign", "Tanh"})
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_CELL = 2


@dataclass(frozen=True)
class Range:
    """Extremes of a tensor."""

    low: float
    high: float

    @property
    def peak(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))


def is_unit(node: Node) -> bool:
    """Whether all results lie within [-1, 1] whatever is read."""
    return ops.is_standard(node) and node.op in _UNIT


def is_contained(node: Node) -> bool:
    """Whether the results never exceed what is read, or 1."""
    return is_unit(node) or (
        ops.is_standard(node) and (node.op in _CONTAINED or ops.moves_data(node))
    )


def hull(ranges: Sequence[Range]) -> Range | None:
    """The range of all values of some tensors, and of zero; None of no tensors."""
    if not ranges:
        return None
    return Range(min(0.0, *(r.low for r in ranges)), max(0.0, *(r.high for r in ranges)))


def follows(node: Node) -> bool:
    """Whether ``inferred`` has something to say of a node, if all that it reads is known."""
    if is_link(node):
        return node.op == LINK
    if not ops.is_standard(node):
        return False
    recurrent = node.op in _RECURRENT and "activations" not in node.attrs
    return recurrent or node.op == "ConstantOfShape"


def inferred(graph: Graph, node: Node, index: int, read: Sequence[Range]) -> Range | None:
    """The range of one result of a node that was not run.

    Args:
        graph: The flat graph.
        node: One that ``follows``.
        index: Which result.
        read: What is known of its inputs.
    """
    if node.op == LINK:
        return hull(read)
    if node.op == "ConstantOfShape":
        value = graph.attribute(node, "value") if "value" in node.attrs else np.zeros(1)
        return Range(float(value.min()), float(value.max()))
    peak = max((r.peak for r in read), default=0.0)
    if node.op == "GRU":
        return Range(-max(peak, 1.0), max(peak, 1.0))
    if index != _CELL:
        return Range(-1.0, 1.0)
    shape = node.inputs[0].shape
    steps = shape[0] if shape and isinstance(shape[0], int) else 1
    return Range(-peak - steps, peak + steps)
