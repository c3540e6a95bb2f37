"""A histogram of float32 values that merges exactly.

The bin of a value is its own bit pattern, shifted right by 17::

    s eeeeeeee mmmmmm | mmmmmmmmmmmmmmmmm        1 sign, 8 exponent, 6 mantissa bits | dropped

which are 64 bins an octave (a bin is at most 1/64 as wide as its distance from zero), at every
magnitude float32 has, without knowing the range first. So nothing ever needs to be re-binned, and
merging is an addition of integers: associative, commutative, exact. Any order of the samples, any
batching and any split over workers give the same histogram, bit for bit. (Histograms that fix their
range by the first batch do not: the same data gives other thresholds in another order.)

* Zero, -0 and magnitudes below 2**-132 share one bin, number 0.
* NaN and infinity are counted in ``nonfinite`` and not binned.
* Extremes are exact, and may be given apart from the values, so that the values may be a sample.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompiler.errors import InputError

F64: TypeAlias = NDArray[np.float64]
I64: TypeAlias = NDArray[np.int64]

_SHIFT = 17
_BINS = 1 << 15
_NEGATIVE = 1 << 14  # first bin of the negative numbers
_INFINITY = 255 << 6  # first bin of infinity and NaN, within a sign
_CHUNK = 1 << 17  # elements whose bin numbers are in cache at a time
_KEYS = ("bins", "counts", "minimum", "maximum", "count", "nonfinite")


@dataclass(frozen=True, eq=False)
class Histogram:
    """Immutable; holds the non-empty bins only. Equal if all numbers are.

    Attributes:
        ids: uint32 ``[n]``, ascending: numbers of the non-empty bins.
        counts: int64 ``[n]``, positive.
        minimum: Least finite value, exactly; ``+inf`` if there was none.
        maximum: Greatest finite value, exactly; ``-inf`` if there was none.
        nonfinite: How many NaN and infinities were seen.
    """

    ids: NDArray[np.uint32]
    counts: I64
    minimum: float
    maximum: float
    nonfinite: int

    def __post_init__(self) -> None:
        self.ids.setflags(write=False)
        self.counts.setflags(write=False)

    @classmethod
    def empty(cls) -> Histogram:
        """The neutral element of :meth:`merge`."""
        return cls(np.zeros(0, np.uint32), np.zeros(0, np.int64), np.inf, -np.inf, 0)

    @property
    def count(self) -> int:
        """How many finite values are binned."""
        return int(self.counts.sum())

    def update(
        self, values: ArrayLike, minimum: float | None = None, maximum: float | None = None
    ) -> Histogram:
        """This histogram with ``values`` counted too; see :meth:`HistogramBuilder.update`."""
        builder = HistogramBuilder()
        builder.merge(self)
        builder.update(values, minimum, maximum)
        return builder.histogram()

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both: counts added, extremes combined. Exact, in any order."""
        builder = HistogramBuilder()
        builder.merge(self)
        builder.merge(other)
        return builder.histogram()

    def bins(self) -> tuple[F64, I64, F64]:
        """Centers, counts and widths of the non-empty bins, in ascending order of value.

        Each bin is cut to ``[minimum, maximum]``: constant data have one bin of width 0 at their
        value. Bin 0 has center and width 0.

        Returns:
            float64 ``[n]``, int64 ``[n]``, float64 ``[n]``.
        """
        ids = self.ids.astype(np.int64)
        negative = ids >= _NEGATIVE
        order = np.argsort(np.where(negative, _NEGATIVE - 1 - ids, ids), kind="stable")
        ids, negative = ids[order], negative[order]
        inner = _edge(ids & (_NEGATIVE - 1))
        outer = _edge((ids & (_NEGATIVE - 1)) + 1)
        outer[ids == 0] = 0.0
        low = np.maximum(np.where(negative, -outer, inner), self.minimum)
        high = np.minimum(np.where(negative, -inner, outer), self.maximum)
        zero = ids == 0
        low[zero] = high[zero] = 0.0
        return (low + high) / 2, self.counts[order], high - low

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The histogram as plain arrays, for ``numpy.savez`` (no pickle needed to load).

        Returns:
            ``bins`` uint32 ``[n]``, ``counts`` int64 ``[n]``, ``minimum`` and ``maximum`` float64
            ``[]``, ``count`` and ``nonfinite`` int64 ``[]``.
        """
        return {
            "bins": self.ids,
            "counts": self.counts,
            "minimum": np.array(self.minimum, np.float64),
            "maximum": np.array(self.maximum, np.float64),
            "count": np.array(self.count, np.int64),
            "nonfinite": np.array(self.nonfinite, np.int64),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Histogram:
        """The histogram that :meth:`arrays` came from.

        Raises:
            InputError: A key is missing or the arrays do not fit each other.
        """
        missing = [key for key in _KEYS if key not in arrays]
        if missing:
            raise InputError(f"histogram lacks {', '.join(missing)}", hint="calibrate again")
        ids = np.asarray(arrays["bins"])
        counts = np.asarray(arrays["counts"])
        shaped = ids.ndim == 1 and ids.shape == counts.shape
        typed = ids.dtype == np.uint32 and counts.dtype == np.int64
        if not shaped or not typed or not _valid(ids, counts, int(arrays["count"])):
            raise InputError("histogram arrays contradict each other", hint="calibrate again")
        return cls(
            ids.copy(),
            counts.copy(),
            float(arrays["minimum"]),
            float(arrays["maximum"]),
            int(arrays["nonfinite"]),
        )

    def _key(self) -> tuple[object, ...]:
        return tuple(array.tobytes() for array in self.arrays().values())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Histogram):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


class HistogramBuilder:
    """Accumulates in place (256 KiB), for the inner loop of calibration; 2 ns an element."""

    def __init__(self) -> None:
        """Starts empty."""
        self._counts = np.zeros(_BINS, np.int64)  # as bits fall; sorted out in histogram()
        self._minimum = np.inf
        self._maximum = -np.inf
        self._nonfinite = 0

    def update(
        self, values: ArrayLike, minimum: float | None = None, maximum: float | None = None
    ) -> None:
        """Counts ``values``.

        Args:
            values: Float array of any shape (rounded to float32): the tensor, or a sample of it.
            minimum: Exact minimum of the whole tensor, if ``values`` is a sample.
            maximum: Exact maximum of the whole tensor, if ``values`` is a sample. An extreme that
                is NaN or infinite counts as one ``nonfinite`` if the sample saw none.
        """
        with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity, and counted
            flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
            given = [float(np.float32(e)) for e in (minimum, maximum) if e is not None]
        bits = flat.view(np.uint32)
        for start in range(0, bits.size, _CHUNK):
            bins = bits[start : start + _CHUNK] >> np.uint32(_SHIFT)
            self._counts += np.bincount(bins, minlength=_BINS)
        seen = [float(flat.min()), float(flat.max())] if flat.size else []
        clean = all(map(math.isfinite, seen))
        if not clean:
            finite = flat[np.isfinite(flat)]
            seen = [float(finite.min()), float(finite.max())] if finite.size else []
        # + 0.0 turns -0 into 0, so that the bytes do not depend on which zero came first.
        ends = [end + 0.0 for end in (*seen, *given) if math.isfinite(end)]
        self._minimum = min(self._minimum, *ends) if ends else self._minimum
        self._maximum = max(self._maximum, *ends) if ends else self._maximum
        self._nonfinite += int(clean and not all(map(math.isfinite, given)))

    def merge(self, histogram: Histogram) -> None:
        """Adds all that ``histogram`` counted."""
        self._counts[histogram.ids] += histogram.counts
        self._minimum = min(self._minimum, histogram.minimum)
        self._maximum = max(self._maximum, histogram.maximum)
        self._nonfinite += histogram.nonfinite

    def histogram(self) -> Histogram:
        """What was counted so far, as a value."""
        dense = self._counts.copy()
        nonfinite = self._nonfinite
        for first in (_INFINITY, _NEGATIVE + _INFINITY):
            special = dense[first : first + _NEGATIVE - _INFINITY]
            nonfinite += int(special.sum())
            special[:] = 0
        dense[0] += dense[_NEGATIVE]  # -0 is 0
        dense[_NEGATIVE] = 0
        ids = np.flatnonzero(dense).astype(np.uint32)
        return Histogram(ids, dense[ids], self._minimum, self._maximum, nonfinite)


def _edge(magnitude: I64) -> F64:
    """Lower edges of the bins of positive numbers; that of infinity's bin is 2**128."""
    exact = (magnitude.astype(np.uint32) << np.uint32(_SHIFT)).view(np.float32)
    return np.where(magnitude >= _INFINITY, 2.0**128, exact.astype(np.float64))


def _valid(ids: NDArray[np.uint32], counts: I64, count: int) -> bool:
    ascending = bool((np.diff(ids.astype(np.int64)) > 0).all())
    in_range = not ids.size or int(ids[-1]) < _BINS
    return ascending and in_range and bool((counts > 0).all()) and int(counts.sum()) == count
