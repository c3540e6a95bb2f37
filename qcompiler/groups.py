"""Which tensors must share a scale: union-find over the operators that only move data.

Tensors that hold the same values in another order have one scale, and all inputs of a Concat have
that of its output (rules E01, E07): else a requantization stands between them.
"""

from __future__ import annotations

from qcompiler import ops
from qcompiler.graph import Graph


def shared_scales(graph: Graph, tensors: list[str]) -> dict[str, str]:
    """Tensor -> the first tensor of its group.

    Args:
        graph: With types inferred.
        tensors: Names, in graph order.
    """
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        while parent.setdefault(name, name) != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for node in graph.nodes:
        for source in ops.moved_source(node):
            if graph.is_constant(source) or source.dtype is None or source.dtype.kind != "f":
                continue
            for result in (t for t in node.outputs if t.dtype == source.dtype):
                parent[root(result.name)] = root(source.name)
    first: dict[str, str] = {}
    for name in tensors:
        first.setdefault(root(name), name)
    return {name: first[root(name)] for name in tensors}
