"""ONNX Runtime on a CPU: uint8 activations with a zero point, symmetric INT8 weights.

Its x86 kernels multiply unsigned activations by signed weights (onnxruntime documentation,
"Quantize ONNX models", data type selection), and a zero point costs it nothing.
"""

from __future__ import annotations

from qcompiler.targets.base import Capability, Target

_DOC = "onnxruntime documentation, Quantize ONNX models"

TARGET = Target(
    name="onnxruntime",
    activation_format="uint8",
    symmetric=False,
    opset=21,
    max_opset=27,
    residual="skip",
    least_reduction=16,
    least_outputs=16,
    grouped_kernel=1,
    grouped_channels=1,
    capabilities=(
        Capability("Conv", "dense", True, "axis", "QLinearConv", _DOC),
        Capability("Conv", "grouped", True, "axis", "QLinearConv", _DOC),
        Capability("Conv", "depthwise", True, "axis", "QLinearConv", _DOC),
        Capability("ConvTranspose", "dense", False, "axis", "there is no integer kernel", _DOC),
        Capability("ConvTranspose", "grouped", False, "axis", "there is no integer kernel", _DOC),
        Capability("ConvTranspose", "depthwise", False, "axis", "there is no integer kernel", _DOC),
        Capability("Gemm", "dense", True, "axis", "QGemm", _DOC),
        Capability("MatMul", "dense", True, "axis", "MatMulIntegerToFloat", _DOC),
        Capability("Gemm", "merged", True, "axis", "QGemm", _DOC),
        Capability("MatMul", "merged", True, "axis", "MatMulIntegerToFloat", _DOC),
    ),
)
