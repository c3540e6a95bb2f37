"""Which values does a loop add up, one iteration after the other?

The sum ``s' = s + f (x)`` that a ``Loop`` or ``Scan`` carries has as many terms as there are
iterations, and nobody knows how many that will be: in a type with unit u it stops growing after
1 / u terms of one size (2048 in float16, 256 in bfloat16).  So does a running mean or product.  A
state that is computed anew, as ``h' = tanh (W h + x)``, forgets its roundings.

A carried value is such a sum if it reaches its own next value through nothing but additions,
products of elements, and what moves data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from qcompiler import ops
from qcompiler.bodies import CARRIED, is_link
from qcompiler.graph import Graph, Node, Tensor

_SUMS = frozenset({"Add", "Sub", "Sum", "Mul", "Div"})
_PASSES = frozenset({"Cast", "Concat", "Where", "Neg", "ScatterND", "ScatterElements"})


def sums(graph: Graph) -> dict[int, Node]:
    """The nodes of a flat graph that carry a running sum on, by identity and in graph order."""
    found: set[int] = set()
    for node in graph.nodes:
        if is_link(node) and node.op == CARRIED:
            found |= _way(graph, node)
    return {id(n): n for n in graph.nodes if id(n) in found}


def _way(graph: Graph, link: Node) -> set[int]:
    """The link of a carried value and the nodes from it to its next value; none if none adds."""
    ahead = _walk(link.outputs[:1], lambda t: (u for u, _ in graph.users(t)), lambda n: n.outputs)
    behind = _walk(link.inputs[1:2], lambda t: t.inputs, lambda n: n.inputs)
    both = {k: n for k, n in ahead.items() if k in behind}
    return {*both, id(link)} if any(n.op in _SUMS for n in both.values()) else set()


def _walk(
    start: Iterable[Tensor],
    nodes: Callable[[Tensor], Iterable[Node]],
    tensors: Callable[[Node], Iterable[Tensor]],
) -> dict[int, Node]:
    """Everything within reach of some tensors through nodes that add or pass on."""
    found: dict[int, Node] = {}
    stack = list(start)
    while stack:
        for node in nodes(stack.pop()):
            if id(node) not in found and _adds_or_passes(node):
                found[id(node)] = node
                stack += tensors(node)
    return found


def _adds_or_passes(node: Node) -> bool:
    standard = ops.is_standard(node) and (node.op in _SUMS or node.op in _PASSES)
    return standard or is_link(node) or ops.moves_data(node)
