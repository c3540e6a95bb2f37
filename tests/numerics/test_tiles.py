"""Weights with one scale for each square."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.errors import InputError
from qcompiler.granularity import PerAxis, PerBlock, PerTile
from qcompiler.numerics.quantize import dequantize, fake_quantize, quantize
from qcompiler.numerics.tiles import along_axis, tile_count, tile_qparams
from qcompiler.spec import QParams, Spec
from tests.hand_made import f32

SIZE = 4
TILES = Spec("fp8_e4m3", PerTile(SIZE))
SHAPES = [(8, 12), (8, 10), (12, 3), (3, 8, 6)]


def weight(shape: tuple[int, ...]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Heavy tails, so that tiles differ."""
    return np.random.default_rng(0).standard_t(2, shape).astype(np.float32)


def test_a_tile_is_a_square_of_the_last_two_axes() -> None:
    assert PerTile(4).block((3, 8, 12)) == (1, 4, 4)
    assert PerTile(4).scale_shape((3, 8, 12)) == (3, 2, 3)
    assert tile_count((3, 8, 10), 4) == (3, 2, 3)


@pytest.mark.parametrize("shape", [(8,), (8, 6), (6, 8)])
def test_a_granularity_wants_whole_tiles(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="squares of side 4"):
        PerTile(4).block(shape)


@pytest.mark.parametrize("shape", SHAPES)
def test_each_tile_has_its_largest_value_as_448(shape: tuple[int, ...]) -> None:
    values = weight(shape)
    found = tile_qparams(values, TILES).scale
    assert found.shape == tile_count(shape, SIZE)
    for index in np.ndindex(found.shape):
        rows, columns = (slice(i * SIZE, (i + 1) * SIZE) for i in index[-2:])
        tile = values[(*index[:-2], rows, columns)]
        assert found[index] == np.float32(np.abs(tile).max().astype(np.float64) / 448)


@pytest.mark.parametrize("axis", [-2, -1])
@pytest.mark.parametrize("shape", [s for s in SHAPES if s[-1] % SIZE == 0])
def test_repeated_along_an_axis_they_give_the_same_codes(shape: tuple[int, ...], axis: int) -> None:
    values = weight(shape)
    tiles = tile_qparams(values, TILES)
    axis %= len(shape)
    blocks = Spec("fp8_e4m3", PerBlock(axis, SIZE))
    found = along_axis(tiles, shape, SIZE, axis)
    codes = quantize(values, found, blocks)
    assert codes.tobytes() == quantize(values, tiles, TILES).tobytes()
    assert (
        dequantize(codes, found, blocks).tobytes() == fake_quantize(values, tiles, TILES).tobytes()
    )


def test_the_last_tile_may_be_narrow() -> None:
    """N = 10 has tiles of 4, 4 and 2 columns; flat scales are those of a plan."""
    scales = np.arange(1, 7, dtype=np.float32)
    flat = QParams(scales, np.zeros(6, TILES.element.dtype))
    found = along_axis(flat, (8, 10), SIZE, 0)
    rows = [1] * 4 + [2] * 4 + [3] * 2, [4] * 4 + [5] * 4 + [6] * 2
    np.testing.assert_array_equal(found.scale, f32(rows))
    turned = along_axis(flat, (10, 8), SIZE, 1)
    np.testing.assert_array_equal(turned.scale, np.repeat(scales.reshape(3, 2), 4, 0)[:10])


def test_another_number_of_scales_is_refused() -> None:
    flat = QParams(np.ones(5, np.float32), np.zeros(5, TILES.element.dtype))
    with pytest.raises(InputError, match="has 6 tiles of 4 x 4, found 5 scales"):
        along_axis(flat, (8, 10), SIZE, 0)


def test_another_granularity_is_refused() -> None:
    with pytest.raises(InputError, match="PerTile"):
        tile_qparams(weight((8, 8)), Spec("fp8_e4m3", PerAxis(0)))


def test_the_search_is_never_worse() -> None:
    values = weight((8, 12))
    plain, searched = (tile_qparams(values, TILES, search=s) for s in (False, True))
    errors = [((fake_quantize(values, q, TILES) - values) ** 2).sum() for q in (plain, searched)]
    assert errors[1] <= errors[0]


def test_an_outlier_spoils_its_own_tile_only() -> None:
    """INT8 has equal steps, so that one weight of 1000 takes all digits of those it shares with."""
    values = np.random.default_rng(3).uniform(0.1, 1, (8, 8)).astype(np.float32)
    values[1, 1] = 1000
    spec = Spec("int8", PerTile(SIZE))
    off = np.abs(fake_quantize(values, tile_qparams(values, spec), spec) - values)
    assert off[:4, :4].max() > 0.5
    off[:4, :4] = 0
    assert off.max() <= 0.5 / 127 * (1 + 1e-6)
