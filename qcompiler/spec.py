"""How a tensor is to be quantized (:class:`Spec`), and with which numbers (:class:`QParams`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qcompiler import formats
from qcompiler.errors import InputError
from qcompiler.formats import F32, Format
from qcompiler.granularity import Granularity, PerTensor


@dataclass(frozen=True)
class Spec:
    """Format, granularity and symmetry: everything about a quantization but its numbers.

    Attributes:
        format: Name of the format, a file of ``qcompiler/formats``.
        granularity: Which elements share one scale.
        symmetric: Zero point 0 and range ``[-t, t]``; TensorRT accepts nothing else (rule B04).

    Raises:
        InputError: Unknown format, or a symmetric spec of an unsigned format: with zero point 0
            it could not represent a negative number.
    """

    format: str = "int8"
    granularity: Granularity = PerTensor()  # noqa: RUF009 - frozen, without fields
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.symmetric and self.element.min >= 0:
            raise InputError(
                f"format {self.format} is unsigned and cannot be symmetric",
                hint="use symmetric=False, or a signed format such as int8",
            )

    @property
    def element(self) -> Format:
        """The format named by ``format``."""
        return formats.get(self.format)


@dataclass(frozen=True, init=False, eq=False)
class QParams:
    """Scales and zero points of one tensor, copied and made read-only on construction.

    Two QParams are equal if their bytes are.

    Attributes:
        scale: float32, of the shape ``spec.granularity.scale_shape`` gives (0-D per tensor).
        zero_point: Array of the same shape, in the dtype of the format (ONNX requires that):
            integers, zeros when symmetric or when the format is a float.

    Raises:
        InputError: A scale is not finite and positive (rule B02), the zero point is no integer,
            or the shapes differ (rule B08).
    """

    scale: F32
    zero_point: NDArray[Any]

    def __init__(self, scale: ArrayLike, zero_point: ArrayLike) -> None:
        """Takes anything numpy makes an array of; the scale is rounded to float32."""
        scale_array = np.array(scale, dtype=np.float32, order="C")
        zero_array = np.array(zero_point, order="C")
        if not (np.isfinite(scale_array) & (scale_array > 0)).all():
            raise InputError(
                f"scale must be finite and positive, found {_first_bad(scale_array)}",
                hint="give dead channels a positive scale",
            )
        if zero_array.dtype.kind not in "iu" and not _is_float8_zero(zero_array):
            raise InputError(f"zero point must be an integer, found {zero_array.dtype}")
        if zero_array.shape != scale_array.shape:
            raise InputError(
                f"zero point has shape {list(zero_array.shape)}, "
                f"scale has shape {list(scale_array.shape)}"
            )
        scale_array.setflags(write=False)
        zero_array.setflags(write=False)
        object.__setattr__(self, "scale", scale_array)
        object.__setattr__(self, "zero_point", zero_array)

    def _key(self) -> tuple[object, ...]:
        zero = self.zero_point
        return (self.scale.shape, self.scale.tobytes(), zero.dtype.str, zero.tobytes())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QParams):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


def _is_float8_zero(zero: NDArray[Any]) -> bool:
    """The zero point of a float format only says its type."""
    return zero.dtype.itemsize == 1 and not zero.astype(np.float32).any()


def _first_bad(scale: F32) -> str:
    bad = ~(np.isfinite(scale) & (scale > 0))
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    return f"{scale[where]} at index {list(where)}" if where else f"{scale}"
