"""The searched scale of weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompiler.errors import InputError
from qcompiler.granularity import Granularity, PerAxis, PerBlock, PerTensor
from qcompiler.numerics import weight_scale
from qcompiler.numerics.affine import SAFE_SCALE, affine
from qcompiler.numerics.quantize import fake_quantize, tile_shape
from qcompiler.numerics.weight_scale import search_scale
from qcompiler.spec import QParams, Spec

GRANULARITIES: list[Granularity] = [PerTensor(), PerAxis(0), PerAxis(1), PerBlock(1, 4)]
DRAW: dict[str, Callable[[np.random.Generator], NDArray[np.float64]]] = {
    "normal": lambda rng: rng.standard_normal((6, 8, 3, 3)),
    "heavy": lambda rng: rng.standard_t(2, (6, 8, 3, 3)),
    "lattice": lambda rng: rng.integers(-127, 128, (6, 8, 3, 3)).astype(np.float64),
    "two": lambda rng: rng.choice([-1.0, 1.0], (6, 8, 3, 3)),
}


def losses(
    weight: NDArray[np.float32], qparams: QParams, spec: Spec, importance: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The loss of each block, in float64, in the order of the scale."""
    error = importance * (weight - fake_quantize(weight, qparams, spec).astype(np.float64)) ** 2
    block = spec.granularity.block(weight.shape)
    tiled = error.reshape(tile_shape(weight.shape, block))
    sums: NDArray[np.float64] = tiled.sum(axis=tuple(range(1, tiled.ndim, 2)))
    return sums.reshape(qparams.scale.shape)


def absmax(weight: NDArray[np.float32], spec: Spec) -> QParams:
    tiled = weight.reshape(tile_shape(weight.shape, spec.granularity.block(weight.shape)))
    inner = tuple(range(1, tiled.ndim, 2))
    shape = spec.granularity.scale_shape(weight.shape)
    lo, hi = tiled.min(axis=inner).reshape(shape), tiled.max(axis=inner).reshape(shape)
    return QParams(*affine(lo, hi, spec))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("name", DRAW)
def test_never_worse_than_absmax(
    name: str, granularity: Granularity, symmetric: bool, weighted: bool
) -> None:
    rng = np.random.default_rng(4)
    weight = DRAW[name](rng).astype(np.float32)
    spec = Spec("int8", granularity, symmetric)
    importance = rng.random((1, 8, 1, 1)) if weighted else np.ones((1, 1, 1, 1))
    found = search_scale(weight, spec, importance if weighted else None)
    full = absmax(weight, spec)
    mine = losses(weight, found, spec, importance.astype(np.float32).astype(np.float64))
    theirs = losses(weight, full, spec, importance.astype(np.float32).astype(np.float64))
    assert found.scale.shape == granularity.scale_shape(weight.shape)
    # the same float32 errors, summed in another order: 576 terms of 2**-53
    assert (mine <= theirs * (1 + 1e-12)).all()


def test_is_the_best_of_its_grid() -> None:
    rng = np.random.default_rng(8)
    weight = rng.standard_t(3, (5, 400)).astype(np.float32)
    spec = Spec(granularity=PerAxis(0))
    ones = np.ones((1, 1))
    amax = np.abs(weight).max(axis=1).astype(np.float64)
    grid = np.stack(
        [
            losses(weight, QParams(*affine(-amax * f, amax * f, spec)), spec, ones)
            for f in (1, 0.95, 0.9, 0.85, 0.8, 0.75)
        ]
    )
    mine = losses(weight, search_scale(weight, spec), spec, ones)
    # The search compares float32 sums, and goes on between the points of the grid.
    assert (mine <= grid.min(axis=0) * (1 + 1e-5)).all()
    assert (mine < grid.min(axis=0) * (1 - 1e-3)).any()
    assert (mine < grid[0]).any()


def test_exact_weights_keep_absmax() -> None:
    weight = np.array([[-127, 3, 50], [127, 1, 0]], np.float32) * np.float32(0.25)
    found = search_scale(weight, Spec(granularity=PerAxis(0)))
    assert found.scale.tolist() == [0.25, 0.25]


def test_importance_decides_what_is_clipped() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((1, 2000)).astype(np.float32)
    weight[0, 0] = 6.0
    spec = Spec(granularity=PerAxis(0))
    ignored = np.ones(2000)
    ignored[0] = 0.0
    precious = np.ones(2000)
    precious[0] = 1e6
    assert search_scale(weight, spec, ignored).scale[0] < 0.8 * 6 / 127
    kept = search_scale(weight, spec, precious)
    error = np.abs(fake_quantize(weight, kept, spec)[0, 0] - np.float32(6))
    assert error < 1e-3


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_channels_have_a_safe_scale(granularity: Granularity, symmetric: bool) -> None:
    found = search_scale(np.zeros((4, 8)), Spec("int8", granularity, symmetric))
    assert (found.scale == SAFE_SCALE).all()


def test_zero_channel_beside_a_live_one() -> None:
    weight = np.array([[0.0, 0.0], [1.0, -1.0]], np.float32)
    found = search_scale(weight, Spec(granularity=PerAxis(0)))
    assert found.scale[0] == SAFE_SCALE
    assert found.scale[1] == np.float32(1 / 127)


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
def test_slicing_changes_nothing(granularity: Granularity, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for float32 sums in another order, which may swap two factors that are as good."""
    weight = DRAW["heavy"](np.random.default_rng(0)).astype(np.float32)
    whole = search_scale(weight, Spec(granularity=granularity))
    monkeypatch.setattr(weight_scale, "_SLICE", 50)
    pieces = search_scale(weight, Spec(granularity=granularity))
    ones = np.ones((1, 1, 1, 1))
    spec = Spec(granularity=granularity)
    assert losses(weight, pieces, spec, ones) == pytest.approx(
        losses(weight, whole, spec, ones), rel=1e-5
    )


def test_channels_are_independent() -> None:
    weight = np.random.default_rng(1).standard_normal((7, 33)).astype(np.float32)
    spec = Spec(granularity=PerAxis(0))
    together = search_scale(weight, spec).scale
    for i in range(7):
        assert search_scale(weight[i : i + 1], spec).scale[0] == together[i]


def test_empty() -> None:
    found = search_scale(np.zeros((0, 3)), Spec(granularity=PerAxis(0)))
    assert found.scale.shape == (0,)


def test_refusals() -> None:
    spec = Spec(granularity=PerAxis(0))
    with pytest.raises(InputError, match="NaN or infinity"):
        search_scale(np.array([[np.nan]]), spec)
    weight = np.ones((2, 3))
    for bad in (-1.0, np.inf):
        with pytest.raises(InputError, match="importance must be finite"):
            search_scale(weight, spec, np.array(bad))
    with pytest.raises(InputError, match=r"shape \[2\] does not broadcast to \[2, 3\]"):
        search_scale(weight, spec, np.ones(2))
