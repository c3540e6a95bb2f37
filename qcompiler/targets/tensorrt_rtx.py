"""TensorRT for RTX: what its compiler was seen to do, kernel by kernel.

Rows marked "recorded build" were read from the layer listing of tensorrt-rtx 1.7.1, SM 8.6, 8.9 and
12.0; nothing was timed.
"""

from __future__ import annotations

from qcompiler.targets.base import Capability, Target

_BUILD = "recorded build, tensorrt-rtx 1.7.1"

_SPLIT = "with per-channel scales the Split is pushed through the product, which then runs in float"

TARGET = Target(
    name="tensorrt-rtx",
    activation_format="int8",
    symmetric=True,
    opset=21,
    max_opset=24,
    residual="skip",
    least_reduction=16,
    least_outputs=16,
    grouped_kernel=1,
    grouped_channels=1,
    capabilities=(
        Capability("Conv", "dense", True, "tensor", "per-channel scales write FP32", _BUILD),
        Capability(
            "Conv", "grouped", False, "tensor",
            "a grouped INT8 convolution loses the fusion of bias and activation", _BUILD,
        ),
        Capability(
            "Conv", "depthwise", False, "tensor",
            "an INT8 depthwise convolution stores its activation fourfold", _BUILD,
        ),
        Capability(
            "ConvTranspose", "dense", False, "tensor", "never runs in INT8", _BUILD,
        ),
        Capability(
            "ConvTranspose", "grouped", False, "tensor", "never runs in INT8", _BUILD,
        ),
        Capability(
            "ConvTranspose", "depthwise", False, "tensor", "never runs in INT8", _BUILD,
        ),
        Capability("Gemm", "dense", True, "axis", "INT8 kernel", _BUILD),
        Capability("MatMul", "dense", True, "axis", "INT8 kernel", _BUILD),
        Capability("Gemm", "merged", True, "tensor", _SPLIT, _BUILD),
        Capability("MatMul", "merged", True, "tensor", _SPLIT, _BUILD),
    ),
)  # fmt: skip
