"""Which elements share one scale: the whole tensor, an axis, or a block.

Every granularity reduces to one *block shape* of the tensor's rank (the idea of torchao's
``AffineQuantizedTensor``): the elements of one block share one scale, and the blocks tile the
tensor. For a tensor of shape ``(6, 8)``::

    PerTensor()              block (6, 8)     scale ()        ONNX: scalar
    PerAxis(axis=0)          block (1, 8)     scale (6,)      ONNX: 1-D, attribute axis=0
    PerBlock(axis=1, size=4) block (1, 4)     scale (6, 2)    ONNX: same rank, axis=1, block_size=4
    PerTile(size=2)          block (2, 2)     scale (3, 4)    ONNX: each scale of a tile repeated

so there is one ``quantize`` and one range search, not three. The scale shapes are those of ONNX
QuantizeLinear (opset 21); a per-tensor scale is 0-D, never ``[1]`` or ``[1, 1, 1, 1]`` (rule B18).
Negative axes count from the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from qcompiler.errors import InputError

Shape: TypeAlias = tuple[int, ...]

Scales: TypeAlias = Literal["tensor", "token", "block"]
"""How many scales an activation has: one, known beforehand; or computed at run time, one for each
token (a row of the matrix that meets the weight), or one for each 128 elements of a token."""


def _normal_axis(axis: int, shape: Shape) -> int:
    rank = len(shape)
    if not -rank <= axis < rank:
        raise InputError(
            f"axis {axis} is out of range for a tensor of rank {rank}, shape {list(shape)}",
            hint="use PerTensor() for a scalar" if not rank else f"use an axis in 0..{rank - 1}",
        )
    return axis % rank


@dataclass(frozen=True)
class PerTensor:
    """One scale for all elements."""

    def block(self, shape: Shape) -> Shape:
        """Block shape: the tensor itself."""
        return tuple(shape)

    def scale_shape(self, shape: Shape) -> Shape:
        """Scale shape: ``()``, whatever the tensor's."""
        return ()


@dataclass(frozen=True)
class PerAxis:
    """One scale for each index along ``axis`` (per channel)."""

    axis: int

    def block(self, shape: Shape) -> Shape:
        """Block shape: the tensor's, with 1 along ``axis``.

        Raises:
            InputError: ``axis`` is out of range.
        """
        axis = _normal_axis(self.axis, shape)
        return tuple(1 if i == axis else n for i, n in enumerate(shape))

    def scale_shape(self, shape: Shape) -> Shape:
        """Scale shape: ``(shape[axis],)``.

        Raises:
            InputError: ``axis`` is out of range.
        """
        return (shape[_normal_axis(self.axis, shape)],)


@dataclass(frozen=True)
class PerBlock:
    """One scale for each run of ``size`` consecutive elements along ``axis``."""

    axis: int
    size: int

    def block(self, shape: Shape) -> Shape:
        """Block shape: 1 everywhere, ``size`` along ``axis``.

        Raises:
            InputError: ``axis`` is out of range, or its length is not a multiple of ``size``
                (TensorRT requires exact divisibility, rule B15).
        """
        axis = _normal_axis(self.axis, shape)
        if self.size < 1 or shape[axis] % self.size:
            raise InputError(
                f"axis {axis} of shape {list(shape)} is not a multiple of block {self.size}",
                hint=f"use a block size that divides {shape[axis]}, or another granularity",
            )
        return tuple(self.size if i == axis else 1 for i in range(len(shape)))

    def scale_shape(self, shape: Shape) -> Shape:
        """Scale shape: the tensor's, with ``shape[axis] / size`` along ``axis``.

        Raises:
            InputError: As for :meth:`block`.
        """
        return tuple(n // b for n, b in zip(shape, self.block(shape), strict=True))


@dataclass(frozen=True)
class PerTile:
    """One scale for each square of side ``size`` in the last two axes (FP8 weights of DeepSeek)."""

    size: int

    def block(self, shape: Shape) -> Shape:
        """Block shape: 1, and ``size`` along the last two axes.

        Raises:
            InputError: The tensor has less than two axes, or one of the last two is not a multiple
                of ``size``.
        """
        if len(shape) < 2 or self.size < 1 or any(n % self.size for n in shape[-2:]):
            raise InputError(
                f"shape {list(shape)} does not consist of squares of side {self.size}",
                hint="pad its last two axes with zeros, or use another granularity",
            )
        return (*(1,) * (len(shape) - 2), self.size, self.size)

    def scale_shape(self, shape: Shape) -> Shape:
        """Scale shape: the tensor's, with its last two axes divided by ``size``.

        Raises:
            InputError: As for :meth:`block`.
        """
        return tuple(n // b for n, b in zip(shape, self.block(shape), strict=True))


Granularity: TypeAlias = PerTensor | PerAxis | PerBlock | PerTile
