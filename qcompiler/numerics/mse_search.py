"""The range with the least expected squared error.

Clipping costs more the narrower the range, rounding costs more the wider it is. The sum is smooth
but need not be convex, hence a grid: ends at ``f`` times the extremes, with ``f`` spaced evenly in
the logarithm (finely over the upper two octaves, coarsely down to 2**-12), then once more between
the neighbours of the best. A symmetric spec has one end to search. An asymmetric one has two; both
are shrunk together first, then each by itself, twice.
"""

from __future__ import annotations

import numpy as np

from qcompiler.numerics.affine import F64, affine
from qcompiler.numerics.expected_error import Segments, squared_errors
from qcompiler.spec import Spec

_REFINED = 17
_ROUNDS = 2  # the first end was searched beside a wrong second one


def _grid() -> F64:
    """Factors from 1 down to 2**-12; the widest range first, so that it wins ties."""
    return np.concatenate([np.geomspace(1.0, 0.25, 65), np.geomspace(0.25, 2.0**-12, 25)[1:]])


def least_squared_error(parts: Segments, lo: float, hi: float, spec: Spec) -> tuple[float, float]:
    """Ends ``(lo', hi')`` within ``[lo, hi]`` of the range with the least expected error.

    Args:
        parts: The distribution.
        lo: Lower end to shrink, at most 0.
        hi: Upper end to shrink, at least 0.
        spec: An integer format; if symmetric, ``lo == -hi``.
    """
    both = _search(parts, (lo, hi), (True, True), (1.0, 1.0), spec)
    if not spec.symmetric and lo < 0 < hi:
        for free in ((False, True), (True, False)) * _ROUNDS:
            both = _search(parts, (lo, hi), free, both, spec)
    return lo * both[0], hi * both[1]


def _search(
    parts: Segments,
    ends: tuple[float, float],
    free: tuple[bool, bool],
    start: tuple[float, float],
    spec: Spec,
) -> tuple[float, float]:
    """Best factors of the two ends, where those not ``free`` keep their ``start``."""

    def columns(factors: F64) -> tuple[F64, F64]:
        left, right = (
            factors if may else np.full_like(factors, f) for may, f in zip(free, start, strict=True)
        )
        return left, right

    def best(factors: F64) -> int:
        left, right = columns(factors)
        scale, zero = affine(ends[0] * left, ends[1] * right, spec)
        return int(np.argmin(squared_errors(parts, scale, zero, spec)))

    grid = _grid()
    at = best(grid)
    wide, narrow = grid[max(at - 1, 0)], grid[min(at + 1, grid.size - 1)]
    # the best of the grid stays among the refined ones, so refining never loses
    fine = np.sort(np.append(np.geomspace(wide, narrow, _REFINED), grid[at]))[::-1]
    left, right = columns(fine)
    at = best(fine)
    return float(left[at]), float(right[at])
