"""Granularity, Spec and QParams: shapes, refusals, immutability."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.errors import InputError
from qcompiler.granularity import Granularity, PerAxis, PerBlock, PerTensor
from qcompiler.spec import QParams, Spec


@pytest.mark.parametrize(
    ("granularity", "shape", "block", "scale"),
    [
        (PerTensor(), (6, 8), (6, 8), ()),
        (PerTensor(), (), (), ()),
        (PerAxis(0), (6, 8), (1, 8), (6,)),
        (PerAxis(-1), (6, 8), (6, 1), (8,)),
        (PerAxis(1), (4, 3, 2, 2), (4, 1, 2, 2), (3,)),
        (PerBlock(1, 4), (6, 8), (1, 4), (6, 2)),
        (PerBlock(-2, 3), (6, 8), (3, 1), (2, 8)),
        (PerBlock(0, 6), (6,), (6,), (1,)),
    ],
)
def test_shapes(
    granularity: Granularity,
    shape: tuple[int, ...],
    block: tuple[int, ...],
    scale: tuple[int, ...],
) -> None:
    assert granularity.block(shape) == block
    assert granularity.scale_shape(shape) == scale


@pytest.mark.parametrize("granularity", [PerAxis(2), PerAxis(-3), PerBlock(2, 1)])
def test_axis_out_of_range(granularity: Granularity) -> None:
    for method in (granularity.block, granularity.scale_shape):
        with pytest.raises(InputError, match=r"axis -?\d is out of range .* shape \[6, 8\]"):
            method((6, 8))


def test_axis_of_a_scalar() -> None:
    with pytest.raises(InputError, match="rank 0"):
        PerAxis(0).block(())


@pytest.mark.parametrize("size", [3, 16, 0, -4])
def test_block_must_divide(size: int) -> None:
    with pytest.raises(InputError, match="not a multiple of block"):
        PerBlock(1, size).scale_shape((6, 8))


def test_spec_defaults_and_refusals() -> None:
    assert Spec() == Spec("int8", PerTensor(), symmetric=True)
    assert Spec().element.name == "int8"
    with pytest.raises(InputError, match="unknown format"):
        Spec("int9")
    with pytest.raises(InputError, match="unsigned"):
        Spec("uint8")
    assert Spec("uint8", symmetric=False).element.max == 255


def test_qparams_are_copied_and_read_only() -> None:
    scale = np.ones(2, np.float32)
    qparams = QParams(scale, np.zeros(2, np.int8))
    scale[0] = 5
    assert qparams.scale.tolist() == [1, 1]
    with pytest.raises(ValueError, match="read-only"):
        qparams.scale[0] = 2
    with pytest.raises(ValueError, match="read-only"):
        qparams.zero_point[0] = 2


def test_qparams_are_equal_by_bytes() -> None:
    one = QParams(0.5, np.int8(0))
    assert one == QParams(np.float32(0.5), np.int8(0))
    assert hash(one) == hash(QParams(0.5, np.int8(0)))
    assert one != QParams(np.nextafter(np.float32(0.5), np.float32(1)), np.int8(0))
    assert one != QParams([0.5], np.zeros(1, np.int8))
    assert one != QParams(0.5, np.uint8(0))
    assert one != QParams(0.5, np.int8(1))
    assert one.scale.shape == ()


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf, 1e-60])
def test_qparams_refuse_a_bad_scale(bad: float) -> None:
    with pytest.raises(InputError, match=r"finite and positive, found .* at index \[1\]"):
        QParams(np.array([1.0, bad]), np.zeros(2, np.int8))
    with pytest.raises(InputError, match="finite and positive"):
        QParams(bad, np.int8(0))


def test_qparams_refuse_a_bad_zero_point() -> None:
    with pytest.raises(InputError, match="must be an integer"):
        QParams(1.0, np.float32(0))
    with pytest.raises(InputError, match="shape"):
        QParams(1.0, np.zeros(1, np.int8))
