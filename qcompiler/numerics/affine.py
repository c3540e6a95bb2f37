"""From a range of real numbers to a scale and a zero point.

Symmetric, zero point 0 (TensorRT's form, rule B04)::

    scale = max(|lo|, |hi|) / max_code                       int8: / 127, so -t and t are codes

Asymmetric, the formula of ONNX DynamicQuantizeLinear::

    lo, hi     = min(lo, 0), max(hi, 0)
    scale      = (hi - lo) / (max_code - min_code)
    zero_point = saturate(round_half_even(min_code - lo / scale))

The zero point is a code, so 0.0 is exact: padding, ReLU and masks stay what they are.

A range without extent (a dead channel, or values so small that the scale would be subnormal, which
GPUs flush to the zero that rule B02 forbids) gets ``SAFE_SCALE``. The data are then all
zeros for any practical purpose and are reproduced as zeros with any scale; 1 is exact in every
type a scale may have.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qcompiler.errors import InputError
from qcompiler.formats import F32
from qcompiler.granularity import PerTensor
from qcompiler.spec import QParams, Spec

F64: TypeAlias = NDArray[np.float64]

SAFE_SCALE = 1.0
_LEAST_SCALE = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class Range:
    """The interval a quantizer represents; what lies outside saturates.

    Attributes:
        lo: Lower end.
        hi: Upper end, not below ``lo``.

    Raises:
        InputError: An end is not finite, or they are in the wrong order.
    """

    lo: float
    hi: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.lo) and math.isfinite(self.hi) and self.lo <= self.hi):
            raise InputError(f"not a range: [{self.lo}, {self.hi}]")

    @property
    def width(self) -> float:
        """``hi - lo``."""
        return self.hi - self.lo


def affine(lo: NDArray[Any], hi: NDArray[Any], spec: Spec) -> tuple[F32, NDArray[Any]]:
    """Scales and zero points of many ranges at once; the formulas are those of this module.

    Args:
        lo: Lower ends, finite, any shape.
        hi: Upper ends, same shape.
        spec: Format and symmetry; the granularity is not used.

    Returns:
        float32 scales, finite and positive, and zero points in the format's dtype; same shape.
    """
    element = spec.element
    low = np.minimum(np.asarray(lo, np.float64), 0.0)
    high = np.maximum(np.asarray(hi, np.float64), 0.0)
    if spec.symmetric:
        exact = np.maximum(-low, high) / element.max
    else:
        exact = (high - low) / (element.max - element.min)
    rounded = exact.astype(np.float32)
    scale = np.where(rounded < _LEAST_SCALE, np.float32(SAFE_SCALE), rounded)
    if spec.symmetric:
        return scale, np.zeros(scale.shape, element.dtype)
    zero = np.rint(element.min - low / scale.astype(np.float64))
    return scale, np.clip(zero, element.min, element.max).astype(element.dtype)


def to_qparams(range_: Range, spec: Spec) -> QParams:
    """Per-tensor scale and zero point (both 0-D) of a range.

    Raises:
        InputError: ``spec`` is not per tensor.
    """
    if not isinstance(spec.granularity, PerTensor):
        raise InputError(f"one range gives one scale; {spec.granularity} needs several")
    scale, zero = affine(np.array(range_.lo), np.array(range_.hi), spec)
    return QParams(scale, zero)
