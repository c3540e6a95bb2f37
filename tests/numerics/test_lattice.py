"""Grids in weights are found, and only grids."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.granularity import PerAxis
from qcompiler.numerics.lattice import lattice_steps
from qcompiler.numerics.quantize import fake_quantize
from qcompiler.numerics.weight_scale import search_scale
from qcompiler.spec import Spec


@given(st.integers(0, 2**32 - 1), st.floats(1e-4, 10.0))
def test_the_step_of_a_grid_is_found(seed: int, step: float) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(-127, 128, (4, 200))
    codes[:, :2] = [0, 1]
    rows = (codes * np.float32(step)).astype(np.float32)
    # Each value is one float32 rounding off k*step, least squares averages that down.
    np.testing.assert_allclose(lattice_steps(rows, 127), np.float32(step), rtol=2**-23)


@given(st.integers(0, 2**32 - 1))
def test_drawn_weights_lie_on_no_grid(seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(8, 144)).astype(np.float32)
    assert not lattice_steps(rows, 127).any()


def test_a_grid_that_needs_more_codes_is_of_no_use() -> None:
    rows = np.arange(-200, 201, dtype=np.float32)[None] * np.float32(0.01)
    assert lattice_steps(rows, 127)[0] == 0.0
    np.testing.assert_allclose(lattice_steps(rows, 200)[0], 0.01, rtol=1e-6)


def test_weights_on_a_grid_are_quantized_without_loss() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-100, 101, (6, 300))
    codes[:, :2] = [0, 1]
    weight = (codes * np.float32(0.0123)).astype(np.float32)
    spec = Spec("int8", PerAxis(0))
    found = fake_quantize(weight, search_scale(weight, spec), spec)
    np.testing.assert_allclose(found, weight, rtol=2**-22)
    absmax = fake_quantize(weight, search_scale(weight, spec, search=False), spec)
    assert np.abs(absmax - weight).max() > 1e-3
