"""Which Q its producer is expected to take along, and which is a kernel of its own.

Documented for full TensorRT: Q moves backwards over data movement (rule E01), a quantized product
writes low precision if nothing but an activation stands between it and its Q (rules D20 to D22), a
residual Add goes with its convolution if the skip comes from DQ (rule E04), a pool runs in low
precision between DQ and Q or not at all (rules E02, E03), a reduction in float (rule E08); what a
generated kernel computes element by element or row by row takes its Q along. TensorRT for RTX
differs in one point: none of its convolutions writes 8 bits, and of its products only one without
a bias does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from qcompiler import ops
from qcompiler.engine.predicted_products import Product
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.lint import reading as r
from qcompiler.targets.base import Target
from qcompiler.verify import DEQUANTIZE, QUANTIZE

FOLDED, OWN, EMULATED, UNKNOWN = "folded", "own", "emulated", "unknown"
SEEN = "tensorrt-rtx 1.7.1"
_CLAMPS = frozenset({"Relu", "Clip"})
_POINTWISE = frozenset(
    {
        "Abs", "Add", "Cast", "Ceil", "Clip", "Div", "Elu", "Erf", "Exp", "Floor", "Gelu",
        "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul",
        "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Softplus",
        "Sqrt", "Sub", "Swish", "Tanh", "Where",
    }
)  # fmt: skip
_ROWS = frozenset({"LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax"})
_POOLS = frozenset({"AveragePool", "MaxPool"})
_REDUCTIONS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceSum"})
_ON_CODES = frozenset({"Add", "AveragePool", "Clip", "Concat", "MaxPool", "Relu", "Resize"})
_FAR = 12


@dataclass(frozen=True)
class Fate:
    """What becomes of one Q.

    Attributes:
        fate: ``folded``, ``own``, ``emulated`` or ``unknown``.
        producer: The node that computes its input, past data movement; empty for a graph input.
        reason: What decides it.
        source: Rule id or document.
        confidence: ``tried``, ``documented`` or ``reported``.
        verified: Library and release whose builds showed it; empty if none did.
    """

    fate: str
    producer: str
    reason: str
    source: str
    confidence: str = "documented"
    verified: str = ""


def is_pointwise(node: Node) -> bool:
    """Whether a node works element by element."""
    return ops.is_standard(node) and node.op in _POINTWISE


def fates(graph: Graph, products: Mapping[str, Product], target: Target) -> dict[str, Fate]:
    """QuantizeLinear of a computed tensor -> its fate, in the order of the graph.

    Args:
        graph: With inferred types.
        products: What becomes of the linear nodes.
        target: Whose rules hold.
    """
    ask = _Asked(graph, products, tried=target.family == "tensorrt-rtx")
    return {
        label(n): ask.quantizer(n)
        for n in graph.nodes
        if n.op == QUANTIZE and r.constant(graph, n.inputs[0]) is None
    }


@dataclass(frozen=True)
class _Asked:
    """One graph, its products, and whether the rules of TensorRT for RTX hold."""

    graph: Graph
    products: Mapping[str, Product]
    tried: bool

    def quantizer(self, node: Node) -> Fate:
        """What becomes of a Q: nothing low reads it, or what computes its input decides."""
        found = self.fate(node.inputs[0])
        stored = found.fate == FOLDED and found.producer in self.products
        if stored or found.fate == UNKNOWN or self._is_read_low(node.outputs[0], _FAR):
            return found
        why = "no product in low precision reads it: rounded, and stored as a float"
        return self._seen(EMULATED, node, why, "rule D21", found.producer)

    def _is_read_low(self, tensor: Tensor, left: int) -> bool:
        """Whether codes leave the graph, or reach a Q or a product that reads them as codes."""
        if self.graph.is_output(tensor) and str(tensor.dtype) not in r.FLOATS:
            return True
        return any(self._reads_low(user, left) for user, _ in self.graph.users(tensor))

    def _reads_low(self, user: Node, left: int) -> bool:
        product = self.products.get(label(user))
        if product is not None:  # matrices are stored as codes even where they are widened
            return product.is_low or product.precision == UNKNOWN or user.op in ("Gemm", "MatMul")
        carries = left > 0 and (user.op == DEQUANTIZE or self._carries(user))
        return user.op == QUANTIZE or (
            carries and any(self._is_read_low(t, left - 1) for t in user.outputs)
        )

    def _carries(self, node: Node) -> bool:
        """Whether a node may work on codes: it moves them, or adds a skip.

        A convolution of TensorRT for RTX that adds its skip reads a float.
        """
        if self.tried and node.op == "Add":
            convs = [self._convolution(t) for t in node.inputs]
            if any(c is not None and self._adds(c) for c in convs):
                return False
        return ops.moves_data(node) or (ops.is_standard(node) and node.op in _ON_CODES)

    def fate(self, tensor: Tensor, left: int = _FAR) -> Fate:
        """What becomes of a Q of this tensor."""
        node = self.graph.producer(tensor)
        if node is None:
            return Fate(OWN, "", "its input is an input of the graph", "rule E01")
        if left == 0 or not ops.is_standard(node):
            return Fate(UNKNOWN, label(node), f"no rule is about {node.op}", "no rule")
        if node.op == "Concat":
            return self._concat(node, left)
        if ops.moves_data(node) and (self.tried or node.op not in ("Resize", "Upsample")):
            return self.fate(node.inputs[0], left - 1)
        return self._behind(node, left)

    def _concat(self, node: Node, left: int) -> Fate:
        found = {self.fate(t, left - 1).fate for t in node.inputs if t.name}
        if len(found) == 1:
            return Fate(found.pop(), label(node), "Q moves to every part of Concat", "rule E07")
        if self.tried and FOLDED in found:
            return self._seen(FOLDED, node, "a generated kernel concatenates and rounds")
        return Fate(UNKNOWN, label(node), "the parts of Concat differ", "rule E07", "reported")

    def _behind(self, node: Node, left: int) -> Fate:
        """Of a Q right behind a node that computes."""
        if label(node) in self.products:
            return self._product(node, plain=True)
        if node.op in _POOLS:
            return self._pool(node, left)
        if node.op in _REDUCTIONS:
            fate = FOLDED if self.tried else OWN
            return self._seen(fate, node, f"{node.op} runs in float", "rule E08")
        if node.op in _ROWS:
            return self._seen(FOLDED, node, f"the kernel of {node.op} takes it along")
        if node.op in ("Resize", "Upsample"):
            return self._resize(node)
        if is_pointwise(node):
            return self._pointwise(node)
        if node.op == DEQUANTIZE:
            return self._seen(OWN, node, "two Q/DQ pairs in a row are carried out", "rule E17")
        return Fate(UNKNOWN, label(node), f"no rule is about {node.op}", "no rule", "reported")

    def _seen(
        self,
        fate: str,
        node: Node,
        reason: str,
        source: str = "recorded build",
        producer: str | None = None,
    ) -> Fate:
        """A fate that builds of TensorRT for RTX showed, or that is documented."""
        verified = SEEN if self.tried or source == "recorded build" else ""
        confidence = "tried" if verified else "documented"
        where = label(node) if producer is None else producer
        return Fate(fate, where, reason, source, confidence, verified)

    # ------------------------------------------------------------------ products

    def _product(self, node: Node, *, plain: bool) -> Fate:
        """Of a Q behind a product; ``plain`` if only Relu or Clip stands between."""
        product = self.products[label(node)]
        if product.attention:
            source = "rules F02, F03" if product.is_low else "recorded build"
            return self._seen(FOLDED, node, "the kernel of attention takes it along", source)
        if product.precision in ("unknown", "refused"):
            return Fate(UNKNOWN, label(node), "its producer is unknown", "no rule", "reported")
        if self.tried:
            return self._on_rtx(node, product, plain=plain)
        if not product.is_low:
            why = "its producer multiplies in float and writes a float"
            return Fate(OWN, label(node), why, "rules D01, E04")
        if plain:
            return Fate(FOLDED, label(node), "its producer is quantized", "rules D20, D21")
        why = "a pointwise kernel stands between; it takes Q along"
        return Fate(OWN, label(node), why, "rules D22, E12")

    def _on_rtx(self, node: Node, product: Product, *, plain: bool) -> Fate:
        if node.op in ("Conv", "ConvTranspose"):
            return self._seen(OWN, node, "no convolution writes 8 bits")
        bias = node.op == "Gemm" and len(node.inputs) > 2 and bool(node.inputs[2].name)
        if product.is_low and plain and not bias and self._per_tensor(node):
            return self._seen(FOLDED, node, "a product without bias writes 8 bits")
        return self._seen(OWN, node, "a kernel of its own adds the bias and rounds")

    def _per_tensor(self, node: Node) -> bool:
        pair = r.dequantizer(self.graph, node.inputs[1])
        found = None if pair is None else r.scales(self.graph, pair)
        return found is not None and found.size == 1

    # ------------------------------------------------------------------ everything else

    def _pool(self, node: Node, left: int) -> Fate:
        """MaxPool lets Q pass; AveragePool takes it if its input is dequantized."""
        if node.op == "MaxPool":
            return self.fate(node.inputs[0], left - 1)
        if r.dequantizer(self.graph, node.inputs[0]) is not None:
            return self._seen(FOLDED, node, f"{node.op} is quantized", "rule E02")
        why = f"{node.op} reads a float, so it runs in float"
        return Fate(OWN, label(node), why, "rules E02, E03")

    def _resize(self, node: Node) -> Fate:
        dequantized = r.dequantizer(self.graph, node.inputs[0]) is not None
        if dequantized or self.tried:
            return self._seen(FOLDED, node, "Resize is quantized", "rules E03, E16")
        return Fate(OWN, label(node), "Resize reads a float, so it runs in float", "rule E03")

    def _pointwise(self, node: Node) -> Fate:
        """Of a Q behind element-wise work: whose kernel is that?"""
        first = self._first(node)
        computed = self._computed(first)
        if first.op == "Add" and len(computed) == 2:
            return self._residual(first, computed)
        product = self._worked_on(node)
        if product is not None:
            plain = node.op in _CLAMPS and self._only_clamps(node)
            return replace(self._product(product, plain=plain), producer=label(product))
        return self._seen(FOLDED, node, "a pointwise kernel takes it along")

    def _computed(self, node: Node) -> list[Tensor]:
        return [t for t in node.inputs if t.name and r.constant(self.graph, t) is None]

    def _first(self, node: Node) -> Node:
        """Where a chain of nodes that work on one tensor, element by element, begins."""
        for _ in range(_FAR):
            computed = self._computed(node)
            before = self.graph.producer(computed[0]) if len(computed) == 1 else None
            if before is None or not is_pointwise(before):
                break
            node = before
        return node

    def _residual(self, node: Node, computed: list[Tensor]) -> Fate:
        """Behind an Add of two computed tensors."""
        pairs = [r.dequantizer(self.graph, t) for t in computed]
        convs = [self._convolution(t) for t in computed]
        place = next((i for i, c in enumerate(convs) if c is not None), None)
        fused = None if place is None else convs[place]
        if self.tried and fused is not None and self._adds(fused):
            return self._seen(OWN, fused, "the convolution adds the skip and writes a float")
        if self.tried or fused is None or place is None:
            return self._seen(FOLDED, node, "a pointwise kernel takes it along")
        if all(pair is not None for pair in pairs):
            return Fate(FOLDED, label(node), "Add between DQ and Q", "rule E03")
        skip = pairs[1 - place]
        if skip is None:
            why = "the skip is a float, so the convolution with its Add writes a float"
            return Fate(OWN, label(fused), why, "rule E04")
        return Fate(FOLDED, label(fused), "Add and Q go with the convolution", "rule E04")

    def _adds(self, convolution: Node) -> bool:
        """Whether a convolution of TensorRT for RTX adds the skip: INT8, one scale a tensor."""
        low = self.products[label(convolution)].precision == "int8"
        return low and self._per_tensor(convolution)

    def _convolution(self, tensor: Tensor) -> Node | None:
        """The quantized convolution whose only reader is this Add."""
        node = self.graph.producer(tensor)
        if node is None or node.op not in ("Conv", "ConvTranspose"):
            return None
        product = self.products.get(label(node))
        alone = self.graph.sole_user(tensor) is not None
        return node if product is not None and product.is_low and alone else None

    def _worked_on(self, node: Node) -> Node | None:
        """The product that element-wise and moving nodes work on, gates included; else None."""
        roots: dict[str, Node] = {}
        edge = [node]
        for _ in range(_FAR):
            step: dict[str, Node] = {}
            for here in edge:
                given = here.inputs[:1] if ops.moves_data(here) else here.inputs  # not a shape
                for made in (self.graph.producer(t) for t in given if t.name):
                    if made is None or r.constant(self.graph, made.outputs[0]) is not None:
                        continue
                    passes = is_pointwise(made) or ops.moves_data(made)
                    (step if passes and label(made) not in self.products else roots)[
                        label(made)
                    ] = made
            edge = list(step.values())
            if not edge:
                break
        only = next(iter(roots.values())) if len(roots) == 1 and not edge else None
        return only if only is not None and label(only) in self.products else None

    def _only_clamps(self, node: Node) -> bool:
        while node.op in _CLAMPS:
            before = self.graph.producer(node.inputs[0])
            if before is None:
                return False
            node = before
        return label(node) in self.products
