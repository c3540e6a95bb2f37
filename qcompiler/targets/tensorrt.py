"""Full TensorRT 10.x and 11.x, data centre and Jetson: the documented form of the graph.

Nothing here was run on full TensorRT (its libraries cannot be installed without its index); rows
cite the rule book.  What the parser and builder of TensorRT for RTX accept is tested.
"""

from __future__ import annotations

from qcompiler.targets.base import Capability, Target

_BUILD = "recorded build, tensorrt-rtx 1.7.1; the work of a graph pass that both libraries have"
_SPLIT = "with per-channel scales the Split is pushed through the product, which then runs in float"

TARGET = Target(
    name="tensorrt",
    activation_format="int8",
    symmetric=True,
    opset=21,
    max_opset=24,
    residual="skip",
    least_reduction=16,
    least_outputs=16,
    grouped_kernel=3,
    grouped_channels=8,
    capabilities=(
        Capability("Conv", "dense", True, "axis", "INT8 kernel", "rules D01, D06"),
        Capability("Conv", "grouped", True, "axis", "INT8 kernel", "rules D06, D12"),
        Capability("Conv", "depthwise", True, "axis", "INT8 kernel", "rules D06, D13"),
        Capability(
            "ConvTranspose", "dense", True, "tensor",
            "per-channel scales are fragile, per-tensor ones are not", "rule D07",
        ),
        Capability(
            "ConvTranspose", "grouped", False, "tensor",
            "a grouped quantized ConvTranspose is refused", "rule D07",
        ),
        Capability(
            "ConvTranspose", "depthwise", False, "tensor",
            "a grouped quantized ConvTranspose is refused", "rule D07",
        ),
        Capability("Gemm", "dense", True, "axis", "INT8 kernel", "rules D01, D05, D06"),
        Capability("MatMul", "dense", True, "axis", "INT8 kernel", "rules D01, D06"),
        Capability("Gemm", "merged", True, "tensor", _SPLIT, _BUILD),
        Capability("MatMul", "merged", True, "tensor", _SPLIT, _BUILD),
    ),
)  # fmt: skip
