"""ONNX Runtime on a CPU: uint8 activations with a zero point, symmetric INT8 weights.

Its x86 kernels multiply unsigned activations by signed weights (onnxruntime documentation,
"Quantize ONNX models", data type selection), and a zero point costs it nothing.
"""

from __future__ import annotations

from functools import partial

from qcompiler.targets.base import ROWS_AND_BLOCKS, Capability, Target

_row = partial(
    Capability,
    granularity="axis",
    source="onnxruntime documentation, Quantize ONNX models",
    confidence="documented",
)
# No kernel multiplies FP8: the operands are dequantized and multiplied in float, which is what the
# model means, exactly.
_simulated = partial(
    Capability,
    format="fp8_e4m3",
    verdict="runs",
    note="simulated exactly: the product of the dequantized operands, in float",
    source="run and compared, bit for bit",
    confidence="tried",
    verified="onnxruntime 1.32.0",
)
_none = partial(_row, verdict="float", note="there is no integer kernel")

TARGET = Target(
    name="onnxruntime",
    family="onnxruntime",
    recipe="int8",
    activation_format="uint8",
    symmetric=False,
    opset=21,
    max_opset=27,
    rows=(
        _row(op="Conv", kind="dense", verdict="runs", note="QLinearConv"),
        _row(op="Conv", kind="grouped", verdict="runs", note="QLinearConv"),
        _row(op="Conv", kind="depthwise", verdict="runs", note="QLinearConv"),
        _none(op="ConvTranspose", kind="dense"),
        _none(op="ConvTranspose", kind="grouped"),
        _none(op="ConvTranspose", kind="depthwise"),
        _row(op="Gemm", kind="dense", verdict="runs", note="QGemm"),
        _row(op="Gemm", kind="merged", verdict="runs", note="QGemm"),
        _row(op="MatMul", kind="dense", verdict="runs", note="MatMulIntegerToFloat"),
        _row(op="MatMul", kind="merged", verdict="runs", note="MatMulIntegerToFloat"),
        _row(op="Add", kind="residual", verdict="runs", note="QLinearAdd"),
        *(
            _simulated(op=op, kind=kind, granularity=granularity, scales=scales)
            for op in ("Gemm", "MatMul")
            for kind in ("dense", "merged")
            for granularity, scales in ROWS_AND_BLOCKS
        ),
    ),
)
