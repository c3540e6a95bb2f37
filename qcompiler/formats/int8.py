"""``int8``: -128 … 127, two's complement. What TensorRT runs, with zero point 0 (rule B04)."""

from __future__ import annotations

import numpy as np

from qcompiler.formats.base import IntFormat

FORMAT = IntFormat(name="int8", bits=8, onnx_type=3, dtype=np.dtype(np.int8), min=-128, max=127)
