"""What a format is: the codes of one element, and how they are written and read.

A format knows nothing of scales. Quantization is ``encode(x / scale + zero_point)`` and
dequantization ``(decode(codes) - zero_point) * scale``; both live in ``numerics/quantize.py``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qcompiler.errors import InputError

F32: TypeAlias = NDArray[np.float32]
"""float32 array; the shape is in the docstring of whoever uses it."""

Codes: TypeAlias = NDArray[Any]
"""Array of codes in the ``dtype`` of its format."""


class Format(Protocol):
    """An element encoding."""

    @property
    def name(self) -> str:
        """Name of the format and of its file."""
        ...

    @property
    def bits(self) -> int:
        """Width of a code."""
        ...

    @property
    def onnx_type(self) -> int:
        """Number of the type in ONNX's ``TensorProto.DataType``."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Numpy type that holds one code."""
        ...

    @property
    def min(self) -> float:
        """Least value of a code, in units of the scale."""
        ...

    @property
    def max(self) -> float:
        """Greatest value of a code, in units of the scale."""
        ...

    @property
    def is_float(self) -> bool:
        """Whether codes are unevenly spaced, so that a zero point makes no sense."""
        ...

    def encode(self, x: NDArray[Any]) -> Codes:
        """Codes nearest to ``x``: ties to even, saturating; same shape."""
        ...

    def decode(self, codes: Codes) -> F32:
        """Values of ``codes`` in units of the scale; same shape."""
        ...


@dataclass(frozen=True)
class IntFormat:
    """Integers ``min..max``, uniformly one apart: code and value are the same number.

    Attributes:
        name: Name of the format and of its file.
        bits: Width of a code.
        onnx_type: ``TensorProto.DataType`` number.
        dtype: Numpy type that holds one code.
        min: Least code.
        max: Greatest code.
    """

    name: str
    bits: int
    onnx_type: int
    dtype: np.dtype[Any]
    min: int
    max: int

    @property
    def is_float(self) -> Literal[False]:
        """Integer codes are evenly spaced, so a zero point makes sense."""
        return False

    def encode(self, x: NDArray[Any]) -> Codes:
        """``saturate(round_half_even(x))``, as ONNX QuantizeLinear defines it.

        Args:
            x: Float array of any shape, already divided by the scale and shifted by the zero
                point. Infinities saturate.

        Returns:
            Codes of the same shape in ``dtype``.

        Raises:
            InputError: ``x`` has a NaN, which no code can stand for.
        """
        require_numbers(x, self.name)
        codes: Codes = np.clip(np.rint(x), self.min, self.max).astype(self.dtype)
        return codes

    def decode(self, codes: Codes) -> F32:
        """The codes as float32, exactly (they have at most 24 bits)."""
        values: F32 = codes.astype(np.float32)
        return values


@dataclass(frozen=True)
class FloatFormat:
    """Small floats without infinity: codes are unevenly spaced, and there is no zero point.

    Attributes:
        name: Name of the format and of its file.
        bits: Width of a code.
        onnx_type: ``TensorProto.DataType`` number.
        dtype: Type of ``ml_dtypes`` that holds one code.
        min: Least finite value, the negative of ``max``.
        max: Greatest finite value.
    """

    name: str
    bits: int
    onnx_type: int
    dtype: np.dtype[Any]
    min: float
    max: float

    @property
    def is_float(self) -> Literal[True]:
        """Codes stand closer together the nearer they are to zero."""
        return True

    def encode(self, x: NDArray[Any]) -> Codes:
        """The nearest code, ties to the even mantissa, as ONNX QuantizeLinear with ``saturate``.

        Args:
            x: Float array of any shape, already divided by the scale. Infinities saturate; a
                negative zero keeps its sign.

        Returns:
            Codes of the same shape in ``dtype``.

        Raises:
            InputError: ``x`` has a NaN: it has a code, but no layer can do anything with it.
        """
        require_numbers(x, self.name)
        codes: Codes = np.clip(x, self.min, self.max).astype(np.float32).astype(self.dtype)
        return codes

    def decode(self, codes: Codes) -> F32:
        """The codes as float32, exactly."""
        values: F32 = codes.astype(np.float32)
        return values


def require_numbers(x: NDArray[Any], name: str) -> None:
    """Refuse what no code can stand for.

    Raises:
        InputError: ``x`` has a NaN.
    """
    if x.size and np.isnan(x.min()):  # min propagates NaN and makes no temporary
        raise InputError(
            f"cannot encode NaN as {name}",
            hint="look for a division by zero or bad data before this tensor",
        )
