"""The expected error against errors that really happen, and against hand-computed integrals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompiler.errors import InputError
from qcompiler.numerics.affine import Range, to_qparams
from qcompiler.numerics.error import mse
from qcompiler.numerics.expected_error import expected_error, segments
from qcompiler.numerics.quantize import fake_quantize
from qcompiler.observers.histogram import Histogram
from qcompiler.spec import QParams, Spec

INT8 = Spec()
UINT8 = Spec("uint8", symmetric=False)
N = 200_000
LAST = 64.5 / 127  # the scale that puts the last code at 64.5


def draw(name: str) -> NDArray[np.float32]:
    rng = np.random.default_rng(11)
    normal = rng.standard_normal(N)
    drawn: dict[str, NDArray[np.floating[Any]]] = {
        "normal": normal,
        "laplace": rng.laplace(size=N),
        "relu": np.maximum(normal, 0),
        "relu6": np.clip(4 * normal, 0, 6),
        "silu": 2 * normal / (1 + np.exp(-2 * normal)),
        "heavy": rng.standard_t(3, size=N),
        "lognormal": rng.lognormal(0, 2, N),
        "shifted": normal + 20,
        "uniform": rng.uniform(-1, 3, N),
    }
    return drawn[name].astype(np.float32)


@pytest.mark.parametrize("spec", [INT8, UINT8], ids=["int8", "uint8"])
@pytest.mark.parametrize("shrink", [1.0, 0.6, 0.2, 0.02])
@pytest.mark.parametrize(
    "name",
    ["normal", "laplace", "relu", "relu6", "silu", "heavy", "lognormal", "shifted", "uniform"],
)
def test_is_the_error_that_happens(name: str, shrink: float, spec: Spec) -> None:
    """A bin is 1/64 of its distance from zero, so a clipped value x is known to x/128 and the
    error, evenly spread in a bin, to second order. What remains is the sampling error of 200,000
    drawn values, below one percent but for the heaviest tails.
    """
    x = draw(name)
    hist = Histogram.empty().update(x)
    lo = 0.0 if spec is UINT8 and x.min() >= 0 else float(x.min())
    qparams = to_qparams(Range(lo * shrink, float(x.max()) * shrink), spec)
    true = mse(x, fake_quantize(x, qparams, spec))
    assert expected_error(hist, qparams, spec) == pytest.approx(true, rel=0.03)


@pytest.mark.parametrize("value", [0.0, 0.3, -0.3, 1.0, 100.25, 127.4, -128.0, 130.0, -500.0])
def test_a_single_value_is_exact(value: float) -> None:
    hist = Histogram.empty().update([value])
    qparams = QParams(1.0, np.int8(0))
    x = np.array([value], np.float32)
    true = mse(x, fake_quantize(x, qparams, INT8))
    assert expected_error(hist, qparams, INT8) == pytest.approx(true, rel=1e-12, abs=1e-30)


def even(low: float, high: float) -> Histogram:
    """One bin exactly from ``low`` to ``high``; its two ends are what it counts."""
    return Histogram.empty().update([low, np.nextafter(np.float32(high), np.float32(0))])


@pytest.mark.parametrize(
    ("low", "high", "scale", "expected"),
    [
        (1.0, 1 + 1 / 64, 4.0, ((1 + 1 / 64) ** 3 - 1) / 3 * 64),  # lost: the mean of x²
        (64.0, 65.0, 1.0, 1 / 12),  # as wide as the step, tie in the middle
        (64.0, 65.0, 0.75, 0.75**3 / 12 + 2 * (0.375**3 - 0.25**3) / 3),  # a cell and two parts
        (64.0, 65.0, 2.0, 1 / 3),  # within half a step: from 0 to 1 off code 32
        (64.0, 65.0, 0.25, (33.25**3 - 32.25**3) / 3),  # clipped at 127 / 4 = 31.75
        (64.0, 65.0, LAST, (2 * (LAST / 2) ** 3 + 0.5**3 - (64 - 126 * LAST) ** 3) / 3),  # partly
    ],
)
def test_one_bin_by_hand(low: float, high: float, scale: float, expected: float) -> None:
    """Off by 1e-4 at most: the bin ends one float, 2**-17, below ``high``."""
    error = expected_error(even(low, high), QParams(scale, np.int8(0)), INT8)
    assert error == pytest.approx(expected, rel=1e-4)


def test_sampled_lone_outlier_counts_once() -> None:
    """1,000 values in [-1, 1] were sampled; the tensor also holds a 1000."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, 1000).astype(np.float32)
    sampled = Histogram.empty().update(x, minimum=-1.0, maximum=1000.0)
    whole = np.append(x, np.float32(1000))
    qparams = to_qparams(Range(-1, 1), INT8)
    true = mse(whole, fake_quantize(whole, qparams, INT8))
    assert true > 990
    assert expected_error(sampled, qparams, INT8) == pytest.approx(true, rel=1e-3)


def test_counted_extremes_are_not_counted_twice() -> None:
    x = np.array([-3.7, -1.0, 0.5, 2.2, 1e30], np.float32)
    plain = Histogram.empty().update(x)
    assert segments(plain).counts.sum() == 5
    given = Histogram.empty().update(x, minimum=float(x.min()), maximum=float(x.max()))
    assert segments(given).counts.sum() == 5


def test_extremes_alone_are_enough() -> None:
    hist = Histogram.empty().update(np.zeros(0), minimum=-2.0, maximum=3.0)
    assert segments(hist).counts.tolist() == [1.0, 1.0]
    assert segments(hist).low.tolist() == [-2.0, 3.0]


def test_magnitudes_are_disjoint_and_complete() -> None:
    for name in ("normal", "silu", "shifted", "relu6"):
        x = draw(name)
        parts = segments(Histogram.empty().update(x)).magnitudes()
        assert (parts.low <= parts.high).all()
        assert (parts.high[:-1] <= parts.low[1:]).all()
        assert parts.counts.sum() == N
        assert parts.largest == np.abs(x).max()


def test_refusals() -> None:
    with pytest.raises(InputError, match="no finite value"):
        expected_error(Histogram.empty(), QParams(1.0, np.int8(0)), INT8)
    hist = Histogram.empty().update([1.0])
    with pytest.raises(InputError, match="0-D scale"):
        expected_error(hist, QParams(np.ones(1), np.zeros(1, np.int8)), INT8)
