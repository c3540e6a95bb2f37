"""Bytes by dimensions and types."""

from __future__ import annotations

import pytest

from qcompiler.engine import traffic
from qcompiler.engine.listing import Layer, Tensor
from qcompiler.errors import BackendError


def _tensor(name: str, *dims: int, dtype: str = "Half", strides: tuple[int, ...] = ()) -> Tensor:
    return Tensor(name, dims, dtype, "", strides)


def _layer(
    inputs: tuple[Tensor, ...] = (),
    constants: tuple[Tensor, ...] = (),
    outputs: tuple[Tensor, ...] = (),
    *,
    name: str = "__myl_Mul_myl0_1",
    kind: str = "kgen",
) -> Layer:
    return Layer(name, kind, inputs, constants, outputs, ())


@pytest.mark.parametrize(
    ("dtype", "count"),
    [("Float", 24), ("Half", 12), ("Int8", 6), ("FP8", 6), ("Int4", 3), ("Int64", 48)],
)
def test_size_is_elements_times_width(dtype: str, count: int) -> None:
    assert traffic.size(_tensor("x", 2, 3, dtype=dtype), 8) == count


def test_odd_numbers_of_half_bytes_are_rounded_up() -> None:
    assert traffic.size(_tensor("x", 3, dtype="FP4E2M1"), 8) == 2


def test_dynamic_dimensions_count_as_the_batch() -> None:
    layer = _layer((_tensor("x", -1, 4),), outputs=(_tensor("y", -1, 2),))
    assert (traffic.read(layer, 8), traffic.written(layer, 8)) == (64, 32)
    assert (traffic.read(layer, 1), traffic.written(layer, 1)) == (8, 4)


def test_a_tensor_used_twice_is_read_once() -> None:
    x = _tensor("x", 2, 4, strides=(4, 1))
    assert traffic.read(_layer((x, x)), 8) == 16


def test_two_slices_of_a_wider_tensor_are_two_reads() -> None:
    x = _tensor("x", 2, 4, strides=(8, 1))
    assert traffic.read(_layer((x, x)), 8) == 32


def test_a_gather_reads_the_rows_it_writes() -> None:
    index = _tensor("i", 1, 4, dtype="Int64")
    table = _tensor("t", 1000, 16, dtype="Float")
    rows = _tensor("y", 1, 4, 16)
    layer = _layer((index,), (table,), (rows,), name="__myl_CastGath_myl0_1")
    assert traffic.read(layer, 8) == 32 + 64 * 4
    plain = _layer((index,), (table,), (rows,))
    assert traffic.read(plain, 8) == 32 + 16000 * 4


def test_a_type_of_unknown_width_is_an_error() -> None:
    with pytest.raises(BackendError, match="'Float6' has no known width"):
        traffic.size(_tensor("x", 3, dtype="Float6"), 8)


@pytest.mark.parametrize(
    ("kind", "dims", "expected"),
    [
        ("signal", (), True),
        ("shape_call", (), True),
        ("cjmp", (1,), True),
        ("cast", (1,), True),
        ("memset", (1,), True),
        ("memset", (64, 64), False),
        ("copy", (32, 3), False),
        ("kgen", (1,), False),
        ("gemm", (1, 1), False),
    ],
)
def test_bookkeeping(kind: str, dims: tuple[int, ...], expected: bool) -> None:
    assert traffic.is_bookkeeping(_layer(outputs=(_tensor("y", *dims),), kind=kind)) is expected


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("__myl_MoveReplConc_myl1_4", "kgen", True),
        ("__myl_Tran_myl0_7", "kgen", True),
        ("__myl_MulMinMaxRounCastReshTran_myl0_8", "kgen", False),
        ("_gemm_mha_v2_myl0_3", "kgen", False),
        ("/conv/Conv_myl0_1", "correlation", False),
        ("copy_x", "copy", True),
    ],
)
def test_movement(name: str, kind: str, expected: bool) -> None:
    assert traffic.is_movement(_layer(name=name, kind=kind)) is expected
