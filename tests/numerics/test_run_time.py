"""Scales that a model computes while it runs."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.errors import InputError
from qcompiler.granularity import PerAxis, PerBlock
from qcompiler.numerics.quantize import fake_quantize, quantize
from qcompiler.numerics.run_time import LEAST_SCALE, run_time_qparams
from qcompiler.spec import Spec
from tests.hand_made import f32

TOKEN = Spec("fp8_e4m3", PerBlock(-1, 8))
BLOCK = Spec("fp8_e4m3", PerBlock(-1, 4))


def test_each_row_has_its_largest_value_as_448() -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 8)).astype(np.float32)
    found = run_time_qparams(x, TOKEN)
    assert found.scale.shape == (3, 5, 1)
    expected = np.abs(x).max(-1, keepdims=True) / np.float32(448)
    np.testing.assert_array_equal(found.scale, expected)
    codes = quantize(x, found, TOKEN).astype(np.float32)
    assert (np.abs(codes).max(-1) == 448).all()


def test_each_block_of_a_row_has_its_own() -> None:
    x = np.array([[1, -2, 0, 1, 100, 50, -25, 0]], np.float32)
    found = run_time_qparams(x, BLOCK)
    np.testing.assert_array_equal(found.scale, f32([[2 / 448, 100 / 448]]))
    np.testing.assert_allclose(fake_quantize(x, found, BLOCK), x, rtol=2**-4)


def test_a_token_of_zeros_gets_the_floor_and_stays_zero() -> None:
    x = np.zeros((2, 8), np.float32)
    found = run_time_qparams(x, TOKEN)
    assert (found.scale == np.float32(LEAST_SCALE)).all()
    assert not fake_quantize(x, found, TOKEN).any()


def test_no_scale_is_below_the_floor() -> None:
    x = np.full((1, 8), 1e-6, np.float32)
    assert run_time_qparams(x, TOKEN).scale == np.float32(LEAST_SCALE)
    assert run_time_qparams(x, TOKEN, least=1e-12).scale == np.float32(1e-6) / np.float32(448)


def test_a_token_of_small_norm_keeps_its_digits_beside_a_large_one() -> None:
    """Rounding to four significant bits is off by at most 1/16, whatever the other tokens are."""
    rows = np.random.default_rng(1).uniform(0.1, 1, (2, 8)).astype(np.float32)
    x = rows * f32([[1], [1e6]])
    np.testing.assert_allclose(fake_quantize(x, run_time_qparams(x, TOKEN), TOKEN), x, rtol=2**-4)


def test_it_works_for_channels_too() -> None:
    x = f32([[1, 2], [3, -8]])
    found = run_time_qparams(x, Spec("fp8_e4m3", PerAxis(1)))
    np.testing.assert_array_equal(found.scale, f32([3, 8]) / np.float32(448))


def test_blocks_must_fill_the_row() -> None:
    with pytest.raises(InputError, match="not a multiple of block 4"):
        run_time_qparams(np.zeros((2, 6), np.float32), BLOCK)
