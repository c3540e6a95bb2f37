"""Types of inputs and outputs that NumPy does not know itself."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest

from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.errors import UnsupportedError

TEXT = """<ir_version: 10, opset_import: ["" : 21]>
g ({0}[n] x) => ({1}[n] y, float[n] z) {{ y = Cast <to = {2}> (x)  z = Cast <to = 1> (x) }}"""


@pytest.mark.parametrize(
    ("name", "given", "back"),
    [
        ("float8_e4m3fn", "float8e4m3fn", True),
        ("float8_e5m2", "float8e5m2", False),
        ("bfloat16", "bfloat16", False),
    ],
)
def test_narrow_floats_go_in_and_out(name: str, given: str, back: bool) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    x = np.array([1, -0.5, 0.001953125, -0.0], dtype)
    text = TEXT.format(given, given if back else "float", 17 if back else 1)
    found = OrtSession(onnx.parser.parse_model(text)).run({"x": x})
    assert found["y"].dtype == (dtype if back else np.float32)
    assert found["y"].tobytes() == (x.tobytes() if back else x.astype(np.float32).tobytes())
    assert found["z"].tobytes() == x.astype(np.float32).tobytes()


def test_4_bit_inputs_are_refused_with_their_name() -> None:
    text = TEXT.format("uint4", "float", 1)
    with pytest.raises(UnsupportedError, match=r"'x' is a tensor\(uint4\)"):
        OrtSession(onnx.parser.parse_model(text))
