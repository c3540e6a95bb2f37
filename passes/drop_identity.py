"""Remove nodes that pass their input through.

``y = Identity(x)`` and, in inference, ``y = Dropout(x)`` give ``y = x``: their readers may as well
read ``x``.  An ``Identity`` between an initializer and a graph output, or between two names that
both must survive, stays: it is what carries the name.

A node in between hides a pattern from every other pass and from TensorRT's fusions (rule P9 of the
users' complaints: an ``Identity`` between DQ and Conv loses the INT8 kernel).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.graph import Graph, Node
from qcompiler.pipeline import Effect, Pass


@dataclass(frozen=True)
class DropIdentity(Pass):
    """``Identity(x) -> x``, ``Dropout(x) -> x``, ``Cast`` to the type it has ``-> x``."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"

    def run(self, graph: Graph) -> int:
        """Remove every pass-through node whose removal renames nothing that must keep its name."""
        count = 0
        for node in graph.nodes:
            if not _passes_through(graph, node):
                continue
            source, result = node.inputs[0], node.outputs[0]
            if graph.is_pinned(result):
                producer = graph.producer(source)
                if producer is None or graph.is_pinned(source):
                    continue
            graph.replace(result, source)
            count += 1
        return count


def _passes_through(graph: Graph, node: Node) -> bool:
    if node.domain:
        return False
    if node.op == "Identity":
        return True
    if node.op == "Cast":
        return node.inputs[0].dtype is not None and node.inputs[0].dtype == node.outputs[0].dtype
    if node.op != "Dropout" or any(t.name for t in node.outputs[1:]):
        return False
    if graph.opset < 12:
        return True
    training = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    return training is None or (
        graph.is_constant(training) and not bool(graph.values(training).any())
    )
