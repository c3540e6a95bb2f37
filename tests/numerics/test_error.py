"""SQNR, cosine and MSE: known values and every degenerate case."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qcompiler.errors import InputError
from qcompiler.numerics.error import cosine, mse, sqnr_db

ZERO = np.zeros(3, np.float32)
ONES = np.ones(3, np.float32)


def test_known_values() -> None:
    reference = np.array([3.0, 4.0], np.float32)
    test = np.array([3.0, 4.5], np.float32)
    assert mse(reference, test) == 0.125
    assert sqnr_db(reference, test) == 20.0  # 25 / 0.25
    assert cosine(np.array([1.0, 0.0]), np.array([1.0, 1.0])) == pytest.approx(math.sqrt(0.5))


def test_equal() -> None:
    assert sqnr_db(ONES, ONES) == math.inf
    assert sqnr_db(ZERO, ZERO) == math.inf
    assert cosine(ONES, 2 * ONES) == pytest.approx(1.0, abs=1e-15)
    assert cosine(ONES, -ONES) == pytest.approx(-1.0, abs=1e-15)
    assert mse(ONES, ONES) == 0.0


def test_zero_reference() -> None:
    assert sqnr_db(ZERO, ONES) == -math.inf
    assert cosine(ZERO, ONES) == 0.0
    assert cosine(ONES, ZERO) == 0.0
    assert cosine(ZERO, ZERO) == 1.0


def test_zero_test_has_zero_decibel() -> None:
    assert sqnr_db(ONES, ZERO) == 0.0


def test_empty() -> None:
    empty = np.zeros((0, 2), np.float32)
    assert (mse(empty, empty), sqnr_db(empty, empty), cosine(empty, empty)) == (0.0, math.inf, 1.0)


def test_nan_is_never_a_good_mark() -> None:
    bad = np.array([1.0, np.nan, 1.0], np.float32)
    assert math.isnan(mse(ONES, bad))
    assert math.isnan(sqnr_db(ONES, bad))
    assert math.isnan(cosine(ONES, bad))
    infinite = np.array([1.0, np.inf, 1.0], np.float32)
    assert not sqnr_db(ONES, infinite) > -math.inf
    assert math.isnan(cosine(ONES, infinite))


def test_accumulates_in_float64() -> None:
    """In float32 the small differences vanish beside the large sum."""
    reference = np.full(3_000_000, 1.0, np.float32)
    test = reference + np.float32(2.0**-12)
    assert mse(reference, test) == 2.0**-24
    assert sqnr_db(reference, test) == pytest.approx(240 * math.log10(2), rel=1e-12)


def test_integers_do_not_overflow() -> None:
    assert mse(np.array([127], np.int8), np.array([-128], np.int8)) == 255.0**2


def test_shapes_must_agree() -> None:
    for measure in (mse, sqnr_db, cosine):
        with pytest.raises(InputError, match=r"\[3\] with \[3, 1\]"):
            measure(ONES, ONES[:, None])
