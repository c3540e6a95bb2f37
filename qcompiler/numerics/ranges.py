"""Choosing the range of a tensor from its histogram.

A method is a function ``(histogram, spec) -> Range``. All of them see the same histogram, so their
results do not depend on the order or the batching of the samples.

==============  ====================================================================
``minmax``      the exact extremes; clips nothing that was seen
``percentile``  cuts the rarest values, 0.01 % by default
``entropy``     least KL divergence, TensorRT's calibrator (:mod:`~.entropy`)
``mse``         least expected squared error (:mod:`~.mse_search`)
``auto``        the one of the above with the least expected error
==============  ====================================================================

A symmetric spec gets ``[-t, t]``. An asymmetric spec gets both ends, zero always between them:
after a ReLU the lower end is 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeAlias

import numpy as np

from qcompiler.errors import InputError
from qcompiler.numerics.affine import SAFE_SCALE, Range, affine, to_qparams
from qcompiler.numerics.entropy import kl_threshold
from qcompiler.numerics.expected_error import Segments, expected_error, segments, squared_errors
from qcompiler.numerics.mse_search import least_squared_error
from qcompiler.observers.histogram import Histogram
from qcompiler.spec import Spec

__all__ = [
    "METHODS",
    "SAFE_SCALE",
    "Method",
    "Range",
    "auto",
    "entropy",
    "expected_error",
    "minmax",
    "mse",
    "percentile",
    "to_qparams",
]

Method: TypeAlias = Callable[[Histogram, Spec], Range]


def minmax(hist: Histogram, spec: Spec) -> Range:
    """The extremes, widened to hold zero.

    Raises:
        InputError: The histogram is empty.
    """
    return _extremes(segments(hist), spec)


def percentile(hist: Histogram, spec: Spec, p: float = 99.99) -> Range:
    """The range that holds ``p`` percent of the values, linear within a bin.

    Symmetric: the percentile ``p`` of the magnitude. Asymmetric: half of ``100 - p`` is cut from
    each side, as ONNX Runtime does. Grows with ``p``; 100 gives the extremes. Where so many
    values are zero that nothing is left, the extremes are taken.

    Args:
        hist: What calibration saw.
        spec: Symmetry.
        p: Above 0, at most 100.

    Raises:
        InputError: The histogram is empty or ``p`` is out of range.
    """
    if not 0 < p <= 100:
        raise InputError(f"percentile must be above 0 and at most 100, found {p}")
    return _percentile(segments(hist), spec, p)


def entropy(hist: Histogram, spec: Spec) -> Range:
    """The range with the least KL divergence.

    The threshold is on the magnitude. Asymmetric: one-sided data have all codes for their side;
    two-sided data are cut at the threshold of half the codes on either side.

    Raises:
        InputError: The histogram is empty.
    """
    return _entropy(segments(hist), spec)


def mse(hist: Histogram, spec: Spec) -> Range:
    """The range with the least expected squared error; never worse than :func:`minmax`.

    Raises:
        InputError: The histogram is empty.
    """
    parts = segments(hist)
    return _best(parts, [_extremes(parts, spec), _mse(parts, spec)], spec)


def auto(hist: Histogram, spec: Spec) -> Range:
    """Of all methods' ranges the one with the least expected error; of equal ones the widest.

    Raises:
        InputError: The histogram is empty.
    """
    return auto_named(hist, spec)[0]


def auto_named(hist: Histogram, spec: Spec) -> tuple[Range, str]:
    """As ``auto``, with the names of the methods that gave this range: ``mse``, ``minmax = mse``.

    Raises:
        InputError: The histogram is empty.
    """
    parts = segments(hist)
    candidates = {
        "minmax": _extremes(parts, spec),
        "percentile 99.99": _percentile(parts, spec, 99.99),
        "percentile 99.999": _percentile(parts, spec, 99.999),
        "entropy": _entropy(parts, spec),
        "mse": _mse(parts, spec),
    }
    best = _best(parts, list(candidates.values()), spec)
    return best, " = ".join(n for n, found in candidates.items() if found == best)


METHODS: Final[dict[str, Method]] = {
    "auto": auto,
    "entropy": entropy,
    "minmax": minmax,
    "mse": mse,
    "percentile": percentile,
}
"""Methods by the name a recipe calls them."""


def _extremes(parts: Segments, spec: Spec) -> Range:
    if spec.symmetric:
        return Range(-parts.largest, parts.largest)
    return Range(min(float(parts.low[0]), 0.0), max(float(parts.high[-1]), 0.0))


def _percentile(parts: Segments, spec: Spec, p: float) -> Range:
    if spec.symmetric:
        threshold = _quantile(parts.magnitudes(), p / 100)
        found = Range(-threshold, threshold)
    else:
        cut = (100 - p) / 200
        found = Range(min(_quantile(parts, cut), 0.0), max(_quantile(parts, 1 - cut), 0.0))
    return found if found.width > 0 else _extremes(parts, spec)


def _quantile(parts: Segments, q: float) -> float:
    """The value below which the fraction ``q`` lies; an end for ``q`` 0 or 1."""
    cumulative = np.cumsum(parts.counts)
    target = min(q * float(cumulative[-1]), float(cumulative[-1]))
    at = int(np.searchsorted(cumulative, target))
    inside = 1.0 - (float(cumulative[at]) - target) / float(parts.counts[at])
    low, high = float(parts.low[at]), float(parts.high[at])
    return low + max(inside, 0.0) * (high - low)


def _entropy(parts: Segments, spec: Spec) -> Range:
    whole = _extremes(parts, spec)
    if whole.width == 0:
        return whole
    one_sided = whole.lo == 0 or whole.hi == 0
    codes = int(spec.element.max) + 1 if spec.symmetric else 1 << spec.element.bits
    levels = codes if spec.symmetric or one_sided else codes // 2
    threshold = kl_threshold(parts.magnitudes(), levels)
    return Range(max(whole.lo, -threshold), min(whole.hi, threshold))


def _mse(parts: Segments, spec: Spec) -> Range:
    whole = _extremes(parts, spec)
    return Range(*least_squared_error(parts, whole.lo, whole.hi, spec))


def _best(parts: Segments, candidates: list[Range], spec: Spec) -> Range:
    """The candidate with the least expected error, ties to the widest."""
    scored = []
    for candidate in candidates:
        scale, zero = affine(np.array([candidate.lo]), np.array([candidate.hi]), spec)
        error = float(squared_errors(parts, scale, zero, spec)[0])
        scored.append((error, -candidate.width, candidate.lo, candidate))
    return min(scored, key=lambda entry: entry[:3])[3]
