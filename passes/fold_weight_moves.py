"""Move constant codes once, so that their DequantizeLinear feeds the product.

Dequantizing is a function of each element, so it commutes with whatever only moves them::

    before:  w = DequantizeLinear <axis = 0> (W, s)      t = Transpose(w)     y = MatMul(x, t)
    after:   t = DequantizeLinear <axis = 1> (W^T, s)    y = MatMul(x, t),    W^T constant

Not a bit changes: the same code meets the same scale.  The axis of the scales moves along:

* Transpose: axis ``a`` becomes the place of ``a`` in ``perm``.  Scales of blocks have the rank of
  the data and are transposed too, zero points with them.
* Reshape, Flatten, Squeeze, Unsqueeze: axis ``a`` of length ``n`` becomes the axis ``k`` of length
  ``n`` with as many elements before it, ``prod(after[:k]) = prod(before[:a])``; then both run over
  the same indices.  Without such an axis (it was merged or cut) the node stays.  Scales of blocks
  follow only where nothing but axes of length 1 comes or goes.

A weight that is still in float behind ``QuantizeLinear -> DequantizeLinear``, as PyTorch exports a
fake quantizer, moves through both.  Other readers of the weight keep the original; the copy costs
its bytes, as ``fold-constants`` spends them on a float weight.

``torch.nn.Linear`` is ``x W^T``, and exporters that quantize ``W`` leave the Transpose between.
TensorRT's documentation wants DequantizeLinear directly in front of the product (rules D04, C03),
and ModelOpt folds what is between; TensorRT for RTX 1.7.1 looks through it and makes the same
kernels either way.  Activations are not touched: what moves them has to run anyway.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.ops import static
from qcompiler.pipeline import Effect, Pass
from qcompiler.verify import DEQUANTIZE, QUANTIZE, pair_fault
from qcompiler.weights import Array

_MOVES = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class FoldWeightMoves(Pass):
    """``Transpose(DequantizeLinear(W, s)) -> DequantizeLinear(W^T, s)``, ``W`` constant."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"
    after: ClassVar[tuple[str, ...]] = ("lift-constants", "fold-constants", "drop-identity")

    def run(self, graph: Graph) -> int:
        """Fold in graph order, so that a chain of moves collapses."""
        return sum(_fold(graph, n) for n in graph.nodes)


@dataclass(frozen=True)
class _Move:
    """A Transpose by ``perm``, or without one a reshape, from static shape to static shape."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    perm: tuple[int, ...] | None

    def of(self, values: Array) -> Array:
        """A tensor of shape ``before``, moved."""
        if self.perm is not None:
            return values.transpose(self.perm)
        return values.reshape(self.after)

    def of_blocks(self, scales: Array) -> Array:
        """Scales of the rank of ``before``, moved; only where ``pairs`` is known."""
        if self.perm is not None:
            return scales.transpose(self.perm)
        shape = [1] * len(self.after)
        for old, new in self.pairs().items():
            shape[new] = scales.shape[old]
        return scales.reshape(shape)

    def pairs(self) -> dict[int, int]:
        """Where a reshape puts the axes that are longer than 1; empty if it merges or cuts any."""
        old, new = ([i for i, n in enumerate(s) if n != 1] for s in (self.before, self.after))
        same = [self.before[i] for i in old] == [self.after[i] for i in new]
        return dict(zip(old, new, strict=True)) if same else {}

    def axis(self, axis: int, *, blocks: bool) -> int | None:
        """The axis after the move that runs over the indices of one before it."""
        if self.perm is not None:
            return self.perm.index(axis)
        if blocks:
            return self.pairs().get(axis)
        ahead, length = math.prod(self.before[:axis]), self.before[axis]
        places = (k for k, n in enumerate(self.after) if n == length)
        return next((k for k in places if math.prod(self.after[:k]) == ahead), None)


def _fold(graph: Graph, node: Node) -> bool:
    chain = _quantizers(graph, node)
    move = _move(graph, node) if chain else None
    if move is None:
        return False
    attrs = _attrs(graph, chain[0], move)
    if attrs is None:
        return False
    weight = chain[0].inputs[0]
    value = graph.const(f"{weight.name}_moved", move.of(graph.values(weight)))
    for old in chain:
        numbers = old.inputs[1:]
        if "block_size" in attrs:
            numbers = [_moved_numbers(graph, t, move) for t in numbers]
        value = graph.add(
            old.op,
            [value, *numbers],
            output=f"{old.outputs[0].name}_moved",
            name=f"{label(old)}_moved",
            dtype=old.outputs[0].dtype,
            shape=list(move.after),
            attrs={k: v for k, v in old.attrs.items() if k != "axis"} | attrs,
        )
    graph.replace(node.outputs[0], value)
    return True


def _quantizers(graph: Graph, node: Node) -> tuple[Node, ...]:
    """What stands between a constant and the node that moves it: DQ, or Q and DQ; else nothing."""
    if node.op not in _MOVES or node.domain:
        return ()
    chain: tuple[Node, ...] = ()
    source = graph.producer(node.inputs[0])
    for op in (DEQUANTIZE, QUANTIZE):
        if source is None or source.op != op or source.domain:
            return ()
        chain = (source, *chain)
        if graph.is_constant(source.inputs[0]):
            whole = len(chain) == 1 or pair_fault(graph, *chain) == ""
            return chain if whole else ()
        source = graph.producer(source.inputs[0])
    return ()


def _move(graph: Graph, node: Node) -> _Move | None:
    data, result = node.inputs[0], node.outputs[0]
    before, after = (static(t.shape) for t in (data, result))
    if before is None or after is None or 0 in before:
        return None
    if not all(graph.is_constant(t) for t in node.inputs[1:] if t.name):
        return None
    if node.op != "Transpose":
        return _Move(before, after, None) if math.prod(before) == math.prod(after) else None
    perm = node.attrs.get("perm") or reversed(range(len(before)))
    return _Move(before, after, tuple(int(i) for i in perm))


def _attrs(graph: Graph, node: Node, move: _Move) -> dict[str, int] | None:
    """The attributes that change with the move; None if the scales cannot follow it."""
    scale = node.inputs[1]
    if scale.shape is None:
        return None
    if scale.shape == []:
        return {}
    block = int(node.attrs.get("block_size", 0))
    if scale.shape == [1] and not block:  # of any axis
        return {"axis": 0} if move.after else None
    axis = int(node.attrs.get("axis", 1)) % len(move.before)
    if block and not all(graph.is_constant(t) for t in node.inputs[1:] if t.name):
        return None
    new = move.axis(axis, blocks=block > 0)
    if new is None:
        return None
    return {"axis": new, "block_size": block} if block else {"axis": new}


def _moved_numbers(graph: Graph, tensor: Tensor, move: _Move) -> Tensor:
    if not tensor.name:
        return tensor
    moved: Array = np.ascontiguousarray(move.of_blocks(graph.values(tensor)))
    return graph.const(f"{tensor.name}_moved", moved)
