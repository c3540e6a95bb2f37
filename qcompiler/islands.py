"""Which nodes must stay in float32 in a 16-bit graph, by what was measured of their tensors.

A node is kept in float32 for the values it reads and writes, and for what it sums on the way::

    overflow      a value beyond half of the largest one (65504): rounded up it is infinity
    underflow     no value at or above 2^-18: float16 has steps of 2^-24 there, so even the largest
                  is off by 1 %
    divisor       a positive tensor whose least value is below 2^-18, which a quotient, a root or a
                  logarithm reads: 1 / x of it is off by 1 %, or infinite
    accumulator   a sum beyond the limit although its mean fits, squares behind a norm, or more
                  terms than 1 / u = 2048: the next term is below half a step of the sum
    grid          a small value that a constant grid is added to, as in ``x + column``: the sum has
                  11 bits for both, and less than 7 are left for x

A value that does not fit stays in float32 wherever it is read, too, so islands end where values fit
again.  Which operators only pass values on, or never enlarge them, need not be measured: their
range is that of what they read (``qcompiler/bounds.py``).  Sums of matrix products and convolutions
are taken in float32 by every library, and norms with ``stash_type = 1`` say so themselves.

What is in the body of an ``If``, ``Loop`` or ``Scan`` is measured there
(``qcompiler/body_taps.py``).  Of a branch that no sample took nothing is known: its nodes stay in
float32, but for those whose range follows from what was measured outside.  So do running sums of a
loop.

bfloat16 has the range of float32 and half the bits: there only the number of terms counts (256).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import TensorProto

from qcompiler import carried, ops
from qcompiler.bodies import flatten, is_link
from qcompiler.bounds import Range, follows, hull, inferred, is_contained, is_unit
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.narrow import BFLOAT16, Narrow
from qcompiler.observers.histogram import Histogram
from qcompiler.precision import (
    Slots,
    constant_values,
    is_float,
    is_given,
    narrow_slots,
    stands_for_infinity,
)

# Calibration saw a part of what will come: values twice as large must fit.
_MARGIN = 2.0
# An error of 2^-7 is called a loss.
_LOSS = 2.0**-7
# Singular at zero.
_SINGULAR = {"Div": 1, "Reciprocal": 0, "Log": 0, "Sqrt": 0}


def watched(graph: Graph, low: Narrow) -> tuple[str, ...]:
    """The float32 tensors whose extremes must be measured, in graph order, those in bodies too.

    Outputs of nodes that can enlarge values, inputs of the graph, and what goes into a body or out
    of it; not what is only moved or bounded, and nothing at all for bfloat16.

    Args:
        graph: The prepared graph.
        low: The narrow type.
    """
    if low is BFLOAT16:
        return ()
    flat = flatten(graph).graph
    slots = narrow_slots(flat, (), low)
    found = [t.name for t in flat.inputs if is_float(t) and flat.users(t)]
    sums = carried.sums(flat)
    for node in flat.nodes:
        if (id(node) in slots or id(node) in sums) and not is_contained(node):
            found += [t.name for t in node.outputs if is_float(t)]
    return tuple(dict.fromkeys(found))


def islands(graph: Graph, low: Narrow, seen: Mapping[str, Histogram]) -> dict[str, str]:
    """Node -> why it stays in float32, in graph order; nodes in bodies by their path.

    Args:
        graph: The prepared graph.
        low: The narrow type.
        seen: Tensor -> histogram with its extremes, of what ``watched`` names; an empty one of a
            tensor in a body that was never run.
    """
    flat = flatten(graph)
    return _Search(flat.graph, low, seen, narrow_slots(flat.graph, (), low), flat.inner).run()


@dataclass
class _Search:
    graph: Graph
    low: Narrow
    seen: Mapping[str, Histogram]
    slots: Mapping[int, Slots]
    inner: Collection[str]
    ranges: dict[int, Range | None] = field(default_factory=dict)
    masked: set[int] = field(default_factory=set)
    grids: dict[int, str] = field(default_factory=dict)
    unseen: set[int] = field(default_factory=set)

    def run(self) -> dict[str, str]:
        sums = carried.sums(self.graph)
        kept: dict[str, str] = {}
        for tensor in self.graph.inputs:
            self.ranges[id(tensor)] = self._measured(tensor)
        for node in self.graph.nodes:
            for tensor in node.outputs:
                self.ranges[id(tensor)] = self._range(node, tensor)
                if self._is_unseen(node, tensor):
                    self.unseen.add(id(tensor))
            self._mask(node)
            if id(node) in sums and any(is_float(t) for t in node.outputs):
                kept[label(node)] = "it carries a running sum through a loop"
            elif id(node) in self.slots:
                reason = self._reason(node)
                if reason:
                    kept[label(node)] = reason
        return kept

    # ------------------------------------------------------------------ ranges

    def _measured(self, tensor: Tensor) -> Range | None:
        found = self.seen.get(tensor.name)
        if found is None or found.minimum > found.maximum:
            return None
        return Range(found.minimum, found.maximum)

    def _range(self, node: Node, tensor: Tensor) -> Range | None:
        measured = self._measured(tensor)
        if measured is not None or not is_float(tensor):
            return measured
        if is_unit(node):
            return Range(-1.0, 1.0)
        sources = ops.moved_source(node) or [t for t in node.inputs if is_float(t)]
        known = [r for t in sources if (r := self._of(t)) is not None]
        if is_contained(node):
            return hull(known)
        if tensor.name not in self.inner or self._reads_unseen(node) or not follows(node):
            return None
        return inferred(self.graph, node, [t is tensor for t in node.outputs].index(True), known)

    def _reads_unseen(self, node: Node) -> bool:
        return any(id(t) in self.unseen for t in node.inputs)

    def _is_unseen(self, node: Node, tensor: Tensor) -> bool:
        """Whether a tensor in a body was never computed, so that its range is anybody's guess."""
        if tensor.name not in self.inner or not is_float(tensor) or is_unit(node):
            return False
        if is_contained(node):
            return self._reads_unseen(node)
        return tensor.name in self.seen and self.ranges[id(tensor)] is None

    def _of(self, tensor: Tensor) -> Range | None:
        return None if is_given(self.graph, tensor) else self.ranges.get(id(tensor))

    def _mask(self, node: Node) -> None:
        """Mark what a constant that stands for infinity was added to: 65504 does as well there."""
        if any(id(t) in self.masked for t in node.inputs) or any(
            self._is_limit(node, i, t) for i, t in enumerate(node.inputs)
        ):
            self.masked.update(id(t) for t in node.outputs if not self._fits(t))

    def _is_limit(self, node: Node, index: int, tensor: Tensor) -> bool:
        values = constant_values(self.graph, tensor) if is_float(tensor) else None
        if values is None or not self.low.overflows(values):
            return False
        return stands_for_infinity(self.graph, node, index)

    def _fits(self, tensor: Tensor) -> bool:
        found = self._of(tensor)
        return found is None or found.peak * _MARGIN <= self.low.largest

    # ------------------------------------------------------------------ reasons

    def _reason(self, node: Node) -> str:
        checks: tuple[Callable[[Node], str], ...] = (
            self._never_ran,
            self._overflows,
            self._underflows,
            self._divides,
            self._accumulates,
            self._offsets,
        )
        return next((why for check in checks if (why := check(node))), "")

    def _floats(self, node: Node) -> Iterator[tuple[Tensor, str]]:
        slots = self.slots[id(node)]
        for tensor, narrow in zip(node.inputs, slots.inputs, strict=True):
            if narrow and tensor.name:
                yield tensor, f"it reads {tensor.name!r}, which"
        for tensor, narrow in zip(node.outputs, slots.outputs, strict=True):
            if narrow:
                yield tensor, "its result"

    def _never_ran(self, node: Node) -> str:
        # What a branch gives is judged by what its readers have seen, as they are.
        tensors = node.outputs if is_link(node) else [t for t, _ in self._floats(node)]
        unseen = any(id(t) in self.unseen for t in tensors)
        return "its branch was not run on the calibration data" if unseen else ""

    def _overflows(self, node: Node) -> str:
        for tensor, words in self._floats(node):
            found = self._of(tensor)
            if found is not None and not self._fits(tensor) and id(tensor) not in self.masked:
                return (
                    f"{words} reaches {found.peak:.6g}; {self.low.name} ends at "
                    f"{self.low.largest:.6g}"
                )
        return ""

    def _underflows(self, node: Node) -> str:
        least = self._least()
        for tensor, words in self._floats(node):
            found = self._of(tensor)
            if found is not None and 0 < found.peak < least:
                return f"{words} is {found.peak:.3g} at most: next to nothing in {self.low.name}"
        return ""

    def _least(self) -> float:
        """The magnitude at which an absolute error of half the least step is a loss."""
        return self.low.unit * self.low.least_normal / _LOSS

    def _divides(self, node: Node) -> str:
        """The reader of a divisor that is small, and the node that makes it."""
        for tensor in node.outputs:
            for user, index in self.graph.users(tensor):
                if _SINGULAR.get(user.op) == index and self._is_small(tensor):
                    return self._small(tensor)
        index = _SINGULAR.get(node.op, -1)
        if 0 <= index < len(node.inputs) and self._is_small(node.inputs[index]):
            return self._small(node.inputs[index])
        return ""

    def _is_small(self, tensor: Tensor) -> bool:
        found = self._of(tensor)
        return found is not None and 0 < found.low < self._least()

    def _small(self, tensor: Tensor) -> str:
        found = self._of(tensor)
        least = 0.0 if found is None else found.low
        return f"{tensor.name!r} goes down to {least:.3g} and is divided by, or a root taken of"

    def _accumulates(self, node: Node) -> str:
        if not ops.is_standard(node) or node.op not in _SUMS:
            return ""
        if _stashes(self.graph, node):
            return ""
        terms = _terms(self.graph, node)
        if terms > 1 / self.low.unit:
            return f"it sums {terms} terms; a sum in {self.low.name} stops growing after that many"
        source, result = self._of(node.inputs[0]), self._of(node.outputs[0])
        total = _SUMS[node.op](terms, source or Range(0, 0), result or Range(0, 0))
        if total * _MARGIN > self.low.largest:
            return (
                f"what it sums reaches {total:.6g}; {self.low.name} ends at {self.low.largest:.6g}"
            )
        return ""

    def _offsets(self, node: Node) -> str:
        """An Add of a grid to small values, and what carries the sum on to the end."""
        if ops.is_weighted(node) or node.op in _SUMS:
            return ""
        why = next((self.grids[id(t)] for t in node.inputs if id(t) in self.grids), "")
        if node.op in ("Add", "Sub"):
            why = why or self._onto_grid(node)
        if why:
            self.grids.update({id(t): why for t in node.outputs if is_float(t)})
        return why

    def _onto_grid(self, node: Node) -> str:
        given = [t for t in node.inputs if is_given(self.graph, t)]
        made = [t for t in node.inputs if not is_given(self.graph, t)]
        if len(given) != 1 or len(made) != 1:
            return ""
        values, small = constant_values(self.graph, given[0]), self._of(made[0])
        if values is None or small is None or not small.peak or not _is_grid(values):
            return ""
        if float(np.abs(values).max()) * self.low.unit < _LOSS * small.peak:
            return ""
        return (
            f"{given[0].name!r} counts to {np.abs(values).max():g}, and {self.low.name} leaves few "
            f"bits for what it is added to"
        )


def _is_grid(values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> bool:
    """Whether a constant counts something: at least eight different multiples of a half."""
    return bool(np.isfinite(values).all() and (values * 2 % 1 == 0).all()) and (
        np.unique(values).size >= 8
    )


# ---------------------------------------------------------------------- what is summed

_SUMS: Mapping[str, Callable[[int, Range, Range], float]] = {
    "CumSum": lambda n, x, y: y.peak,
    "ReduceSum": lambda n, x, y: y.peak,
    "ReduceL1": lambda n, x, y: y.peak,
    "ReduceMean": lambda n, x, y: n * y.peak,
    "AveragePool": lambda n, x, y: n * y.peak,
    "GlobalAveragePool": lambda n, x, y: n * y.peak,
    "ReduceSumSquare": lambda n, x, y: y.peak,
    "ReduceL2": lambda n, x, y: y.peak**2,
    "LpNormalization": lambda n, x, y: n * x.peak**2,
    "InstanceNormalization": lambda n, x, y: n * x.peak**2,
    "MeanVarianceNormalization": lambda n, x, y: n * x.peak**2,
    "GroupNormalization": lambda n, x, y: n * x.peak**2,
    "LayerNormalization": lambda n, x, y: n * x.peak**2,
    "RMSNormalization": lambda n, x, y: n * x.peak**2,
    "ReduceLogSum": lambda n, x, y: n * x.peak,
    "ReduceLogSumExp": lambda n, x, y: math.exp(min(y.high, 80.0)),
    "Softmax": lambda n, x, y: n,
    "LogSoftmax": lambda n, x, y: n,
}
"""Operator -> the largest value of its accumulator, from the number of terms and the ranges of what
it reads and writes."""


def _stashes(graph: Graph, node: Node) -> bool:
    """Whether an operator takes its sums in float32, by attribute or its default."""
    attributes = onnx.defs.get_schema(node.op, graph.opset, "").attributes
    if "stash_type" not in attributes:
        return False
    default = attributes["stash_type"].default_value.i
    return int(node.attrs.get("stash_type", default)) == TensorProto.FLOAT


def _terms(graph: Graph, node: Node) -> int:
    """How many values one accumulator takes, as far as the shapes say; at least 1."""
    shape = node.inputs[0].shape
    if shape is None:
        return 1
    axes = _axes(graph, node, len(shape))
    if node.op == "AveragePool":
        return math.prod(node.attrs.get("kernel_shape", (1,)))
    sizes = [shape[a] for a in axes if -len(shape) <= a < len(shape)]
    return math.prod(s for s in sizes if isinstance(s, int)) or 1


def _axes(graph: Graph, node: Node, rank: int) -> list[int]:
    if node.op in ("Softmax", "LogSoftmax", "LpNormalization", "CumSum"):
        return _cumulated(graph, node) if node.op == "CumSum" else [int(node.attrs.get("axis", -1))]
    if node.op in ("LayerNormalization", "RMSNormalization"):
        return list(range(int(node.attrs.get("axis", -1)) % rank, rank))
    if not node.op.startswith("Reduce"):
        return list(range(2, rank))
    if len(node.inputs) > 1 and node.inputs[1].name:
        axes = node.inputs[1]
        return [int(a) for a in graph.values(axes)] if graph.is_constant(axes) else []
    given = node.attrs.get("axes")
    return list(range(rank)) if given is None else [int(a) for a in given]


def _cumulated(graph: Graph, node: Node) -> list[int]:
    axis = node.inputs[1]
    return [int(graph.values(axis).reshape(-1)[0])] if graph.is_constant(axis) else []
