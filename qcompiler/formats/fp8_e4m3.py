"""``fp8_e4m3``: 1 sign, 4 exponent, 3 mantissa bits, bias 7; no infinity, NaN = S.1111.111.

Values 2^-9 (least subnormal), 2^-6 (least normal) … 448 (OCP 8-bit floating point, E4M3; ONNX
FLOAT8E4M3FN). A value keeps four significant bits over 15 powers of two, so an outlier costs the
others nothing: with ``scale = amax / 448`` everything down to amax / 28672 has a relative error of
at most 1/16, where INT8 has an absolute one of amax / 254.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np

from qcompiler.formats.base import FloatFormat

FORMAT = FloatFormat(
    name="fp8_e4m3",
    bits=8,
    onnx_type=17,
    dtype=np.dtype(ml_dtypes.float8_e4m3fn),
    min=-448.0,
    max=448.0,
)
