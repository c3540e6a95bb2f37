"""What was measured of two engines that ran by turns on one GPU, and when one of them lost.

Times are medians: of an execution, most of the noise is on one side. The interval is that of the
order statistics, which assumes independent samples and nothing about their distribution: of ``n``
sorted samples the true median lies between the ``k``-th smallest and the ``k``-th largest with
probability ``1 - 2 P(B < k)``, where ``B`` is binomial with ``n`` throws of a fair coin (David and
Nagaraja, *Order Statistics*, section 7.1). The largest ``k`` that leaves at least 95 % is taken.

An engine is called slower only if both hold: the intervals do not overlap, and its median is more
than the tolerance above the other.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from qcompiler.compare import Sums
from qcompiler.report import EQUAL_DB

TOLERANCE = 0.02
"""By how much an engine may be above FP16: 2 %, for rounding and a Cast at the ends."""

FLOOR_DB = 10.0
"""Least SQNR against FP16 on inputs that were given: noise of a tenth of the signal's power."""

MADE_UP_FLOOR_DB = 0.0
"""The same on made-up inputs, which ranges were not chosen for: the noise must not drown it."""

_LEAST = 6  # samples: 1 - 2 * 2**-6 > 95 %


class Timed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The time of one execution, in seconds.

    Attributes:
        median: Over the samples.
        low: Lower end of its 95 % interval.
        high: Upper end.
    """

    median: float
    low: float
    high: float


class Gap(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How far one output of the engine is from that of FP16.

    Attributes:
        output: Its name.
        sqnr_db: Signal-to-noise ratio in dB, FP16 as the signal; 999 if the outputs are equal,
            -999 if one has a NaN or an infinity that the other has not.
        cosine: Cosine similarity.
    """

    output: str
    sqnr_db: float
    cosine: float


class Measured(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An engine and the FP16 form of its source, run by turns on one GPU.

    Attributes:
        gpu: As the driver calls it.
        capability: Its compute capability.
        driver: Version of the driver.
        shapes: Those that dynamic inputs were fixed at, for both; empty if there are none.
        inputs: Whether the inputs were ``given`` or ``made up``.
        samples: Of each engine.
        calls: Executions that a sample is the mean of.
        ours: Of the engine that was asked for.
        fp16: Of the FP16 form.
        outputs: Those of floating point.
        floor_db: Least SQNR that an output may have.
        tolerance: How far ``ours`` may be above ``fp16``, as a share.
    """

    gpu: str
    capability: str
    driver: str
    shapes: str
    inputs: Literal["given", "made up"]
    samples: int
    calls: int
    ours: Timed
    fp16: Timed
    outputs: tuple[Gap, ...]
    floor_db: float
    tolerance: float = TOLERANCE

    @property
    def slower(self) -> bool:
        """Whether the engine is slower than FP16 beyond doubt and beyond the tolerance."""
        return is_slower(self.ours, self.fp16, self.tolerance)

    @property
    def worst(self) -> Gap | None:
        """The output that is furthest from that of FP16; None if none is of floating point."""
        return min(self.outputs, key=lambda gap: gap.sqnr_db, default=None)

    @property
    def less_accurate(self) -> bool:
        """Whether an output is below the floor."""
        return self.worst is not None and self.worst.sqnr_db < self.floor_db


def is_slower(ours: Timed, theirs: Timed, tolerance: float = TOLERANCE) -> bool:
    """Whether the intervals do not overlap, and the median is more than the tolerance above."""
    return ours.low > theirs.high and ours.median > theirs.median * (1 + tolerance)


def timed(samples: Sequence[float]) -> Timed:
    """Median and 95 % interval.

    Args:
        samples: Seconds, at least 6.

    Raises:
        ValueError: Fewer samples: there is no such interval.
    """
    if len(samples) < _LEAST:
        raise ValueError(f"{len(samples)} samples have no 95 % interval of the median")
    ordered = sorted(samples)
    rank = _rank(len(ordered))
    return Timed(median=float(np.median(ordered)), low=ordered[rank - 1], high=ordered[-rank])


def _rank(count: int) -> int:
    """The largest k with ``P(B < k) <= 2.5 %``, in whole numbers."""
    below, rank = 0, 0
    # 40 * sum of C(n, i) over i <= rank must not exceed 2**n.
    while 40 * (below + math.comb(count, rank)) <= 2**count:
        below += math.comb(count, rank)
        rank += 1
    return rank


def gaps(ours: Mapping[str, NDArray[Any]], fp16: Mapping[str, NDArray[Any]]) -> tuple[Gap, ...]:
    """How far the outputs of floating point are apart.

    Args:
        ours: Output -> array of the engine.
        fp16: Of the FP16 form; the same names.
    """
    found = []
    for name, reference in sorted(fp16.items()):
        if reference.dtype.kind in "iub":  # the distance between two indices means nothing
            continue
        sums = Sums()
        sums.add(reference, ours[name])
        sqnr = min(max(sums.sqnr_db(), -EQUAL_DB), EQUAL_DB)
        found.append(Gap(output=name, sqnr_db=sqnr, cosine=sums.cosine()))
    return tuple(found)
