"""Bytes that an engine is expected to move, by rule: what one kernel computes, moves once.

Nodes are put into groups: an element-wise node with the node that computes its input if nothing
else reads that; data movement likewise; a folded Q with its producer; a DQ, and movement behind
it, with each that reads it; the nodes of a fused attention together. What is left alone (a
product, a reduction, a Q of its own) is a group by itself. Then::

    bytes = sum over groups of (inputs and constants read once + outputs that others read)

as :mod:`qcompiler.engine.traffic` counts kernels. Codes between Q and DQ count in their own width.
Integers and Booleans (shapes, indices, masks) count only where a group of floats reads them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from qcompiler import ops
from qcompiler.engine.predicted_products import Product
from qcompiler.engine.predicted_quantizers import EMULATED, FOLDED, Fate, is_pointwise
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.lint import fusions
from qcompiler.lint import reading as r
from qcompiler.verify import DEQUANTIZE, QUANTIZE

_BITS = {"int4": 4, "uint4": 4, "float4_e2m1fn": 4, "bool": 8}
_INSIDE = 16  # steps from one product of an attention back to the other
_HOST = frozenset({"Shape", "Size", "Constant", "ConstantOfShape", "Range", "NonZero"})


@dataclass(frozen=True)
class Moved:
    """What groups move.

    Attributes:
        read: Bytes.
        written: Bytes.
        groups: Number of groups that move anything.
        unsized: Tensors whose shape or type is unknown; they count nothing.
    """

    read: int
    written: int
    groups: int
    unsized: int


def traffic(
    graph: Graph, products: Mapping[str, Product], fates: Mapping[str, Fate], batch: int
) -> Moved:
    """Bytes by rule.

    Args:
        graph: With inferred types and shapes.
        products: What becomes of the linear nodes.
        fates: What becomes of each Q.
        batch: What a dynamic dimension counts as.
    """
    return _Counting(graph, products, fates, batch).moved()


def _is_host(graph: Graph, node: Node) -> bool:
    """Arithmetic on shapes, and what is known before running."""
    if node.op in _HOST or all(r.constant(graph, t) is not None for t in node.inputs if t.name):
        return node.op not in (DEQUANTIZE, QUANTIZE)
    kinds = [t.dtype for t in node.outputs if t.dtype is not None]
    return bool(kinds) and all(np.dtype(k).kind in "iub" for k in kinds) and node.op != QUANTIZE


class _Groups:
    """Sets of nodes that are merged pair by pair; two products stay apart unless they must not."""

    def __init__(self, products: Iterable[str]) -> None:
        """Every node is alone."""
        self._parent: dict[str, str] = {}
        self._heavy = set(products)

    def root(self, name: str) -> str:
        """The name of a node's group."""
        while self._parent.setdefault(name, name) != name:
            self._parent[name] = self._parent[self._parent[name]]
            name = self._parent[name]
        return name

    def join(self, one: str, other: str, *, products: bool = False) -> None:
        """Both nodes are of one group; unless ``products``, not if each group has a product."""
        here, there = self.root(one), self.root(other)
        if here == there or (not products and {here, there} <= self._heavy):
            return
        self._parent[there] = here
        if there in self._heavy:
            self._heavy.add(here)


class _Counting:
    """One graph, divided into groups."""

    def __init__(
        self,
        graph: Graph,
        products: Mapping[str, Product],
        fates: Mapping[str, Fate],
        batch: int,
    ) -> None:
        """Join what one kernel computes."""
        self._graph, self._products, self._fates, self._batch = graph, products, fates, batch
        self._taking = {f.producer for f in fates.values() if f.fate == FOLDED}
        self._nodes = [n for n in graph.nodes if not _is_host(graph, n) and not self._is_read(n)]
        self._counted = frozenset(label(n) for n in self._nodes)
        self._groups = _Groups(products)
        for node in self._nodes:
            for other in self._joined(node):
                self._groups.join(label(node), label(other))
        for attention in fusions.attentions(graph):
            product = products.get(label(attention.first))
            if product is not None and product.attention:
                for node in self._inside(attention):
                    self._groups.join(label(node), label(attention.softmax), products=True)

    def _is_read(self, node: Node) -> bool:
        """Whether a node only hands codes on: a DQ, or data movement behind one.

        Whoever reads its result reads the codes, in a kernel of its own if nothing else is done.
        """
        if any(self._graph.is_output(t) for t in node.outputs):
            return False
        return node.op == DEQUANTIZE or (
            _moves(node) and self._graph.producer(node.inputs[0]) is not None
            and self._from_codes(node.inputs[0])
        )  # fmt: skip

    def _from_codes(self, tensor: Tensor) -> bool:
        producer = self._graph.producer(tensor)
        while producer is not None and _moves(producer):
            producer = self._graph.producer(producer.inputs[0])
        return producer is not None and producer.op == DEQUANTIZE

    def _joined(self, node: Node) -> Iterator[Node]:
        """Nodes that are computed by the same kernel as this one."""
        producer = self._graph.producer(node.inputs[0]) if node.inputs else None
        if node.op == QUANTIZE:
            fate = self._fates.get(label(node))
            if producer is not None and fate is not None and fate.fate in (FOLDED, EMULATED):
                yield producer
        elif node.op == DEQUANTIZE and producer is not None:  # at an output of the graph
            yield producer
        elif is_pointwise(node) or ops.moves_data(node) or node.op == "Concat":
            yield from self._before(node)
        elif producer is not None and _is_by_rows(self._graph, node):
            alone = self._graph.sole_user(node.inputs[0]) is node
            if alone and is_pointwise(producer) and label(producer) in self._counted:
                yield producer

    def _before(self, node: Node) -> Iterator[Node]:
        """The node whose kernel an element-wise or moving node belongs to.

        An Add that takes the Q behind it along is not in the kernel of a product before it.
        """
        if node.op == "Add" and label(node) in self._taking:
            return
        made = [p for t in node.inputs if t.name and (p := self._graph.producer(t)) is not None]
        made = [p for p in made if label(p) in self._counted]
        alone = [p for p in made if self._is_alone(p, node)]
        yield from sorted(alone, key=lambda p: label(p) not in self._products)
        if not alone and is_pointwise(node):  # a gate: x * Sigmoid(x)
            yield from (p for p in made if is_pointwise(p))

    def _is_alone(self, producer: Node, node: Node) -> bool:
        """Whether nothing but a node, or a gate of it, reads what a producer computes."""
        if self._graph.is_pinned(producer.outputs[0]):
            return False
        users = [n for n, _ in self._graph.users(producer.outputs[0]) if n is not node]
        return all(is_pointwise(n) and self._graph.sole_user(n.outputs[0]) is node for n in users)

    def _inside(self, attention: fusions.Attention) -> Iterator[Node]:
        """Nodes between both products of an attention, products included."""
        yield attention.second
        here: Node | None = self._graph.producer(attention.second.inputs[0])
        for _ in range(_INSIDE):
            if here is None:
                return
            yield here
            if here is attention.first:
                return
            ahead = [self._graph.producer(t) for t in here.inputs if t.name]
            here = next((p for p in ahead if p is not None and not _is_host(self._graph, p)), None)

    # ------------------------------------------------------------------ counting

    def moved(self) -> Moved:
        """Bytes over all groups."""
        reads: dict[str, dict[str, Tensor]] = defaultdict(dict)
        writes: dict[str, dict[str, Tensor]] = defaultdict(dict)
        rows: dict[str, int] = {}
        makers = {t.name: n for n in self._nodes for t in n.outputs}
        for node in self._nodes:
            here = self._groups.root(label(node))
            for tensor in (s for t in node.inputs if t.name for s in self._sources(t)):
                maker = makers.get(tensor.name)
                there = None if maker is None else self._groups.root(label(maker))
                if there != here:
                    reads[here][tensor.name] = tensor
                    if there is not None:
                        writes[there][tensor.name] = tensor
            if node.op == "Gather":  # as many rows of a table as there are in the result
                rows[node.inputs[0].name] = self._size(node.outputs[0]) or 0
            for tensor in (t for t in node.outputs if self._graph.is_output(t)):
                writes[here][tensor.name] = tensor
        crossing = [t for f in (*reads.values(), *writes.values()) for t in f.values()]
        return Moved(
            sum(self._bytes(t, rows) for found in reads.values() for t in found.values()),
            sum(self._bytes(t, {}) for found in writes.values() for t in found.values()),
            len(reads.keys() | writes.keys()),
            len({t.name for t in crossing if self._size(t) is None}),
        )

    def _sources(self, tensor: Tensor) -> Iterator[Tensor]:
        """What is read where a tensor is: behind DQ and movement, the codes and their scales."""
        producer = self._graph.producer(tensor)
        if producer is None or not self._is_read(producer):
            yield tensor
            return
        for given in (
            producer.inputs if producer.op in (DEQUANTIZE, "Concat") else producer.inputs[:1]
        ):
            if given.name:
                yield from self._sources(given)

    def _bytes(self, tensor: Tensor, rows: Mapping[str, int]) -> int:
        size = self._size(tensor) or 0
        return min(size, rows.get(tensor.name, size))

    def _size(self, tensor: Tensor) -> int | None:
        """Bytes of a tensor; None if its shape or type is unknown."""
        if tensor.shape is None or tensor.dtype is None:
            return None
        count = math.prod(d if isinstance(d, int) and d >= 0 else self._batch for d in tensor.shape)
        bits = _BITS.get(str(tensor.dtype), np.dtype(tensor.dtype).itemsize * 8)
        return -(-count * bits // 8)


def _is_by_rows(graph: Graph, node: Node) -> bool:
    """Whether a node reduces rows, which a generated kernel does between element-wise steps."""
    if node.op != "ReduceMean" or node.inputs[0].shape is None:
        return False
    given = r.constant(graph, r.operand(node, 1))
    axes = node.attrs.get("axes", ()) if given is None else given.reshape(-1).tolist()
    rank = len(node.inputs[0].shape)
    return [int(a) % rank for a in axes] == [rank - 1]


def _moves(node: Node) -> bool:
    return ops.moves_data(node) and node.op not in ("Resize", "Upsample")
