"""``uint8``: 0 … 255, with a zero point. ONNX Runtime's activations; TensorRT refuses it (B05)."""

from __future__ import annotations

import numpy as np

from qcompiler.formats.base import IntFormat

FORMAT = IntFormat(name="uint8", bits=8, onnx_type=2, dtype=np.dtype(np.uint8), min=0, max=255)
