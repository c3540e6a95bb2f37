"""Give a constant that plays two roles one copy for each role.

A weight is quantized with one scale for each output channel, and which axis that is depends on the
node that reads it::

    before:  y = Gemm <transB = 0> (x, W)     z = Gemm <transB = 1> (x, W)     e = Gather(W, i)
    after:   y = Gemm <transB = 0> (x, W_1)   z = Gemm <transB = 1> (x, W_2)   e = Gather(W, i)

Per-channel scales on axis 1 serve the first reader, on axis 0 the second, and the third wants the
numbers as they are (the tied embedding of a language model).  With one tensor for all, quantizing
it for one reader would change what the others compute.  ``W_1 = W_2 = W``, so nothing changes yet.

Readers of the same role (one weight applied twice, as in a Siamese network) keep sharing.  The
other readers keep the original; a copy costs the tensor's bytes until it is quantized.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.graph import Graph, Node, Tensor
from qcompiler.ops import WEIGHTED, groups, is_weighted, weight_axis
from qcompiler.pipeline import Effect, Pass

# Output-channel axis and number of groups of a weighted slot; None for any other reader.
Role = tuple[int, int] | None


@dataclass(frozen=True)
class SplitSharedWeights(Pass):
    """``f(W), g(W) -> f(W), g(W_1)`` with ``W_1 = W`` where ``f`` and ``g`` read it differently."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"
    after: ClassVar[tuple[str, ...]] = ("lift-constants", "fold-constants", "fold-batch-norm")

    def run(self, graph: Graph) -> int:
        """Copy every constant of two roles; count the copies."""
        return sum(_split(graph, t) for t in tuple(graph.constants()) if graph.is_constant(t))


def _split(graph: Graph, tensor: Tensor) -> int:
    rank = len(tensor.shape or ())
    if rank < 2:
        return 0
    readers: dict[Role, list[tuple[Node, int]]] = {}
    if graph.is_pinned(tensor):
        readers[None] = []
    for node, index in graph.users(tensor):
        readers.setdefault(_role(node, index, rank), []).append((node, index))
    stays = None if None in readers else next(iter(readers))
    moving = [slots for role, slots in readers.items() if role != stays]
    for slots in moving:
        copy = graph.const(f"{tensor.name}_copy", graph.values(tensor))
        for node, index in slots:
            graph.set_input(node, index, copy)
    return len(moving)


def _role(node: Node, index: int, rank: int) -> Role:
    if not is_weighted(node):
        return None
    slots = (0, 1) if node.op == "MatMul" else (WEIGHTED[node.op].weight,)
    if index not in slots:
        return None
    return weight_axis(node, index, rank), groups(node) if node.op == "ConvTranspose" else 1
