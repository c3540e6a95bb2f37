"""What each graph input means, read from the structure of the graph, never from its name.

* ids: integers that index the rows of a constant table (``Gather`` axis 0), possibly through casts
  and reshapes;
* a KV cache: a float tensor whose length, a symbolic axis, a ``Concat`` extends by computed values,
  or that an attention operator reads;
* a mask: integers or booleans that reach a comparison, ``Where``, ``Not``, ``Sub`` or ``Mul``
  before anything else, or a float tensor that is added to attention scores;
* everything else: floats are data, integers are lengths, positions or flags.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qcompiler import ops
from qcompiler.data.spec import InputSpec, Role
from qcompiler.graph import Graph, Node, Tensor

_VIEWS = frozenset(
    {
        "Cast",
        "Reshape",
        "Unsqueeze",
        "Squeeze",
        "Flatten",
        "Identity",
        "Transpose",
        "Expand",
        "Slice",
    }
)
_MASKING = frozenset(
    {"Where", "Not", "And", "Or", "Equal", "Greater", "Less", "GreaterOrEqual", "LessOrEqual",
     "Sub", "Mul", "ReduceSum", "CumSum"}
)  # fmt: skip


def input_specs(graph: Graph) -> tuple[InputSpec, ...]:
    """One ``InputSpec`` for each input of a graph with inferred shapes, in the graph's order."""
    return tuple(_spec(graph, t) for t in graph.inputs)


def _spec(graph: Graph, tensor: Tensor) -> InputSpec:
    shape = (
        None if tensor.shape is None else tuple(d or None if d == "" else d for d in tensor.shape)
    )
    if tensor.dtype is None or tensor.dtype.kind in "OSU":
        return InputSpec(tensor.name, np.dtype(object), shape, Role.OTHER)
    if tensor.dtype.kind in "iub":
        return _integer(graph, tensor, shape)
    role = Role.FLOAT
    if _is_cache(graph, tensor, shape):
        role = Role.CACHE
    elif _is_score_mask(graph, tensor):
        role = Role.MASK
    return InputSpec(tensor.name, tensor.dtype, shape, role)


def _integer(graph: Graph, tensor: Tensor, shape: tuple[int | str | None, ...] | None) -> InputSpec:
    assert tensor.dtype is not None
    rows = next(_tables(graph, tensor), None)
    if rows is not None:
        return InputSpec(tensor.name, tensor.dtype, shape, Role.TOKENS, rows)
    masks = any(n.op in _MASKING for n, _ in _readers(graph, tensor))
    return InputSpec(tensor.name, tensor.dtype, shape, Role.MASK if masks else Role.INTEGER)


def _readers(graph: Graph, tensor: Tensor, depth: int = 8) -> Iterator[tuple[Node, int]]:
    """Nodes that read a tensor, looking through views of it."""
    for node, index in graph.users(tensor):
        if depth and ops.is_standard(node) and node.op in _VIEWS and index == 0:
            yield from _readers(graph, node.outputs[0], depth - 1)
        else:
            yield node, index


def _tables(graph: Graph, tensor: Tensor) -> Iterator[int]:
    """Row counts of the constant tables that a tensor indexes."""
    for node, index in _readers(graph, tensor):
        table = node.inputs[0]
        if node.op == "Gather" and index == 1 and int(node.attrs.get("axis", 0)) == 0:
            shape = table.shape
            if graph.is_constant(table) and shape and len(shape) >= 1 and isinstance(shape[0], int):
                yield shape[0]


def _is_cache(graph: Graph, tensor: Tensor, shape: tuple[int | str | None, ...] | None) -> bool:
    if shape is None or len(shape) < 3 or tensor.dtype is None:
        return False
    # An image that is concatenated to a feature map grows in channels, not in length.
    length = InputSpec(tensor.name, tensor.dtype, shape, Role.CACHE).length_axis
    if length is None:
        return False
    for node, _ in graph.users(tensor):
        extends = node.op == "Concat" and int(node.attrs.get("axis", 0)) % len(shape) == length
        if extends and any(t.inputs for t in node.inputs if t is not tensor):
            return True
        if node.op in ("Attention", "GroupQueryAttention", "MultiHeadAttention"):
            return True
    return False


def _is_score_mask(graph: Graph, tensor: Tensor) -> bool:
    """Whether every reader adds the tensor, or a view of it, to what a Softmax reads next."""
    readers = [node for node, _ in _readers(graph, tensor)]
    after = [graph.sole_user(n.outputs[0]) if n.op == "Add" else None for n in readers]
    return bool(readers) and all(n is not None and n.op == "Softmax" for n in after)
