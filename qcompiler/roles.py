"""What a linear operator is for, as the structure tells: names are never looked at.

Two kinds are left in 16 bits by those who quantize language models (TensorRT-LLM and ModelOpt
exclude ``lm_head``, ``output_layer`` and ``router`` by name), for a wrong logit or a wrong expert
costs more than the bytes of one layer:

* the *language-model head* projects onto the vocabulary: its result goes to an output of the graph,
  and it has as many columns as some embedding table of the graph has rows;
* a *router* picks experts: its result goes into ``TopK`` or ``ArgMax``, a softmax or sigmoid
  between them or not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from qcompiler import ops
from qcompiler.graph import Graph, Node, Tensor

# What stands between logits and their use.
_NORMALIZES = frozenset({"Softmax", "LogSoftmax", "Sigmoid"})
_PASSES = frozenset({"Add", "Cast", "Mul", "Div"}) | _NORMALIZES
_PICKS = frozenset({"TopK", "ArgMax"})
_STEPS = 6


def kept(graph: Graph, node: Node, slot: int) -> str:
    """Why a linear operator stays out of low precision; empty if nothing speaks against it.

    Args:
        graph: With types inferred.
        node: A linear operator with a constant weight.
        slot: Input index of the weight.
    """
    if node.op not in ("MatMul", "Gemm"):
        return ""
    if _picks(graph, node):
        return "a router: what it picks must not change"
    if _is_head(graph, node, slot):
        return "the language-model head: its logits are what the model is judged by"
    return ""


def logits(graph: Graph) -> frozenset[str]:
    """Outputs of the graph that are what a language-model head computes, before any softmax."""
    found: set[str] = set()
    for node in graph.nodes:
        slot = ops.weight_slot(graph, node) if node.op in ("MatMul", "Gemm") else None
        if slot is not None and _is_head(graph, node, slot):
            made = _ahead(graph, node, _PASSES - _NORMALIZES)
            found.update(t.name for t in made if graph.is_output(t))
    return frozenset(found)


def _is_head(graph: Graph, node: Node, slot: int) -> bool:
    shape = ops.constant_shape(node.inputs[slot])
    columns = shape[ops.weight_axis(node, slot, len(shape))]
    return _reaches_output(graph, node) and columns in _vocabularies(graph)


def _vocabularies(graph: Graph) -> set[int]:
    """Rows of every embedding table: a constant matrix of floats that integers gather from."""
    return {
        ops.constant_shape(n.inputs[0])[0]
        for n in graph.nodes
        if n.op == "Gather" and ops.is_standard(n) and _is_table(graph, n.inputs[0])
    }


def _is_table(graph: Graph, tensor: Tensor) -> bool:
    """Whether a constant is a matrix of floats; a quantized one is a table, too."""
    producer = graph.producer(tensor)
    if producer is not None and producer.op == "DequantizeLinear":
        tensor = producer.inputs[0]
    return graph.is_constant(tensor) and len(ops.constant_shape(tensor)) == 2


def _reaches_output(graph: Graph, node: Node) -> bool:
    return any(graph.is_output(t) for t in _ahead(graph, node))


def _picks(graph: Graph, node: Node) -> bool:
    return any(u.op in _PICKS for t in _ahead(graph, node) for u, _ in graph.users(t))


def _ahead(graph: Graph, node: Node, through: Collection[str] = _PASSES) -> Iterator[Tensor]:
    """The result, and what is made of it by moving it, scaling it or normalizing it."""
    stack = [(node.outputs[0], _STEPS)]
    while stack:
        tensor, left = stack.pop()
        yield tensor
        for user, _ in graph.users(tensor):
            if left and ops.is_standard(user) and (user.op in through or ops.moves_data(user)):
                stack += [(t, left - 1) for t in user.outputs]
