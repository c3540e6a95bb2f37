"""QuantizeLinear and DequantizeLinear of ONNX (opset 21), bit for bit, in numpy.

::

    quantize(x)   = saturate(round_half_even(x / scale) + zero_point)    integer formats
    quantize(x)   = saturate(nearest(x / scale))                         float formats
    dequantize(c) = (c - zero_point) * scale

in float32, with one scale per block (see :mod:`qcompiler.granularity`). The division is a
division: multiplying by a reciprocal moves ties, hence codes. Rounding comes *before* the zero
point is added, or ties would go to odd numbers under an odd zero point.

How blocks are applied: a tensor of shape ``(n0*b0, n1*b1)`` is viewed as ``(n0, b0, n1, b1)`` and
the scale as ``(n0, 1, n1, 1)``; broadcasting does the rest. The views copy nothing.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompiler.errors import InputError
from qcompiler.formats import F32, Codes
from qcompiler.granularity import Shape
from qcompiler.spec import QParams, Spec

_SLICE = 1 << 22  # elements quantized at a time, so that a large weight needs little beside itself


def tile_shape(shape: Shape, block: Shape) -> Shape:
    """``(n0, b0, n1, b1, …)``: the shape that separates counting blocks from indexing in them.

    A block of length 0 (empty tensor) counts once.
    """
    pairs = ((n // b if b else 1, b) for n, b in zip(shape, block, strict=True))
    return tuple(extent for pair in pairs for extent in pair)


def quantize(x: ArrayLike, qparams: QParams, spec: Spec) -> Codes:
    """Codes of ``x``, bit-equal to ONNX QuantizeLinear on float32.

    Args:
        x: Float array of any shape; rounded to float32 first if it is wider.
        qparams: Scale and zero point of the shape ``spec.granularity.scale_shape(x.shape)``.
        spec: Format and granularity.

    Returns:
        Codes of the shape of ``x`` in the dtype of the format. Infinities saturate.

    Raises:
        InputError: The shapes do not fit, a zero point is no code, or ``x`` has a NaN.
    """
    values = np.asarray(x, dtype=np.float32)
    tiles, scale, zero = _tiled(values, qparams, spec)
    if values.size <= _SLICE or not values.ndim:
        return _codes(tiles, scale, zero, spec).reshape(values.shape)
    codes = np.empty(tiles.shape, spec.element.dtype)
    step = max(1, len(tiles) * _SLICE // values.size)
    for start in range(0, len(tiles), step):
        part = slice(start, start + step)
        one = len(scale) == 1
        codes[part] = _codes(
            tiles[part], scale if one else scale[part], zero if one else zero[part], spec
        )
    return codes.reshape(values.shape)


def _codes(tiles: F32, scale: F32, zero: F32, spec: Spec) -> Codes:
    with np.errstate(over="ignore"):  # x / scale may exceed float32: it saturates
        shifted = np.asarray(np.divide(tiles, scale))  # numpy makes scalars of 0-D results
    if spec.element.is_float:
        return spec.element.encode(shifted)
    np.rint(shifted, out=shifted)
    if zero.any():
        shifted += zero
    return spec.element.encode(shifted)


def dequantize(codes: Codes, qparams: QParams, spec: Spec) -> F32:
    """Values of ``codes``, bit-equal to ONNX DequantizeLinear with a float32 scale.

    Args:
        codes: Codes of any shape.
        qparams: As for :func:`quantize`.
        spec: As for :func:`quantize`.

    Returns:
        float32 array of the shape of ``codes``.

    Raises:
        InputError: The shapes do not fit, or a zero point is no code of the format.
    """
    codes = np.asarray(codes)
    tiles, scale, zero = _tiled(codes, qparams, spec)
    values = spec.element.decode(tiles)
    if zero.any():
        values -= zero
    with np.errstate(over="ignore"):
        return np.multiply(values, scale).reshape(codes.shape)


def fake_quantize(x: ArrayLike, qparams: QParams, spec: Spec) -> F32:
    """``dequantize(quantize(x))``: ``x`` as the quantized model sees it; same shape, float32.

    Raises:
        InputError: As :func:`quantize`.
    """
    return dequantize(quantize(x, qparams, spec), qparams, spec)


def _tiled(array: NDArray[Any], qparams: QParams, spec: Spec) -> tuple[NDArray[Any], F32, F32]:
    """``array`` as ``(n0, b0, …)``; scale and zero point, float32, as ``(n0, 1, …)``."""
    expected = spec.granularity.scale_shape(array.shape)
    if qparams.scale.shape != expected:
        raise InputError(
            f"{spec.granularity} of shape {list(array.shape)} needs a scale of shape "
            f"{list(expected)}, found {list(qparams.scale.shape)}"
        )
    element, zero = spec.element, qparams.zero_point.astype(np.float32)
    if zero.size and not element.min <= zero.min() <= zero.max() <= element.max:
        raise InputError(
            f"zero point outside {element.name}'s {element.min:g}..{element.max:g}: "
            f"{zero.min()}..{zero.max()}"
        )
    tiled = tile_shape(array.shape, spec.granularity.block(array.shape))
    param_shape = tuple(n if i % 2 == 0 else 1 for i, n in enumerate(tiled))
    return (
        array.reshape(tiled),
        qparams.scale.reshape(param_shape),
        zero.reshape(param_shape),
    )
