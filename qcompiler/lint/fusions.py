"""What TensorRT makes one kernel of, in graphs that Q/DQ pairs may have been put into.

Attention (rules F01 to F07) is two products of computed tensors with a softmax between them::

    Y = Softmax(Q K^T * c + mask) V

Composites (rules E09, E12, E13) are the gates, norms and GELUs that exporters write out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from qcompiler import ops
from qcompiler.graph import Graph, Node, Tensor
from qcompiler.lint import reading as r
from qcompiler.verify import DEQUANTIZE, QUANTIZE

# Between the first product and the softmax, and between the softmax and the second product.
_SCORES = frozenset({"Add", "Sub", "Mul", "Div", "Where", "Cast", "Identity", "Reshape", "Expand"})
_PROBABILITIES = frozenset({"Cast", "Identity", "Where", "IsNaN", "Dropout"})
_GATES = frozenset({"Sigmoid", "HardSigmoid"})
_FAR = 8


@dataclass(frozen=True, eq=False)
class Attention:
    """One attention, and where it is quantized.

    Attributes:
        first: ``Q K^T``.
        softmax: Its softmax.
        second: The product with V.
        query: DQ of Q; None if Q is float.
        key: DQ of K.
        probabilities: DQ between the softmax and the second product.
        value: DQ of V.
        scores: DQs between the first product and the softmax, or beside them (the mask).
        result: Q of the result, past what only moves data.
    """

    first: Node
    softmax: Node
    second: Node
    query: Node | None
    key: Node | None
    probabilities: Node | None
    value: Node | None
    scores: tuple[Node, ...]
    result: Node | None

    @property
    def factors(self) -> dict[str, Node | None]:
        """The four factors of the two products by name, each with its DQ."""
        return {
            "query": self.query,
            "key": self.key,
            "softmax output": self.probabilities,
            "value": self.value,
        }

    @property
    def storage(self) -> str:
        """Type of the codes of all four factors; empty if one is float or they differ."""
        kinds = {"" if d is None else r.storage(d) for d in self.factors.values()}
        return kinds.pop() if len(kinds) == 1 else ""

    @property
    def head(self) -> int | None:
        """Elements of a query; None if it is not fixed."""
        return r.extent(self.first.inputs[0], -1)

    @property
    def queries(self) -> int | None:
        """Number of queries; None if it is not fixed."""
        return r.extent(self.first.outputs[0], -2)

    @property
    def keys(self) -> int | None:
        """Number of keys; None if it is not fixed."""
        return r.extent(self.first.outputs[0], -1)


def attentions(graph: Graph) -> Iterator[Attention]:
    """Every attention of a graph, in the order of their softmax."""
    for node in graph.nodes:
        if node.op != "Softmax" or not ops.is_standard(node):
            continue
        beside: list[Node] = []
        first = _product(graph, node.inputs[0], beside, _FAR)
        second = _reader(graph, node.outputs[0])
        if first is not None and second is not None:
            yield _attention(graph, node, first, second, beside)


def _attention(
    graph: Graph, softmax: Node, first: Node, second: Node, beside: list[Node]
) -> Attention:
    probabilities = graph.producer(second.inputs[0])
    while probabilities is not None and probabilities.op in _PROBABILITIES:
        probabilities = graph.producer(probabilities.inputs[0])
    quantized = probabilities is not None and probabilities.op == DEQUANTIZE
    return Attention(
        first=first,
        softmax=softmax,
        second=second,
        query=r.dequantizer(graph, first.inputs[0]),
        key=r.dequantizer(graph, first.inputs[1]),
        probabilities=probabilities if quantized else None,
        value=r.dequantizer(graph, second.inputs[1]),
        scores=tuple(beside),
        result=_quantizer(graph, second.outputs[0]),
    )


def _product(graph: Graph, tensor: Tensor, beside: list[Node], left: int) -> Node | None:
    """The product of two computed tensors that gives the scores; notes the DQs on the way."""
    node = graph.producer(tensor)
    if node is None or left == 0:
        return None
    if node.op == "MatMul" and all(r.constant(graph, t) is None for t in node.inputs):
        return node
    if node.op == DEQUANTIZE:
        beside.append(node)
    if node.op in (QUANTIZE, DEQUANTIZE):
        return _product(graph, node.inputs[0], beside, left)
    if node.op not in _SCORES:
        return None
    found = [_product(graph, t, beside, left - 1) for t in node.inputs if t.name]
    return next((f for f in found if f is not None), None)


def _reader(graph: Graph, tensor: Tensor) -> Node | None:
    """The product whose left factor is the softmax."""
    for _ in range(_FAR):
        users = graph.users(tensor)
        product = next((n for n, i in users if n.op == "MatMul" and i == 0), None)
        if product is not None:
            return product
        passes = _PROBABILITIES | {QUANTIZE, DEQUANTIZE}
        step = next((n for n, _ in users if n.op in passes and n.op != "IsNaN"), None)
        if step is None:
            return None
        tensor = step.outputs[0]
    return None


def _quantizer(graph: Graph, tensor: Tensor) -> Node | None:
    """The Q that alone reads a tensor, past what only moves data or narrows it."""
    for _ in range(_FAR):
        users = [n for n, _ in graph.users(tensor)]
        quantize = next((n for n in users if n.op == QUANTIZE), None)
        if quantize is not None:
            return quantize
        if len(users) != 1 or not r.is_transparent(graph, users[0]):
            return None
        tensor = users[0].outputs[0]
    return None


def composite(graph: Graph, quantize: Node) -> str:
    """What the pair of a Q cuts in two: ``a gate``, ``GELU``, ``a norm`` or ``Softmax``; or empty.

    Looks for the operators that stand only inside of these: Q behind the gate of a product, beside
    Erf, Pow, Sqrt or Exp, or between a mean and the difference from it.
    """
    made = graph.producer(quantize.inputs[0])
    before = "" if made is None else made.op
    after = {u.op for d in r.readers(graph, quantize) for u in r.readers(graph, d)}
    if before in _GATES and "Mul" in after:
        return "a gate"
    around = after | {before}
    if "Erf" in around:
        return "GELU"
    if around & {"Pow", "Sqrt"} or (before == "ReduceMean" and "Sub" in after):
        return "a norm"
    return "Softmax" if "Exp" in around else ""
