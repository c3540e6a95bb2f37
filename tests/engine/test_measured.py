"""Medians with their intervals, gaps between outputs, and the rule by which an engine loses."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.engine.measured import (
    FLOOR_DB,
    Gap,
    Measured,
    Timed,
    gaps,
    is_slower,
    timed,
)


@given(st.integers(6, 400))
def test_the_interval_is_the_narrowest_that_covers_95_percent(count: int) -> None:
    """Of samples 1..n the ends are ranks, and the binomial distribution says what they cover."""
    found = timed([float(i) for i in range(1, count + 1)])
    low, high = int(found.low), int(found.high)
    assert (low + high, found.median) == (count + 1, (count + 1) / 2)
    below = [sum(math.comb(count, k) for k in range(end)) / 2**count for end in (low, low + 1)]
    assert 1 - 2 * below[0] >= 0.95
    assert 1 - 2 * below[1] < 0.95


def test_it_covers_the_median_of_a_skewed_distribution() -> None:
    rng = np.random.default_rng(0)
    trials = 400
    found = [timed(rng.exponential(size=51).tolist()) for _ in range(trials)]
    share = sum(t.low <= math.log(2) <= t.high for t in found) / trials
    # Of 51 samples the interval covers 95.1 %; three standard deviations of 400 trials below it.
    assert share > 0.951 - 3 * math.sqrt(0.951 * 0.049 / trials)


def test_the_order_of_samples_does_not_matter_and_five_are_too_few() -> None:
    assert timed([3.0, 1, 2, 6, 5, 4]) == Timed(median=3.5, low=1, high=6)
    with pytest.raises(ValueError, match="5 samples"):
        timed([1.0] * 5)


def _time(median: float, spread: float) -> Timed:
    return Timed(median=median, low=median - spread, high=median + spread)


@pytest.mark.parametrize(
    ("ours", "slower"),
    [
        (_time(90, 1), False),
        (_time(103, 1), True),
        (_time(103, 2.5), False),  # the intervals overlap
        (_time(101.5, 0.1), False),  # for certain, and by less than the tolerance
    ],
)
def test_slower_is_beyond_doubt_and_beyond_the_tolerance(ours: Timed, slower: bool) -> None:
    assert is_slower(ours, _time(100, 1)) is slower


def _measured(**said: Any) -> Measured:
    facts: dict[str, Any] = {
        "gpu": "NVIDIA Toy", "capability": "SM89", "driver": "580.1", "shapes": "",
        "inputs": "given", "samples": 201, "calls": 4, "ours": _time(50, 1), "fp16": _time(100, 1),
        "outputs": (), "floor_db": FLOOR_DB,
    }  # fmt: skip
    return Measured(**(facts | said))


def test_the_worst_output_decides_about_accuracy() -> None:
    outputs = tuple(Gap(output=n, sqnr_db=db, cosine=1.0) for n, db in (("a", 40), ("b", 9.9)))
    found = _measured(outputs=outputs)
    assert found.worst == outputs[1]
    assert found.less_accurate
    assert not _measured(outputs=outputs[:1]).less_accurate
    assert not _measured(outputs=outputs, floor_db=0.0).less_accurate
    assert (_measured().worst, _measured().less_accurate) == (None, False)
    assert msgspec.json.decode(msgspec.json.encode(found), type=Measured) == found


def test_gaps_of_outputs() -> None:
    reference = np.array([3.0, 4.0], np.float32)
    ours = {"a": reference + np.float32(0.5), "same": reference, "index": np.array([1])}
    fp16 = {"a": reference, "same": reference, "index": np.array([2])}
    first, same = gaps(ours, fp16)
    # Signal 25, noise 0.5.
    assert first.output == "a"
    assert first.sqnr_db == pytest.approx(10 * math.log10(50))
    assert first.cosine == pytest.approx(
        float(ours["a"] @ reference / np.linalg.norm(ours["a"]) / 5)
    )
    assert (same.output, same.sqnr_db, same.cosine) == ("same", 999.0, 1.0)
    (broken,) = gaps({"a": np.array([np.nan, 4], np.float32)}, {"a": reference})
    assert broken.sqnr_db == -999.0
