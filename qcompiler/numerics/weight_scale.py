"""Scales of weights, by trying.

A weight's range is known, so the only question is how much of it to give up: a scale below
``amax / 127`` clips the few largest weights and rounds all others more finely. For each block that
shares a scale, minimise over ``f`` in 0.75 … 1 ::

    loss(f) = sum( importance * (w - dequantize(quantize(w, scale(f * range))))² )

``importance`` is what a wrong weight costs the output: for ``y = W x`` the expected squared error
of ``y`` is the sum of ``E[x_j²] (w_ij - ŵ_ij)²``, up to the correlation between inputs (AWQ, Lin et
al. 2023, searches its clipping the same way). The search may use float32; the winner is measured
against f = 1 in float64 and kept only if it is better, so the result is never worse than absmax.
A block whose values lie on a grid already gets the step of that grid as one more candidate
(:mod:`~.lattice`), which loses nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompiler.errors import InputError
from qcompiler.formats import F32
from qcompiler.numerics.affine import F64, affine
from qcompiler.numerics.lattice import lattice_steps
from qcompiler.numerics.quantize import tile_shape
from qcompiler.spec import QParams, Spec

# Widest first: it wins ties. The finer shifts go around the best of the coarse factors.
_COARSE = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75)
_FINE = (0.0375, 0.025, 0.0125, -0.0125, -0.025, -0.0375)
_SLICE = 1 << 16  # elements quantized at a time: float32 temporaries that stay in cache


def search_scale(
    weight: ArrayLike, spec: Spec, importance: ArrayLike | None = None, *, search: bool = True
) -> QParams:
    """The scale of each block of a weight that loses least.

    Args:
        weight: Float array of any shape, finite.
        spec: Format and granularity; asymmetric specs shrink both ends together.
        importance: Non-negative weights of the squared errors, broadcastable to ``weight``;
            all 1 if not given.
        search: Whether to try anything but the largest value (f = 1).

    Returns:
        Parameters of the shape ``spec.granularity.scale_shape(weight.shape)``. A block of zeros
        gets ``SAFE_SCALE``.

    Raises:
        InputError: The weight or the importance is not finite, the importance is negative or of
            the wrong shape, or the granularity does not fit the weight.
    """
    values = np.asarray(weight, dtype=np.float32)
    rows = _rows(values, spec)
    if not np.isfinite(rows).all():
        raise InputError("the weight has NaN or infinity", hint="check the model's initializers")
    costs = None if importance is None else _rows(_importance(importance, values), spec)
    scale = np.empty(len(rows), np.float32)
    zero = np.empty(len(rows), spec.element.dtype)
    step = max(1, _SLICE // max(rows.shape[1], 1))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        block = np.ascontiguousarray(rows[part])
        cost = None if costs is None else np.ascontiguousarray(costs[part])
        scale[part], zero[part] = _search(block, cost, spec, search=search)
    shape = spec.granularity.scale_shape(values.shape)
    return QParams(scale.reshape(shape), zero.reshape(shape))


def _rows(array: F32, spec: Spec) -> F32:
    """``[blocks, elements of a block]``, blocks in the order of the scale; copies if it must."""
    tiled = tile_shape(array.shape, spec.granularity.block(array.shape))
    axes = (*range(0, len(tiled), 2), *range(1, len(tiled), 2))
    blocks = int(np.prod(tiled[::2], dtype=np.int64))
    return array.reshape(tiled).transpose(axes).reshape(blocks, array.size // max(blocks, 1))


def _importance(importance: ArrayLike, weight: F32) -> F32:
    costs = np.asarray(importance, dtype=np.float32)
    if not (np.isfinite(costs) & (costs >= 0)).all():
        raise InputError("importance must be finite and not negative")
    try:
        return np.broadcast_to(costs, weight.shape)
    except ValueError:
        raise InputError(
            f"importance of shape {list(costs.shape)} does not broadcast to {list(weight.shape)}"
        ) from None


def _search(rows: F32, costs: F32 | None, spec: Spec, *, search: bool) -> tuple[F32, NDArray[Any]]:
    """Best scale and zero point of each row."""
    if not rows.size:
        return affine(np.zeros(len(rows)), np.zeros(len(rows)), spec)
    lo, hi = rows.min(axis=1).astype(np.float64), rows.max(axis=1).astype(np.float64)
    loss = np.full(len(rows), np.inf)
    factor = np.ones(len(rows))

    def attempt(candidate: F64) -> None:
        nonlocal loss, factor
        found = _loss(rows, costs, affine(lo * candidate, hi * candidate, spec), spec)
        factor = np.where(found < loss, candidate, factor)
        loss = np.minimum(found, loss)

    for coarse in _COARSE if search else _COARSE[:1]:
        attempt(np.full(len(rows), coarse))
    around = factor
    for shift in _FINE if search else ():
        attempt(np.minimum(around + shift, 1.0))
    whole = affine(lo, hi, spec)
    chosen = affine(lo * factor, hi * factor, spec)
    best, least = _better(rows, costs, spec, whole, chosen)
    if search and spec.symmetric and not spec.element.is_float:
        steps = lattice_steps(rows, int(spec.element.max))
        on_grid = np.where(steps > 0, steps, best[0]).astype(np.float32)
        best, _ = _better(rows, costs, spec, best, (on_grid, best[1]), least)
    return best


def _better(
    rows: F32,
    costs: F32 | None,
    spec: Spec,
    first: tuple[F32, NDArray[Any]],
    second: tuple[F32, NDArray[Any]],
    first_loss: F64 | None = None,
) -> tuple[tuple[F32, NDArray[Any]], F64]:
    """The better of two choices, row by row, and its loss; the first wins ties."""
    a = _exact_loss(rows, costs, first, spec) if first_loss is None else first_loss
    b = _exact_loss(rows, costs, second, spec)
    wins = b < a
    best = np.where(wins, second[0], first[0]), np.where(wins, second[1], first[1])
    return best, np.minimum(a, b)


def _loss(rows: F32, costs: F32 | None, affine_: tuple[F32, NDArray[Any]], spec: Spec) -> F64:
    """Loss of each row, float32 arithmetic, summed over cache-sized pieces in float64."""
    total = np.zeros(len(rows))
    width = max(1, _SLICE // len(rows))
    for start in range(0, rows.shape[1], width):
        part = slice(start, start + width)
        error = _error(rows[:, part], affine_, spec)
        if costs is None:
            total += np.einsum("ij,ij->i", error, error)
        else:
            np.multiply(error, error, out=error)
            total += np.einsum("ij,ij->i", error, costs[:, part])
    return total


def _exact_loss(rows: F32, costs: F32 | None, affine_: tuple[F32, NDArray[Any]], spec: Spec) -> F64:
    """Loss of each row in float64."""
    total = np.zeros(len(rows))
    width = max(1, _SLICE // len(rows))
    for start in range(0, rows.shape[1], width):
        part = slice(start, start + width)
        error = _error(rows[:, part], affine_, spec).astype(np.float64)
        np.multiply(error, error, out=error)
        if costs is not None:
            error *= costs[:, part]
        total += error.sum(axis=1)
    return total


def _error(rows: F32, affine_: tuple[F32, NDArray[Any]], spec: Spec) -> F32:
    """``dequantize(quantize(rows)) - rows`` with one scale a row; the codes stay float32."""
    element = spec.element
    scale, zero = affine_[0][:, None], affine_[1].astype(np.float32)[:, None]
    error = rows / scale
    if element.is_float:
        return element.decode(element.encode(error)) * scale - rows
    np.rint(error, out=error)
    # saturating before the zero point is added is the same, and one pass less
    if spec.symmetric:
        np.clip(error, element.min, element.max, out=error)
    else:
        np.clip(error, element.min - zero, element.max - zero, out=error)
    error *= scale
    error -= rows
    return error
