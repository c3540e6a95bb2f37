"""The tail of a 16-bit graph: what still computes behind the last product, for a float32 output.

::

    before   scores = float(half(Softmax(x)))          boxes = float(half(half(a b) + half(c)))
    after    scores = Softmax(float(x))                boxes = float(a) b + c

An output in float32 that holds a value of 16 bits was rounded for nothing: scores near 1 are
multiples of 2^-11 and tie, a coordinate of 300 pixels is off by an eighth.  The Cast moves from the
end of the tail to its start and costs nothing there: TensorRT fuses Casts into elementwise kernels
(rule G05; an island of elementwise operators adds no kernel in builds of tensorrt-rtx 1.7.1).

The tail ends, seen from the outputs, at operators that multiply, reduce or convolve, and wherever
another reader than the tail wants the value.  What only moves values or picks some of them is exact
in any type: it belongs to the tail behind an operator that rounds, not in front of it.  Nor does an
elementwise operator right behind a product: that is part of the product's kernel, which computes it
in float32 and rounds once.
"""

from __future__ import annotations

from qcompiler import ops
from qcompiler.graph import Graph, Node, label
from qcompiler.narrow import FLOAT
from qcompiler.plan import Io

_ROUNDS = (ops.ELEMENTWISE - {"Relu"}) | {
    "Exp", "HardSigmoid", "HardSwish", "Log", "Mish", "Pow", "Reciprocal", "Softplus", "Sqrt",
}  # fmt: skip
_NORMALIZES = frozenset({"LogSoftmax", "Softmax"})
_PICKS = frozenset({"Clip", "Concat", "Max", "Min", "Neg", "Relu", "Where"})
_WHY = "an output in float32 is computed from it without another product: rounding it gains nothing"


def tail(graph: Graph, io: Io = "keep") -> dict[str, str]:
    """Node -> why it stays in float32, in graph order.

    Args:
        graph: The prepared graph, with types inferred.
        io: What becomes of the types of its outputs; there is no tail in front of float16.
    """
    if io == "float16":
        return {}
    outputs = {id(t) for t in graph.outputs}
    behind: set[int] = set()
    for node in reversed(graph.nodes):
        if _may_belong(node) and all(
            not graph.is_captured(t)
            and (id(t) in outputs or graph.users(t))
            and all(id(u) in behind for u, _ in graph.users(t))
            for t in node.outputs
            if t.name
        ):
            behind.add(id(node))
    found: dict[int, Node] = {}
    for node in graph.nodes:
        makers = (graph.producer(t) for t in node.inputs)
        if id(node) in behind and (
            _rounds(graph, node) or any(m is not None and id(m) in found for m in makers)
        ):
            found[id(node)] = node
    return {label(n): _WHY for n in found.values()}


def _rounds(graph: Graph, node: Node) -> bool:
    """Whether the result of a node, rounded to 16 bits, is not what its kernel has anyway."""
    if node.op in _NORMALIZES:
        return True
    makers = [graph.producer(t) for t in node.inputs]
    return node.op in _ROUNDS and not any(m is not None and ops.is_weighted(m) for m in makers)


def _may_belong(node: Node) -> bool:
    if not ops.is_standard(node) or any(t.dtype != FLOAT for t in node.outputs if t.name):
        return False
    return node.op in _ROUNDS | _NORMALIZES | _PICKS or ops.moves_data(node)
