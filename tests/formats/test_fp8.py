"""E4M3, exhaustively, and what it is for: outliers cost the other values nothing."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qcompiler import formats
from qcompiler.errors import InputError
from qcompiler.granularity import PerAxis, PerTensor
from qcompiler.numerics.expected_error import expected_error
from qcompiler.numerics.quantize import dequantize, fake_quantize, quantize
from qcompiler.numerics.weight_scale import search_scale
from qcompiler.observers.histogram import Histogram
from qcompiler.spec import QParams, Spec

FP8 = formats.get("fp8_e4m3")
SPEC = Spec("fp8_e4m3")
PATTERNS = np.arange(256, dtype=np.uint8)
CODES = PATTERNS[(PATTERNS & 0x7F) != 0x7F].view(FP8.dtype)  # all but the two NaNs
VALUES = np.unique(CODES.astype(np.float32))


def _decoded(pattern: int) -> float:
    """The OCP definition: (-1)^s 2^(e-7) (1 + m/8), or 2^-6 m/8 where e = 0."""
    sign, exponent, mantissa = pattern >> 7, pattern >> 3 & 15, pattern & 7
    size = 2.0 ** (exponent - 7) * (1 + mantissa / 8) if exponent else 2.0**-6 * mantissa / 8
    return -size if sign else size


def _reference(x: NDArray[Any], scale: float) -> NDArray[Any]:
    """Bit patterns that onnx.reference makes of QuantizeLinear with saturation."""
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], saturate=1)
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", kind, x.shape),
         helper.make_tensor_value_info("s", kind, ())],
        [helper.make_tensor_value_info("q", TensorProto.FLOAT8E4M3FN, x.shape)],
        [helper.make_tensor("z", TensorProto.FLOAT8E4M3FN, (), [0])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    (codes,) = ReferenceEvaluator(model).run(None, {"x": x, "s": np.array(scale, x.dtype)})
    return np.asarray(codes).view(np.uint8)


def test_the_type_is_onnx_s() -> None:
    assert FP8.onnx_type == TensorProto.FLOAT8E4M3FN
    assert onnx.helper.tensor_dtype_to_np_dtype(FP8.onnx_type) == FP8.dtype
    assert (FP8.bits, FP8.min, FP8.max, FP8.is_float) == (8, -448.0, 448.0, True)


def test_every_code_is_what_the_definition_says() -> None:
    expected = [_decoded(int(p)) for p in CODES.view(np.uint8)]
    decoded = FP8.decode(CODES)
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, np.array(expected, np.float32))
    np.testing.assert_array_equal(np.signbit(decoded), np.signbit(expected))
    assert len(CODES) == 254
    assert VALUES[VALUES > 0].min() == 2.0**-9


def test_encode_inverts_decode_bit_for_bit_signed_zero_included() -> None:
    again = FP8.encode(FP8.decode(CODES))
    np.testing.assert_array_equal(again.view(np.uint8), CODES.view(np.uint8))


def test_every_tie_goes_to_the_even_mantissa_and_beside_it_to_the_nearest() -> None:
    low, high = VALUES[:-1], VALUES[1:]
    tie = (low + high) / 2
    chosen = FP8.encode(tie)
    assert (chosen.view(np.uint8) & 1 == 0).all()
    np.testing.assert_array_equal(np.abs(FP8.decode(chosen) - tie), (high - low) / 2)
    np.testing.assert_array_equal(FP8.decode(FP8.encode(np.nextafter(tie, -np.inf))), low)
    np.testing.assert_array_equal(FP8.decode(FP8.encode(np.nextafter(tie, np.inf))), high)


@pytest.mark.parametrize("beyond", [448.1, 464.0, 465.0, 480.0, 1e9, 3e38, np.inf])
def test_saturates(beyond: float) -> None:
    x = np.array([-beyond, beyond], np.float32)
    assert FP8.decode(FP8.encode(x)).tolist() == [-448.0, 448.0]


def test_nan_is_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        FP8.encode(np.array([1.0, np.nan], np.float32))


@given(hnp.arrays(np.float32, 64, elements=st.floats(-600, 600, width=32)))
def test_agrees_with_ml_dtypes_and_onnx_on_float32(x: NDArray[np.float32]) -> None:
    expected = np.clip(x, -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(FP8.encode(x).view(np.uint8), expected)
    np.testing.assert_array_equal(_reference(x, 1.0), expected)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_agrees_with_onnx_on_every_16_bit_number(dtype: Any) -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(dtype)
    wide = every.astype(np.float32)
    sound = np.isfinite(wide)
    expected = np.clip(wide[sound], -448, 448).astype(ml_dtypes.float8_e4m3fn).view(np.uint8)
    np.testing.assert_array_equal(FP8.encode(wide[sound]).view(np.uint8), expected)
    np.testing.assert_array_equal(_reference(every[sound], 1.0), expected)


@given(
    hnp.arrays(np.float32, 40, elements=st.floats(-500, 500, width=32)),
    st.floats(2.0**-30, 2.0**30, width=32),
)
def test_quantize_is_onnx_s_for_any_scale(units: NDArray[np.float32], scale: float) -> None:
    x = units * np.float32(scale)
    qparams = QParams(scale, np.zeros((), FP8.dtype))
    codes = quantize(x, qparams, SPEC)
    np.testing.assert_array_equal(codes.view(np.uint8), _reference(x, scale))
    values = dequantize(codes, qparams, SPEC)
    np.testing.assert_array_equal(values, FP8.decode(codes) * np.float32(scale))


def test_the_relative_error_is_a_sixteenth_at_most_over_fifteen_binades() -> None:
    """Half of 2^-3 of the leading bit, where the scaled value is a normal number."""
    x = np.random.default_rng(0).lognormal(0, 1, 20000).astype(np.float32)
    qparams = search_scale(x, SPEC, search=False)
    assert float(qparams.scale) == pytest.approx(x.max() / 448, rel=1e-6)
    normal = x / qparams.scale >= 2.0**-6
    error = np.abs(fake_quantize(x, qparams, SPEC) - x) / x
    assert normal.mean() > 0.99
    assert error[normal].max() <= 1 / 16 + 1e-6


@pytest.mark.parametrize("granularity", [PerTensor(), PerAxis(1)])
def test_a_weight_s_scale_is_its_largest_value_over_448(granularity: Any) -> None:
    w = np.random.default_rng(1).standard_normal((32, 16)).astype(np.float32)
    qparams = search_scale(w, Spec("fp8_e4m3", granularity), search=False)
    axis = None if isinstance(granularity, PerTensor) else 0
    np.testing.assert_allclose(qparams.scale, np.abs(w).max(axis) / 448, rtol=1e-6)


def _error(x: NDArray[np.float32], w: NDArray[np.float32], name: str) -> float:
    """Relative error of ``x w`` with both operands quantized by their largest values."""
    spec = Spec(name)
    operands = [fake_quantize(t, search_scale(t, spec, search=False), spec) for t in (x, w)]
    exact = x.astype(np.float64) @ w
    return float(np.linalg.norm(operands[0].astype(np.float64) @ operands[1] - exact)
                 / np.linalg.norm(exact))  # fmt: skip


def test_one_channel_a_hundred_times_larger_does_not_move_fp8_and_ruins_int8() -> None:
    """The channel's weights are a hundred times smaller: the exact result stays what it was."""
    generator = np.random.default_rng(2)
    x = generator.standard_normal((512, 256)).astype(np.float32)
    w = (generator.standard_normal((256, 256)) / 16).astype(np.float32)
    loud, quiet = x.copy(), w.copy()
    loud[:, 7] *= 100
    quiet[7] /= 100
    before, after = (_error(*pair, "fp8_e4m3") for pair in ((x, w), (loud, quiet)))
    assert abs(after / before - 1) < 0.1
    before, after = (_error(*pair, "int8") for pair in ((x, w), (loud, quiet)))
    assert after > 10 * before


def test_the_expected_error_is_that_of_the_values() -> None:
    """Bins are narrower than the steps; their even density is off by a few percent."""
    x = np.random.default_rng(3).standard_normal(100_000).astype(np.float32)
    qparams = search_scale(x, SPEC, search=False)
    expected = expected_error(Histogram.empty().update(x), qparams, SPEC)
    measured = float(((fake_quantize(x, qparams, SPEC).astype(np.float64) - x) ** 2).mean())
    assert expected == pytest.approx(measured, rel=0.05)
