"""How far a tensor is from its reference, in three numbers; all sums in float64.

::

    mse      = sum((r - t)²) / n
    sqnr_db  = 10 log10( sum(r²) / sum((r - t)²) )     6.02 dB a bit; higher is better
    cosine   = sum(r t) / sqrt( sum(r²) sum(t²) )      blind to a wrong scale; read it beside SQNR

NaN in an argument gives NaN, never a good mark.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompiler.errors import InputError

_CHUNK = 1 << 20  # elements converted to float64 at a time: 8 MiB, whatever the tensor's size


def mse(reference: ArrayLike, test: ArrayLike) -> float:
    """Mean squared difference of two arrays of one shape; 0 for empty ones.

    Raises:
        InputError: The shapes differ.
    """
    count = np.size(reference)
    return _sums(reference, test)[2] / count if count else 0.0


def sqnr_db(reference: ArrayLike, test: ArrayLike) -> float:
    """Signal to quantization noise ratio in decibel.

    Returns:
        ``inf`` if the arrays are equal (both zero or both empty included), ``-inf`` if the
        reference is zero and the test is not.

    Raises:
        InputError: The shapes differ.
    """
    signal, _, noise, _ = _sums(reference, test)
    if noise == 0.0:
        return math.inf
    if signal == 0.0:
        return -math.inf
    return 10.0 * math.log10(signal / noise) if noise < math.inf else math.nan


def cosine(reference: ArrayLike, test: ArrayLike) -> float:
    """Cosine of the angle between two arrays of one shape, in -1 … 1.

    Returns:
        1 if both are zero, 0 if one is.

    Raises:
        InputError: The shapes differ.
    """
    rr, tt, _, rt = _sums(reference, test)
    if rr == 0.0 or tt == 0.0:
        return 1.0 if rr == tt else 0.0
    value = rt / (math.sqrt(rr) * math.sqrt(tt))
    return value if math.isnan(value) else max(-1.0, min(1.0, value))


def _sums(reference: ArrayLike, test: ArrayLike) -> tuple[float, float, float, float]:
    """``sum(r²), sum(t²), sum((r-t)²), sum(r t)`` in float64."""
    ref: NDArray[Any] = np.asarray(reference)
    tst: NDArray[Any] = np.asarray(test)
    if ref.shape != tst.shape:
        raise InputError(f"cannot compare shape {list(ref.shape)} with {list(tst.shape)}")
    ref, tst = ref.reshape(-1), tst.reshape(-1)
    totals = np.zeros(4)
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, ref.size, _CHUNK):
            r = ref[start : start + _CHUNK].astype(np.float64)
            t = tst[start : start + _CHUNK].astype(np.float64)
            d = r - t
            totals += (np.dot(r, r), np.dot(t, t), np.dot(d, d), np.dot(r, t))
    return (float(totals[0]), float(totals[1]), float(totals[2]), float(totals[3]))
