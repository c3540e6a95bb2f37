"""The 16-bit floats that a graph can compute in, and how float32 constants become one of them.

============  =========  ==========  ===================  ================
type          bits of    unit u      largest              least normal
              fraction
============  =========  ==========  ===================  ================
float16       10         2^-11       65504                2^-14
bfloat16      7          2^-8        3.39e38              2^-126
============  =========  ==========  ===================  ================

``round(v) = v (1 + d)`` with ``|d| <= u`` between the least normal and the largest; below, the
error is absolute, at most u times the least normal; above, there is infinity.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto

from qcompiler.weights import Array

FLOAT = np.dtype(np.float32)


@dataclass(frozen=True)
class Narrow:
    """One 16-bit float.

    Attributes:
        name: As in a plan: ``float16`` or ``bfloat16``.
        dtype: NumPy's type.
        element: ONNX's element type.
        suffix: Of the names of tensors that are the narrow twin of another.
        unit: u, the largest relative error of rounding a normal number.
        largest: Largest finite value.
        least_normal: Least magnitude that keeps all bits.
    """

    name: str
    dtype: np.dtype[Any]
    element: int
    suffix: str
    unit: float
    largest: float
    least_normal: float

    @property
    def constraint(self) -> str:
        """The type as operator schemas write it."""
        return f"tensor({self.name})"

    def narrow(self, values: Array, *, scale: bool = False) -> Array:
        """Float32 values in this type, finite where they were finite.

        Args:
            values: Any shape.
            scale: They are scales, positive: below the least normal, where steps are absolute,
                they are rounded up, so that none becomes zero and no code has to grow.
        """
        clipped = np.where(
            np.isfinite(values), np.clip(values, -self.largest, self.largest), values
        )
        rounded: Array = clipped.astype(self.dtype)
        if not scale:
            return rounded
        lost = (rounded.astype(FLOAT) < values) & (values < self.least_normal)
        return np.where(lost, np.nextafter(rounded, self.dtype.type(np.inf)), rounded)

    def overflows(self, values: Array) -> bool:
        """Whether a finite value is beyond the largest."""
        return bool((np.isfinite(values) & (np.abs(values) > self.largest)).any())

    def vanishes(self, values: Array) -> bool:
        """Whether something other than zero becomes nothing but zeros."""
        return bool(values.any()) and not self.narrow(values).astype(FLOAT).any()


FLOAT16 = Narrow(
    "float16", np.dtype(np.float16), TensorProto.FLOAT16, "half", 2.0**-11, 65504.0, 2.0**-14
)
BFLOAT16 = Narrow(
    "bfloat16",
    np.dtype(ml_dtypes.bfloat16),
    TensorProto.BFLOAT16,
    "bf16",
    2.0**-8,
    (2 - 2.0**-7) * 2.0**127,
    2.0**-126,
)
NARROW = {n.name: n for n in (FLOAT16, BFLOAT16)}
