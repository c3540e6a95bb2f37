"""Multiply-accumulates of a linear node, from the shapes in the graph."""

from __future__ import annotations

import math

from qcompiler import ops
from qcompiler.graph import Graph, Node, Tensor


def macs(graph: Graph, node: Node, batch: int) -> int:
    """Multiply-accumulates: elements of the result times the length of the sum.

    ``Attention`` multiplies twice: queries by keys, and weights by values, ``2 |Q| S`` for ``S``
    keys. Of a ``ConvTranspose`` each input element meets every tap of its group.

    Args:
        graph: With types inferred.
        node: ``Conv``, ``ConvTranspose``, ``Gemm``, ``MatMul`` or ``Attention``.
        batch: Size of every symbolic or unknown dimension.

    Returns:
        The count; 0 if a shape it needs is unknown.
    """
    shapes = [_shape(t, batch) for t in node.inputs]
    result = _shape(node.outputs[0], batch)
    if result is None or len(shapes) < 2 or shapes[0] is None or shapes[1] is None:
        return 0
    data, weight = shapes[0], shapes[1]
    if node.op == "Attention":
        return 2 * math.prod(data) * _keys(weight, shapes)
    if node.op == "ConvTranspose":
        return math.prod(data) * math.prod(weight[1:])
    if node.op == "MatMul":
        return math.prod(result) * (data[-1] if data else 1)
    return math.prod(result) * ops.reduction_length(node, 1, weight)


def _keys(key: tuple[int, ...], shapes: list[tuple[int, ...] | None]) -> int:
    """Number of keys, those in the cache (input 4) included."""
    past = shapes[4] if len(shapes) > 4 else None
    return (key[-2] if len(key) > 1 else 1) + (past[-2] if past else 0)


def _shape(tensor: Tensor, batch: int) -> tuple[int, ...] | None:
    if not tensor.name or tensor.shape is None:
        return None
    return tuple(d if isinstance(d, int) and d >= 0 else batch for d in tensor.shape)
