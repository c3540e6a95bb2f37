"""Parts of a projection that become the heads of an attention: a Reshape, then a Transpose."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from qcompiler.graph import Graph, Node, Tensor
from qcompiler.linear import sole_reader
from qcompiler.ops import is_standard

Perm = tuple[int, ...]


def sole(graph: Graph, tensor: Tensor, op: str) -> Node | None:
    """The only reader of a tensor's values, if it has this operator and reads it as its data."""
    reader = sole_reader(graph, tensor)
    if reader is None or reader[1] != 0 or reader[0].op != op or not is_standard(reader[0]):
        return None
    return reader[0]


def perm_of(transpose: Node) -> Perm:
    """The permutation of a Transpose; without one it reverses the axes."""
    rank = len(transpose.inputs[0].shape or ())
    return tuple(transpose.attrs.get("perm", range(rank)[::-1]))


def tail_of(reshape: Node) -> list[int]:
    """The lengths that a Reshape makes of the last axis; empty if it does anything else.

    What it does to the axes before does not matter: a Reshape keeps the order of the elements, so
    every row of the result is one of the source.
    """
    before, after = reshape.inputs[0].shape, reshape.outputs[0].shape
    if not before or not after or len(after) < len(before):
        return []
    tail = after[len(before) - 1 :]
    known = [n for n in tail if isinstance(n, int)]
    return known if len(known) == len(tail) and math.prod(known) == before[-1] else []


def heads_of(graph: Graph, parts: Sequence[Tensor]) -> list[tuple[Node, Node]] | None:
    """The Reshape and the Transpose of each part, if all parts are reshaped alike.

    Args:
        graph: The graph, with inferred shapes.
        parts: Tensors of one shape, ``[..., N]``.
    """
    found: list[tuple[Node, Node]] = []
    for part in parts:
        reshape = sole(graph, part, "Reshape")
        turn = None if reshape is None else sole(graph, reshape.outputs[0], "Transpose")
        if reshape is None or turn is None or not _alike(graph, reshape, found):
            return None
        found.append((reshape, turn))
    return found


def _alike(graph: Graph, reshape: Node, found: Sequence[tuple[Node, Node]]) -> bool:
    if not tail_of(reshape):
        return False
    if not found:
        return True
    first = found[0][0]
    if reshape.attrs != first.attrs or tail_of(reshape) != tail_of(first):
        return False
    wanted, other = reshape.inputs[1], first.inputs[1]
    if graph.is_constant(wanted) and graph.is_constant(other):
        return np.array_equal(graph.values(wanted), graph.values(other))
    shape = reshape.outputs[0].shape or []
    return wanted is other or (None not in shape and shape == first.outputs[0].shape)
