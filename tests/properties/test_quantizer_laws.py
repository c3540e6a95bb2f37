"""Laws of quantize and dequantize, for any scale, zero point and data."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from qcompiler.granularity import PerAxis, PerBlock
from qcompiler.numerics.quantize import dequantize, fake_quantize, quantize
from qcompiler.spec import QParams, Spec

SPECS = st.sampled_from([Spec(), Spec(symmetric=False), Spec("uint8", symmetric=False)])
SCALES = st.floats(2.0**-60, 2.0**60, width=32)
UNITS = hnp.arrays(np.float32, st.integers(1, 40), elements=st.floats(-300, 300, width=32))


@st.composite
def cases(draw: st.DrawFn) -> tuple[NDArray[np.float32], QParams, Spec]:
    """Data of up to 300 steps on either side of zero, and the quantizer."""
    spec = draw(SPECS)
    scale = np.float32(draw(SCALES))
    low, high = int(spec.element.min), int(spec.element.max)
    zero = 0 if spec.symmetric else draw(st.integers(low, high))
    x = draw(UNITS) * scale
    return x, QParams(scale, np.array(zero, spec.element.dtype)), spec


@settings(deadline=None)
@given(cases())
def test_error_is_at_most_half_a_step_in_range(
    case: tuple[NDArray[np.float32], QParams, Spec],
) -> None:
    """In exact arithmetic |x - dq(q(x))| <= s/2.

    In float32 the quotient x/s, below 2**8, is off by at most 2**8 * 2**-24 = 2**-16 steps, and
    so is the product n s: together 2**-15.
    """
    x, qparams, spec = case
    scale, zero = float(qparams.scale), int(qparams.zero_point)
    exact = x.astype(np.float64)
    inside = (exact >= (spec.element.min - zero) * scale) & (
        exact <= (spec.element.max - zero) * scale
    )
    error = np.abs(exact - fake_quantize(x, qparams, spec))
    assert (error[inside] <= scale * (0.5 + 2.0**-15)).all()


@settings(deadline=None)
@given(cases())
def test_idempotent(case: tuple[NDArray[np.float32], QParams, Spec]) -> None:
    x, qparams, spec = case
    codes = quantize(x, qparams, spec)
    assert np.array_equal(quantize(dequantize(codes, qparams, spec), qparams, spec), codes)


@settings(deadline=None)
@given(cases())
def test_monotone(case: tuple[NDArray[np.float32], QParams, Spec]) -> None:
    x, qparams, spec = case
    codes = quantize(np.sort(x), qparams, spec).astype(np.int64)
    assert (np.diff(codes) >= 0).all()
    assert (np.diff(fake_quantize(np.sort(x), qparams, spec)) >= 0).all()


@settings(deadline=None)
@given(cases())
def test_zero_is_exact(case: tuple[NDArray[np.float32], QParams, Spec]) -> None:
    _, qparams, spec = case
    assert fake_quantize(np.zeros(1), qparams, spec) == 0


@settings(deadline=None)
@given(UNITS, SCALES)
def test_odd_when_symmetric(units: NDArray[np.float32], scale: float) -> None:
    """Up to the last code: -128 has no opposite."""
    x = np.clip(units, -127, 127) * np.float32(scale)
    qparams = QParams(scale, np.int8(0))
    assert np.array_equal(quantize(-x, qparams, Spec()), -quantize(x, qparams, Spec()))


@settings(deadline=None)
@given(st.data())
def test_permuting_channels_permutes_codes(data: st.DataObject) -> None:
    channels = data.draw(st.integers(1, 6))
    x = data.draw(hnp.arrays(np.float32, (channels, 3), elements=st.floats(-9, 9, width=32)))
    scale = data.draw(hnp.arrays(np.float32, channels, elements=st.floats(0.125, 8, width=32)))
    order = np.array(data.draw(st.permutations(range(channels))))
    spec = Spec(granularity=PerAxis(0))
    zero = np.zeros(channels, np.int8)
    straight = quantize(x, QParams(scale, zero), spec)
    assert np.array_equal(quantize(x[order], QParams(scale[order], zero), spec), straight[order])


@settings(deadline=None)
@given(UNITS, SCALES)
def test_a_block_that_is_the_tensor_is_per_tensor(units: NDArray[np.float32], scale: float) -> None:
    x = units * np.float32(scale)
    block = Spec(granularity=PerBlock(0, x.size))
    whole = fake_quantize(x, QParams(scale, np.int8(0)), Spec())
    assert np.array_equal(fake_quantize(x, QParams([scale], np.zeros(1, np.int8)), block), whole)


@settings(deadline=None)
@given(UNITS, SCALES)
def test_blocks_of_one_along_an_axis_of_a_vector_are_per_axis(
    units: NDArray[np.float32], scale: float
) -> None:
    x = units * np.float32(scale)
    scales = np.linspace(1, 2, x.size) * scale
    qparams = QParams(scales, np.zeros(x.size, np.int8))
    by_axis = quantize(x, qparams, Spec(granularity=PerAxis(0)))
    assert np.array_equal(quantize(x, qparams, Spec(granularity=PerBlock(0, 1))), by_axis)
