"""Weights with one scale for each square of 128 x 128, and how ONNX holds them.

A matrix product in blocks sums, over the blocks ``b`` of K, products of codes with the scales of
both operands outside (DeepSeek-V3 technical report, section 3.3)::

    y[m, n] = sum_b  s_x[m, b] * s_w[b, n / 128] * (sum over k in b of  x_q[m, k] * w_q[k, n])

ONNX blocks one axis only, so in a graph each scale of a tile stands once for every column of its
tile: ``[K / 128, N]``, with ``axis`` that of K and ``block_size`` 128; that is 4 bytes for 128
codes. N need not be a multiple of 128: the last tile is narrower, and zeros beside it change
nothing.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompiler.errors import InputError
from qcompiler.formats import F32
from qcompiler.granularity import PerTile, Shape
from qcompiler.numerics.weight_scale import search_scale
from qcompiler.spec import QParams, Spec


def tile_qparams(weight: ArrayLike, spec: Spec, *, search: bool = False) -> QParams:
    """The scale of each tile of a weight.

    Args:
        weight: ``[..., R, C]``, finite.
        spec: Of granularity ``PerTile``.
        search: Whether a smaller scale than that of the largest value is tried.

    Returns:
        Scales ``[..., ceil(R / size), ceil(C / size)]``.

    Raises:
        InputError: The weight is not finite, or the granularity is another.
    """
    values = np.asarray(weight, dtype=np.float32)
    size = _size(spec)
    ragged = [(0, 0)] * (values.ndim - 2) + [(0, -n % size) for n in values.shape[-2:]]
    padded: F32 = np.pad(values, ragged)
    return search_scale(padded, spec, search=search)


def tile_count(shape: Shape, size: int) -> Shape:
    """How many tiles a weight has: its shape, with the last two axes divided by ``size``, up."""
    return (*shape[:-2], *(-(-n // size) for n in shape[-2:]))


def along_axis(qparams: QParams, shape: Shape, size: int, axis: int) -> QParams:
    """The same scales in blocks of one axis, each repeated across its tile.

    Args:
        qparams: Scales of tiles, in the order of :func:`tile_count` or flat.
        shape: Of the weight.
        size: Side of a tile.
        axis: One of the last two: the axis that stays in blocks.

    Returns:
        Parameters of granularity ``PerBlock(axis, size)``, as ONNX holds them.

    Raises:
        InputError: Another number of scales than of tiles.
    """
    tiles = tile_count(shape, size)
    if qparams.scale.size != int(np.prod(tiles)):
        raise InputError(
            f"a weight of shape {list(shape)} has {int(np.prod(tiles))} tiles of {size} x {size}, "
            f"found {qparams.scale.size} scales",
            hint="one scale for each tile, row by row",
        )
    other = len(shape) - 1 if axis % len(shape) == len(shape) - 2 else len(shape) - 2
    repeated: F32 = np.repeat(qparams.scale.reshape(tiles), size, axis=other)
    kept = np.take(repeated, np.arange(shape[other]), axis=other)
    zero: NDArray[np.generic] = np.zeros(kept.shape, qparams.zero_point.dtype)
    return QParams(kept, zero)


def _size(spec: Spec) -> int:
    if not isinstance(spec.granularity, PerTile):
        raise InputError(f"tiles need the granularity PerTile, found {spec.granularity}")
    return spec.granularity.size
