"""Scaled dot-product attention as exporters write it out.

::

    S = (a Q) @ transpose(b K) * c + mask         P = Softmax(S)         Y = P @ V

The scale is split over Q and K by ``F.scaled_dot_product_attention`` in TorchScript and dynamo
exports, and one ``Mul`` or ``Div`` of the scores in hand-written attention; any of a, b, c may be
missing.  The mask is a float one that is added, or a Boolean one that selects between the scores
and minus infinity.  Torch guards the softmax of a fully masked row by ``Where(IsNaN(P), 0, P)``.
Grouped queries repeat K and V before all this, which does not change its form.  The operator
``Attention``, which exporters write from opset 23 on, takes this form by ``expand-attention``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from qcompiler.graph import Graph, Node
from qcompiler.match import Match, Pattern, any_of, matches, number, op, optional, scalar, var

SCALED = ("query", "key", "score")
"""What may be multiplied by ``<name>_times`` or divided by ``<name>_over``."""


def _scaled(place: str) -> Callable[[Pattern], Pattern]:
    """A step that multiplies or divides by a constant."""
    return lambda p: any_of(
        op("Mul")(p, scalar(f"{place}_times")), op("Div")(p, scalar(f"{place}_over"))
    )


def _turned(key: Pattern) -> Pattern:
    """``[B, H, T, D] -> [B, H, D, T]``; by way of ``[B H, T, D]`` in dynamo exports up to 22."""
    turn = op("Transpose").named("turned")
    flat = op("Reshape")(key, var("flat"))
    return any_of(turn(key), op("Reshape")(turn(flat), var("whole")))


def _pattern() -> Pattern:
    query = optional(_scaled("query"), var("query"))
    key = any_of(_turned(_scaled("key")(var("key"))), optional(_scaled("key"), _turned(var("key"))))
    scores = optional(_scaled("score"), op("MatMul").named("scores")(query, key))
    masked = any_of(
        op("Add")(scores, var("bias")),
        op("Where")(var("keep"), scores, number(-math.inf)),
        scores,
    )
    soft = op("Softmax").named("soft")(masked)
    guarded = optional(lambda p: op("Where")(op("IsNaN")(p), number(0.0), p), soft)
    return op("MatMul")(guarded, var("value"))


PATTERN = _pattern()
"""Names its tensors ``query``, ``key``, ``value``, ``turned``, ``scores``, ``soft``, ``bias`` or
``keep``, and the scalars of ``SCALED``; its result is that of the second product."""


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention.

    Attributes:
        scores: ``Q K^T``, a ``MatMul``.
        result: ``P V``, a ``MatMul``.
    """

    scores: Node
    result: Node

    @property
    def nodes(self) -> tuple[Node, Node]:
        """Both products, in graph order."""
        return self.scores, self.result

    @property
    def head(self) -> int | None:
        """D, elements of a query; None if it is not fixed."""
        return _fixed(self.scores, 0, -1)

    @property
    def queries(self) -> int | None:
        """Queries that attend; None if their number is not fixed."""
        return _fixed(self.scores, 0, -2)

    @property
    def keys(self) -> int | None:
        """Keys that are attended to; None if their number is not fixed."""
        return _fixed(self.scores, 1, -1)


def attentions(graph: Graph) -> Iterator[Attention]:
    """Every attention of a graph whose types were inferred; heads are the second axis of four."""
    for found in matches(graph, PATTERN):
        attention = _attention(graph, found)
        if attention is not None:
            yield attention


def _attention(graph: Graph, found: Match) -> Attention | None:
    scores = graph.producer(found["scores"])
    ranks = {len(t.shape or ()) for n in (scores, found.node) if n for t in n.inputs}
    return Attention(scores, found.node) if scores is not None and ranks == {4} else None


def _fixed(node: Node, index: int, axis: int) -> int | None:
    shape = node.inputs[index].shape
    size = shape[axis] if shape else None
    return size if isinstance(size, int) else None
