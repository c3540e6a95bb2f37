"""The mean squared error a quantizer will make, computed from a histogram.

Take the values of a bin as spread evenly over it. The error of one bin ``[a, b]`` is then an
integral that has a closed form, because the error is a saw-tooth. With ``s`` the scale, and

::

    n(x) = clamp(round(x / s), lowest, highest)     the code of x, less the zero point
    u(x) = x - s n(x)                               its error: in [-s/2, s/2], or beyond if clipped

each whole cell between two neighbouring codes contributes the integral of u² over one step, which
is s³/12, and the two broken cells at the ends contribute u³/3 each::

    mean over the bin of u² = [ (n(b) - n(a)) s³/12 + (u(b)³ - u(a)³) / 3 ] / (b - a)

which covers every case in one expression:

* below half a step, n = 0 and u = x: the mean of x² (the value is lost);
* a bin wider than the step: s²/12, the textbook noise of rounding;
* a bin narrower than the step: the real rounding error at that place;
* beyond the last code, n constant: the mean of (x - s n)², clipping integrated over the bin.

Where n(a) = n(b) the quotient is (u(a)² + u(a) u(b) + u(b)²) / 3, without division or cancellation,
hence good for a bin of width 0 (u²). The result is the mean over bins, weighted by counts.

The histogram may come from a sample, the extremes are those of the whole tensor. An extreme whose
bin the sample never hit counts as one more value, so that a lone outlier has its price.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qcompiler.errors import InputError
from qcompiler.formats import Format
from qcompiler.numerics.affine import F64
from qcompiler.observers.histogram import Histogram
from qcompiler.spec import QParams, Spec

_POINTS = 8  # places in a bin at which the error of a float format is taken
_CANDIDATES = 16  # quantizers evaluated at a time: what fits the cache, for a thousand bins


@dataclass(frozen=True)
class Segments:
    """A distribution as disjoint intervals of even density, ascending.

    Attributes:
        low: float64 ``[n]``, lower ends.
        high: float64 ``[n]``, upper ends; equal to ``low`` where all values are the same.
        counts: float64 ``[n]``, positive.
    """

    low: F64
    high: F64
    counts: F64

    @property
    def largest(self) -> float:
        """Largest magnitude."""
        return max(-float(self.low[0]), float(self.high[-1]), 0.0)

    def magnitudes(self) -> Segments:
        """The distribution of the absolute value; overlapping intervals are joined."""
        low = np.where(self.low < 0, -self.high, self.low)
        high = np.where(self.low < 0, -self.low, self.high)
        order = np.lexsort((high, low))
        low, high, counts = low[order], high[order], self.counts[order]
        reach = np.maximum.accumulate(high)
        # a segment starts a new one unless it begins inside, or exactly repeats, what is before it
        apart = (low[1:] > reach[:-1]) | ((low[1:] == reach[:-1]) & (low[1:] < high[1:]))
        first = np.flatnonzero(np.concatenate(([True], apart)))
        return Segments(
            low[first], np.maximum.reduceat(high, first), np.add.reduceat(counts, first)
        )


def segments(hist: Histogram) -> Segments:
    """The bins of a histogram, and its extremes where the bins do not hold them.

    Raises:
        InputError: The histogram is empty.
    """
    if not hist.minimum <= hist.maximum:
        raise InputError(
            "no finite value was seen, so there is no range",
            hint="give calibration data that reach this tensor, or exclude it",
        )
    centers, integers, widths = hist.bins()
    counts = integers.astype(np.float64)
    low, high = centers - widths / 2, centers + widths / 2
    # Bins are cut to the extremes: an extreme that was counted is the end of an outermost bin.
    if not low.size or hist.maximum > high[-1]:
        low, high = np.append(low, hist.maximum), np.append(high, hist.maximum)
        counts = np.append(counts, 1.0)
    if hist.minimum < low[0]:
        low, high = np.append(hist.minimum, low), np.append(hist.minimum, high)
        counts = np.append(1.0, counts)
    return Segments(low, high, counts)


def squared_errors(
    parts: Segments, scale: NDArray[Any], zero_point: NDArray[Any], spec: Spec
) -> F64:
    """Expected mean squared errors of many quantizers of one tensor.

    Args:
        parts: The distribution.
        scale: Scales ``[k]``, positive.
        zero_point: Zero points ``[k]``.
        spec: The format.

    Returns:
        float64 ``[k]``.
    """
    element = spec.element
    if element.is_float:
        return np.array([_of_float(parts, float(s), element) for s in np.asarray(scale)])
    steps = np.asarray(scale, np.float64)
    zeros = np.asarray(zero_point, np.float64)
    totals = np.empty(steps.shape)
    for start in range(0, steps.size, _CANDIDATES):
        part = slice(start, start + _CANDIDATES)
        limits = (element.min - zeros[part], element.max - zeros[part])
        totals[part] = _sums(parts, steps[part], limits)
    totals /= parts.counts.sum()
    return totals


def expected_error(hist: Histogram, qparams: QParams, spec: Spec) -> float:
    """Mean squared error of quantizing, per tensor, the values ``hist`` saw.

    Args:
        hist: What calibration saw.
        qparams: Per-tensor scale and zero point.
        spec: The format.

    Raises:
        InputError: The histogram is empty or the scale is not per tensor.
    """
    if qparams.scale.shape:
        raise InputError(f"needs a 0-D scale, found shape {list(qparams.scale.shape)}")
    scale, zero = qparams.scale.reshape(1), qparams.zero_point.reshape(1)
    return float(squared_errors(segments(hist), scale, zero, spec)[0])


def _of_float(parts: Segments, scale: float, element: Format) -> float:
    """The same of a float format: its steps are not even, so bins are sampled at midpoints."""
    places = (np.arange(_POINTS) + 0.5) / _POINTS
    values = parts.low[:, None] + (parts.high - parts.low)[:, None] * places
    with np.errstate(over="ignore"):
        codes = element.encode((values / scale).astype(np.float32))
    errors = (element.decode(codes).astype(np.float64) * scale - values) ** 2
    return float(errors.mean(axis=1) @ parts.counts / parts.counts.sum())


def _sums(parts: Segments, scale: F64, limits: tuple[F64, F64]) -> F64:
    """``sum(count * mean error)`` for each of a few quantizers."""
    half = scale.min() / 2
    lost = (parts.low >= -half) & (parts.high <= half)  # 0 for all of them: computed once
    a, b = parts.low[lost], parts.high[lost]
    base = np.dot(parts.counts[lost], (a * a + a * b + b * b) / 3)
    low, high, counts = parts.low[~lost], parts.high[~lost], parts.counts[~lost]
    width = high - low
    inverse = 1.0 / np.where(width > 0, width, 1.0)
    s = scale[:, None]
    lowest, highest = limits[0][:, None], limits[1][:, None]
    n_low = np.clip(np.rint(low / s), lowest, highest)
    n_high = np.clip(np.rint(high / s), lowest, highest)
    u, v = low - s * n_low, high - s * n_high
    uu, vv, uv = u * u, v * v, u * v
    within = uu + uv + vv
    across = ((n_high - n_low) * (s**3 / 4) + (v - u) * within) * inverse
    total = np.where(n_low == n_high, within, across) @ counts
    return np.asarray(base + total / 3)
