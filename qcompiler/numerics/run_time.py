"""Scales of activations that are computed where the numbers are, while the model runs.

For each block (a row of a matrix, "token"; or 128 elements of one) ::

    s = max(max|x| / max_code, LEAST_SCALE)        FP8: max|x| / 448

No range is calibrated, nothing saturates, and a token of small norm keeps its digits beside a token
of large norm, which one scale for all would take from it.  The floor is TensorRT-LLM's for FP8
(``1 / (448 * 512)``): a block of zeros has a scale that can be divided by. A block of small values
loses nothing by it before its largest is below ``2^-6`` of the floor: until then E4M3 has its three
bits of mantissa for that value.

Division and maximum are those of float32, as in the graph; so codes are the same bit for bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from qcompiler.formats import F32
from qcompiler.numerics.quantize import tile_shape
from qcompiler.spec import QParams, Spec

LEAST_SCALE = 1.0 / (448.0 * 512.0)
"""No scale of a row or block is smaller (TensorRT-LLM, FP8 row-wise)."""


def run_time_qparams(x: ArrayLike, spec: Spec, least: float = LEAST_SCALE) -> QParams:
    """The scales that a model computes for an activation.

    Args:
        x: Float array of any shape, finite; rounded to float32 first if it is wider.
        spec: Symmetric; its granularity says which elements share a scale.
        least: Floor of the scales.

    Returns:
        Parameters of the shape ``spec.granularity.scale_shape(x.shape)``.

    Raises:
        InputError: The granularity does not fit the shape, or ``x`` is not finite.
    """
    values = np.asarray(x, dtype=np.float32)
    tiled = tile_shape(values.shape, spec.granularity.block(values.shape))
    within = tuple(range(1, len(tiled), 2))
    largest: F32 = np.abs(values.reshape(tiled)).max(axis=within, initial=0.0)
    scale = np.maximum(largest / np.float32(spec.element.max), np.float32(least))
    shaped = scale.reshape(spec.granularity.scale_shape(values.shape))
    return QParams(shaped, np.zeros(shaped.shape, spec.element.dtype))
