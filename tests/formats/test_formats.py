"""Integer formats, exhaustively: every code, every tie between codes, both ends."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from qcompiler import formats
from qcompiler.errors import InputError
from qcompiler.formats import Format

ALL = [formats.get(name) for name in formats.names()]


@pytest.fixture(params=[f for f in ALL if not f.is_float], ids=lambda fmt: fmt.name)
def fmt(request: pytest.FixtureRequest) -> Format:
    found: Format = request.param
    return found


def every_code(fmt: Format) -> np.ndarray:
    return np.arange(fmt.min, fmt.max + 1).astype(fmt.dtype)


def test_names_are_the_files() -> None:
    assert formats.names() == ("fp8_e4m3", "int8", "uint8")
    assert [fmt.name for fmt in ALL] == list(formats.names())


def test_unknown_name_lists_what_exists() -> None:
    with pytest.raises(InputError, match="unknown format 'int9'") as caught:
        formats.get("int9")
    assert caught.value.hint == "use one of: fp8_e4m3, int8, uint8"


def test_base_is_no_format() -> None:
    with pytest.raises(InputError):
        formats.get("base")


def test_onnx_type_and_dtype_agree_with_onnx(fmt: Format) -> None:
    assert fmt.onnx_type == onnx.TensorProto.DataType.Value(fmt.name.upper())
    assert onnx.helper.tensor_dtype_to_np_dtype(fmt.onnx_type) == fmt.dtype


def test_all_bit_patterns_are_codes(fmt: Format) -> None:
    assert fmt.max - fmt.min + 1 == 1 << fmt.bits


def test_encode_inverts_decode(fmt: Format) -> None:
    codes = every_code(fmt)
    values = fmt.decode(codes)
    assert values.dtype == np.float32
    assert np.array_equal(values, codes.astype(np.float64))
    again = fmt.encode(values)
    assert again.dtype == fmt.dtype
    assert np.array_equal(again, codes)


def test_ties_go_to_even(fmt: Format) -> None:
    lower = every_code(fmt)[:-1].astype(np.float32)
    codes = fmt.encode(lower + np.float32(0.5)).astype(np.int64)
    assert (codes % 2 == 0).all()
    assert (np.abs(codes - lower - 0.5) == 0.5).all()


def test_beside_a_tie_goes_to_the_nearest(fmt: Format) -> None:
    lower = every_code(fmt)[:-1]
    tie = lower.astype(np.float32) + np.float32(0.5)
    assert np.array_equal(fmt.encode(np.nextafter(tie, np.float32(-np.inf))), lower)
    assert np.array_equal(fmt.encode(np.nextafter(tie, np.float32(np.inf))), every_code(fmt)[1:])


@pytest.mark.parametrize("beyond", [0.5, 1.0, 1e9, 3e38, np.inf])
def test_saturates(fmt: Format, beyond: float) -> None:
    x = np.array([fmt.min - beyond, fmt.max + beyond], np.float32)
    assert fmt.encode(x).tolist() == [fmt.min, fmt.max]


def test_nan_is_refused(fmt: Format) -> None:
    with pytest.raises(InputError, match="NaN"):
        fmt.encode(np.array([0.0, np.nan, 1.0], np.float32))


def test_empty_and_scalar(fmt: Format) -> None:
    assert fmt.encode(np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert fmt.encode(np.array(3.0, np.float32)).shape == ()
