"""Giving a constant operand of a node new values, where that changes nothing else."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcompiler.graph import Graph, Node, Tensor
from qcompiler.weights import Array


def write(graph: Graph, node: Node, slot: int, values: Array) -> None:
    """Give a slot new values: under the old name if nobody else reads that constant."""
    old = node.inputs[slot]
    if len(graph.users(old)) == 1 and not graph.is_pinned(old):
        graph.make_constant(old, values)
    else:
        graph.set_input(node, slot, graph.const(old.name, values))


def rounded(values: NDArray[np.float64], like: Tensor) -> Array | None:
    """Values rounded to a tensor's type; None if they overflow it (FP16 ends at 65504)."""
    with np.errstate(over="ignore"):
        narrow = values.astype(like.dtype)
    return narrow if np.isfinite(narrow.astype(np.float64)).all() else None
