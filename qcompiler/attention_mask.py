"""Which keys the queries of an attention may read, as one tensor in front of its softmax.

The operator ``Attention`` (ONNX operators, Attention-23 and -24) says it in up to three ways, and
they all hold: a mask, Boolean or added; causality, key j for query i only if ``j <= i + offset``
(offset: keys of the past, or ``filled - queries``); and how many keys of each sample are filled.
With ``keep`` for what is Boolean, ``bias`` for what is added, scores S become::

    Where(keep, S, -inf)        S + bias        S + Where(keep, bias, -inf)        if both

A mask that is shorter than the keys hides the others.

A query that may read nothing gives zero, where a softmax gives NaN.  So one more key, zero like its
value, stands behind the others, for these queries only::

    dead = no key is kept                           keep' = [keep | dead]
    bias' = [bias | Where(dead, 0, -inf)]           K' = [K; 0]        V' = [V; 0]

For every other query ``exp(-inf) = 0`` leaves sum and result as they were; for these the
probabilities are ``0 ... 0 1``, and the result is the zero behind V.  (Torch writes
``Where(IsNaN(P), 0, P)`` behind the softmax instead; quantized, that is no fused kernel in
TensorRT: three attentions under one mask take 28 kernels then, and 20 like this; recorded builds,
tensorrt-rtx 1.7.1.)
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from qcompiler.graph import Graph, Shape, Tensor

BOOL = np.dtype(np.bool_)
_INT = np.dtype(np.int64)
_INT32 = 6  # TensorProto.INT32


@dataclass(frozen=True, eq=False)
class Writer:
    """Appends nodes whose names begin alike.

    Attributes:
        graph: Where to.
        base: How names begin.
        dtype: What the nodes compute, unless said otherwise.
    """

    graph: Graph
    base: str
    dtype: np.dtype[Any] | None

    def __call__(
        self,
        op: str,
        inputs: Sequence[Tensor | None],
        suffix: str,
        attrs: Mapping[str, object] | None = None,
        *,
        dtype: np.dtype[Any] | None = None,
        shape: Shape | None = None,
        name: str = "",
    ) -> Tensor:
        """One node, named like its result unless said otherwise; the result."""
        output = f"{self.base}_{suffix}"
        dtype = dtype or self.dtype
        return self.graph.add(
            op, inputs, output=output, name=name, dtype=dtype, shape=shape, attrs=attrs
        )

    def const(self, suffix: str, values: object, dtype: np.dtype[Any] | None = None) -> Tensor:
        """A constant, of integers unless said otherwise."""
        return self.graph.const(f"{self.base}_{suffix}", np.array(values, dtype or _INT))


@dataclass(frozen=True, eq=False)
class Reads:
    """What the operator says.

    Attributes:
        query: ``[B, H, S, D]``.
        key: The new ones, ``[B, G, N, D]``.
        keys: All, ``[B, G, T, D]``: the past, and behind it the new ones.
        mask: Boolean, or of the type of ``query``; rank 2 to 4, its last axis T or shorter.
        causal: Whether keys behind the query are hidden.
        past: ``[B, G, P, D]``, if there is a past.
        filled: ``int64[B]``, how many keys of each sample hold something.
    """

    query: Tensor
    key: Tensor
    keys: Tensor
    mask: Tensor | None
    causal: bool
    past: Tensor | None
    filled: Tensor | None

    def same(self) -> Hashable:
        """Equal where the masks must be."""
        lengths = [_known(self.query, 2), _known(self.key, 2)]
        lengths.append(0 if self.past is None else _known(self.past, 2))
        names = [None if t is None else t.name for t in (self.mask, self.filled)]
        unknown = (self.query.name, self.keys.name) if None in lengths else ()
        return (*lengths, *names, *unknown, self.causal, self.query.dtype)


@dataclass(frozen=True, eq=False)
class Mask:
    """What the scores are selected by, or what is added to them.

    Attributes:
        tensor: Boolean, or float.
        sink: Whether its last axis is one longer than the keys: keys and values need a zero more.
    """

    tensor: Tensor
    sink: bool


@dataclass(frozen=True, eq=False)
class Masks:
    """Makes the masks of a graph; attentions that are masked alike share one."""

    graph: Graph
    _made: dict[Hashable, Mask] = field(default_factory=dict)

    def of(self, reads: Reads) -> Mask | None:
        """The mask of one attention; None if every query reads every key."""
        if reads.mask is None and reads.filled is None and not reads.causal:
            return None
        key = reads.same()
        if key not in self._made:
            self._made[key] = _mask(self.graph, reads)
        return self._made[key]

    def sunk(self, mask: Tensor) -> Mask:
        """A mask with a column for the queries that read nothing, unless there are none."""
        if mask.name not in self._made:
            self._made[mask.name] = _sunk(self.graph, mask)
        return self._made[mask.name]


def masked(write: Writer, mask: Mask, scores: Tensor) -> Tensor:
    """The scores behind a mask."""
    if mask.tensor.dtype != BOOL:
        return write("Add", [scores, mask.tensor], "masked")
    return write("Where", [mask.tensor, scores, _low(write, write.dtype)], "masked")


def beyond(write: Writer, source: Tensor, axis: int) -> Tensor:
    """A tensor of rank 4 with a zero behind its last key or value, for a sink."""
    pads = write.const("pads", [0] * 4 + [int(i == axis) for i in range(4)])
    shape = [*(source.shape or [])]
    length = shape[axis]
    shape[axis] = length + 1 if isinstance(length, int) else None
    return write("Pad", [source, pads], "sunk", shape=shape)


def _mask(graph: Graph, reads: Reads) -> Mask:
    base = (reads.mask or reads.filled or reads.query).name
    write = Writer(graph, f"{base}_keep", BOOL)
    mask = None if reads.mask is None else _padded(write, reads.mask, reads.keys)
    causal = _causal(write, reads) if reads.causal else None
    filled = None if reads.filled is None else _filled(write, reads)
    kept = [t for t in (causal, filled) if t is not None]
    if mask is not None and mask.dtype == BOOL:
        kept.append(mask)
    keep = kept[0] if kept else None
    for other in kept[1:]:
        keep = write("And", [keep, other], "and")
    if mask is None or mask.dtype == BOOL:
        assert keep is not None
        empty = mask is not None or filled is not None
        return _sunk(graph, keep) if empty else Mask(keep, sink=False)
    if keep is None:
        return _sunk(graph, mask)
    low = _low(write, mask.dtype)
    return _sunk(graph, write("Where", [keep, mask, low], "bias", dtype=mask.dtype))


def _low(write: Writer, dtype: np.dtype[Any] | None) -> Tensor:
    return write.const("low", -np.inf, dtype)


# ---------------------------------------------------------------------- lengths


def _known(tensor: Tensor, axis: int) -> int | str | None:
    return tensor.shape[axis] if tensor.shape else None


def _length(write: Writer, tensor: Tensor, axis: int) -> Tensor:
    """A length as a scalar."""
    known = _known(tensor, axis)
    if isinstance(known, int):
        return write.const("length", known)
    axis %= len(tensor.shape or ())
    span = {"start": axis, "end": axis + 1}
    vector = write("Shape", [tensor], "shape", span, dtype=_INT, shape=[1])
    return write("Squeeze", [vector], "length", dtype=_INT, shape=[])


def _count(write: Writer, tensor: Tensor) -> Tensor:
    """0, 1, 2 and so on, as many as the third axis is long."""
    known = _known(tensor, 2)
    if isinstance(known, int):
        return write.const("count", np.arange(known))
    ends = [write.const("zero", 0), _length(write, tensor, 2), write.const("one", 1)]
    return write("Range", ends, "count", dtype=_INT, shape=[known])


# ---------------------------------------------------------------------- what is hidden


def _padded(write: Writer, mask: Tensor, keys: Tensor) -> Tensor:
    """The mask as long as the keys."""
    has, wants = _known(mask, -1), _known(keys, 2)
    if has is not None and has == wants:
        return mask
    rank = len(mask.shape or ())
    front = [0] * (2 * rank - 1)
    if isinstance(has, int) and isinstance(wants, int):
        pads = write.const("pads", [*front, wants - has])
    else:
        ends = [_length(write, keys, 2), _length(write, mask, -1)]
        missing = write("Sub", ends, "missing", dtype=_INT, shape=[])
        axes = write.const("axes", [0])
        last = write("Unsqueeze", [missing, axes], "last", dtype=_INT, shape=[1])
        parts = [write.const("front", front), last]
        pads = write("Concat", parts, "pads", {"axis": 0}, dtype=_INT, shape=[2 * rank])
    hidden = write.const("hidden", False if mask.dtype == BOOL else -np.inf, mask.dtype)
    shape = [*(mask.shape or ())[:-1], wants]
    return write("Pad", [mask, pads, hidden], "padded", dtype=mask.dtype, shape=shape)


def _causal(write: Writer, reads: Reads) -> Tensor:
    """Key j for query i if ``j <= i + offset``."""
    lengths = [_known(reads.query, 2), _known(reads.keys, 2)]
    lengths.append(0 if reads.past is None else _known(reads.past, 2))
    known = [n for n in lengths if isinstance(n, int)]
    if len(known) == len(lengths) and reads.filled is None:
        queries, keys, past = known
        return write.const("causal", np.tri(queries, keys, past), BOOL)
    axes = write.const("axes", [1])
    last = write("Unsqueeze", [_count(write, reads.query), axes], "rows", dtype=_INT)
    if reads.filled is not None:
        length = _length(write, reads.query, 2)
        offset = write("Sub", [_column(write, reads.filled), length], "offset", dtype=_INT)
        last = write("Add", [last, offset], "last", dtype=_INT)
    elif reads.past is not None:
        last = write("Add", [last, _length(write, reads.past, 2)], "last", dtype=_INT)
    return write("LessOrEqual", [_count(write, reads.keys), last], "causal")


def _filled(write: Writer, reads: Reads) -> Tensor:
    """Key j if ``j < filled``."""
    assert reads.filled is not None
    return write("Less", [_count(write, reads.keys), _column(write, reads.filled)], "filled")


def _column(write: Writer, filled: Tensor) -> Tensor:
    """``[B]`` as ``[B, 1, 1, 1]``."""
    axes = write.const("axes", [1, 2, 3])
    return write("Unsqueeze", [filled, axes], "column", dtype=_INT)


# ---------------------------------------------------------------------- queries that read nothing


def _sunk(graph: Graph, mask: Tensor) -> Mask:
    """The mask with a column for the queries that read nothing, unless there are none."""
    if graph.is_constant(mask):
        values = graph.values(mask)
        if (values if mask.dtype == BOOL else values != -np.inf).any(-1).all():
            return Mask(mask, sink=False)
    write = Writer(graph, mask.name, mask.dtype)
    axes = write.const("axes", [-1])
    if mask.dtype == BOOL:
        numbers = write("Cast", [mask], "numbers", {"to": _INT32}, dtype=np.dtype(np.int32))
        most = write("ReduceMax", [numbers, axes], "most", dtype=numbers.dtype)
        column = write("Equal", [most, write.const("none", 0, numbers.dtype)], "dead")
    else:
        most = write("ReduceMax", [mask, axes], "most")
        low = _low(write, mask.dtype)
        dead = write("Equal", [most, low], "dead", dtype=BOOL)
        column = write("Where", [dead, write.const("none", 0, mask.dtype), low], "sink")
    return Mask(write("Concat", [mask, column], "sunk", {"axis": -1}), sink=True)
