"""The threshold that loses least information: the KL search of TensorRT's entropy calibrator.

Szymon Migacz, "8-bit Inference with TensorRT" (GTC 2017); the same search is in ONNX Runtime's
``EntropyCalibrater``. Magnitudes are counted in 2048 even bins ``h``. For each candidate threshold,
the upper edge of bin ``i``, compare

* P: the first ``i`` bins, everything beyond added to the last of them (it saturates there);
* Q: the first ``i`` bins, merged into as many groups as there are levels, each group spread evenly
  over those of its bins that are not empty (what a code can still tell apart);

and keep the ``i`` with the least ``KL(P || Q) = sum p log(p / q)``. As in the original, bin 0
takes the count of bin 1, so that the zeros after a ReLU do not decide.

All candidates are evaluated at once. Within a group q is constant, so, with C, Z and L the running
sums of h, of [h > 0] and of h log h, both sums over bins are differences of running sums::

    N KL = sum(p log p) - sum over groups [ P(group) log(C(group) / Z(group)) ] + N log(C_i / N)
"""

from __future__ import annotations

import numpy as np

from qcompiler.numerics.affine import F64
from qcompiler.numerics.expected_error import Segments
from qcompiler.observers.histogram import I64

_BINS = 2048
_STRIDE = 4  # in bins; a finer one moves the threshold by less than the bins are wide


def kl_threshold(magnitudes: Segments, levels: int) -> float:
    """Threshold on the magnitude with the least KL divergence.

    Args:
        magnitudes: Distribution of ``|x|``; its largest value is positive.
        levels: Number of codes for ``[0, threshold]``: 128 for symmetric int8.

    Returns:
        A threshold in ``(0, largest]``.
    """
    largest = magnitudes.largest
    counts = _even_bins(magnitudes, largest)
    counts[0] = counts[1]
    total = counts.sum()
    if total == 0:  # everything was in bin 0, hence smaller than a step anyway
        return largest
    ends = np.arange(min(levels, _BINS), _BINS + 1, _STRIDE)
    divergence = divergences(counts, ends, levels)
    # of equal ones the widest: it clips least
    best = int(ends[::-1][int(np.argmin(divergence[::-1]))])
    return largest * best / _BINS


def _even_bins(magnitudes: Segments, largest: float) -> F64:
    """Counts in even bins over ``[0, largest]``, splitting segments in proportion."""
    edges = np.linspace(0.0, largest, _BINS + 1)
    atoms = magnitudes.low == magnitudes.high
    at = np.searchsorted(edges, magnitudes.low[atoms], side="right") - 1
    spikes: F64 = np.zeros(_BINS)
    np.add.at(spikes, np.minimum(at, _BINS - 1), magnitudes.counts[atoms])
    if atoms.all():
        return spikes
    low, high, counts = (
        array[~atoms] for array in (magnitudes.low, magnitudes.high, magnitudes.counts)
    )
    cumulative = np.cumsum(counts)
    corners = np.stack([low, high], axis=1).reshape(-1)
    heights = np.stack([cumulative - counts, cumulative], axis=1).reshape(-1)
    # interpolation can round a flat piece: no count is negative
    spread: F64 = np.maximum(np.diff(np.interp(edges, corners, heights)), 0.0)
    return spread + spikes


def divergences(counts: F64, ends: I64, levels: int) -> F64:
    """``KL(P || Q)`` for each candidate.

    Args:
        counts: Counts ``[n]`` in even bins.
        ends: Candidates ``[k]``: how many bins are kept, 1 … n.
        levels: Number of groups.

    Returns:
        float64 ``[k]``; infinite where P has mass that Q has not.
    """
    total = counts.sum()
    logs = counts * np.log(np.where(counts > 0, counts, 1.0))
    below, filled, entropy = (
        np.concatenate(([0.0], np.cumsum(a))) for a in (counts, counts > 0, logs)
    )
    borders = ends[:, None] * np.arange(levels + 1) // levels  # [k, levels + 1]
    q_mass, q_bins = np.diff(below[borders]), np.diff(filled[borders])
    last = counts[ends - 1]
    tail = np.maximum(total - below[ends], 0.0)
    p_mass = q_mass.copy()
    p_mass[:, -1] += tail
    density = q_mass / np.maximum(q_bins, 1.0)
    spread = (p_mass * np.log(np.where(q_mass > 0, density, 1.0))).sum(axis=1)
    capped = last + tail
    own = entropy[ends - 1] + capped * np.log(np.where(capped > 0, capped, 1.0))
    inside = below[ends]
    usable = (inside > 0) & ((last > 0) | (tail == 0))
    divergence = (own - spread) / total + np.log(np.where(usable, inside, 1.0) / total)
    return np.where(usable, divergence, np.inf)
