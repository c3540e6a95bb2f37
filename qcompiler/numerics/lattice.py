"""Weights that already lie on a grid: find its step, and quantizing them loses nothing.

A model that was quantized before (trained with quantization, or converted back from TFLite) has
weights ``w = k s`` with small integers ``k``.  Any other scale than ``s`` rounds them once more;
``s`` itself gives the codes ``k`` back exactly.  The step of a channel is the smallest distance
between two of its values, if every value is a multiple of it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from qcompiler.formats import F32

F64 = NDArray[np.float64]

# Elements of a channel looked at first: 64 values that lie on no grid of 8 bits show it.
_PROBE = 64
# A float32 product k*s is off by 2**-24 relative; k < 256 leaves 2**-16 of a step. Be generous.
_TOLERANCE = 1e-3
# The smallest gap is a first guess of the step, off by the rounding of two values.
_NEAR = 0.05


def lattice_steps(rows: F32, levels: int) -> F64:
    """The step of each row's grid.

    Args:
        rows: float32 ``[channels, elements]``.
        levels: Largest code; a grid on which the largest value has a higher one is of no use.

    Returns:
        float64 ``[channels]``: the step, or 0 where there is no grid or fewer than three values.
    """
    steps = np.zeros(len(rows))
    largest = np.abs(rows).max(axis=1, initial=0.0).astype(np.float64)
    probe = rows[:, :_PROBE].astype(np.float64)
    closest = _closest(rows[:, :_PROBE])
    with np.errstate(divide="ignore", invalid="ignore"):
        codes = probe / closest[:, None]
    # Rounding of the values may bring two equal ones a hair apart: far below any useful step.
    near = np.abs(codes - np.rint(codes)).max(axis=1, initial=0.0) < _NEAR
    for row in np.flatnonzero(near & (closest > 0) & (largest <= 2 * levels * closest)):
        steps[row] = _step(rows[row], float(largest[row]), levels)
    return steps


def _closest(values: F32) -> F64:
    """Smallest positive distance between two of the magnitudes of each row, zero among them."""
    magnitudes = np.abs(values.astype(np.float64))
    ordered = np.sort(np.concatenate([magnitudes, np.zeros((len(values), 1))], axis=1), axis=1)
    gaps = np.diff(ordered, axis=1)
    scale = ordered[:, -1:] * 1e-6
    closest: F64 = np.where(gaps > scale, gaps, np.inf).min(axis=1, initial=np.inf)
    return closest


def _step(row: F32, largest: float, levels: int) -> float:
    step = float(_closest(row[None])[0])
    if not np.isfinite(step) or largest > (levels + 0.5) * step:
        return 0.0
    values = row.astype(np.float64)
    codes = np.rint(values / step)
    if len(np.unique(codes)) < 3:
        return 0.0
    # Least squares over all values: the smallest gap alone carries the rounding of two floats.
    step = float(values @ codes / (codes @ codes))
    off = np.abs(values / step - np.rint(values / step)).max()
    return step if off < _TOLERANCE and largest <= (levels + 0.5) * step else 0.0
