"""TensorRT for RTX: what its compiler was seen to do, kernel by kernel.

Rows that name a release under ``verified`` were read from the layer listing of that release, built
for SM 7.5, 8.6, 8.9 and 12.0; nothing was timed.  Its INT8 convolution never writes INT8: whatever
follows, the sum leaves the kernel in 16 bits (with per-channel scales even in 32) and a kernel of
its own rounds it.  So quantizing must pay for that, and whoever compiles weighs it against FP16.
"""

from __future__ import annotations

from functools import partial

from qcompiler.targets.base import EXPANDS, LAYERS, NEWEST, Capability, Target

_row = partial(
    Capability,
    source="recorded build",
    confidence="tried",
    verified="tensorrt-rtx 1.7.1",
)
_float = partial(_row, granularity="tensor", verdict="float")
_merged = partial(
    _row,
    kind="merged",
    granularity="tensor",
    verdict="runs",
    note="per-channel, the Split is pushed through the product, which then runs in float",
)
_fp8 = partial(
    _row, format="fp8_e4m3", granularity="tensor", capabilities=(89, NEWEST), verdict="runs"
)
# The scale of a row stands outside the product, and Q/DQ inside are static: one kernel finds the
# scale, divides and rounds to FP8, the product reads FP8 twice, and one multiplies by both scales.
_token = partial(
    _fp8, granularity="axis", scales="token", note="FP8 kernel, the scale of a row behind it"
)
# The builder stops in Myelin (CHECK is_constant).  FP8 blocks of a weight alone are dequantized by
# a kernel of their own, for a product in float; TRT_DynamicQuantize has no FP8 of 128 or of a row.
_block = partial(
    _fp8,
    granularity="tile",
    scales="block",
    verdict="refused",
    note="the builder refuses run-time scales beside a weight in blocks",
)
_TURING = (75, 75)

TARGET = Target(
    name="tensorrt-rtx",
    family="tensorrt-rtx",
    recipe="int8+fp16",
    activation_format="int8",
    symmetric=True,
    opset=21,
    max_opset=24,
    prepares=EXPANDS,
    weighs=True,
    cards=True,
    capabilities=(89,),
    rows=(
        _float(op="Conv", kind="dense", capabilities=_TURING, note="runs in FP16 on SM 7.5"),
        _row(
            op="Conv", kind="dense", granularity="tensor", verdict="runs",
            note="per-channel scales write FP32",
        ),
        _row(
            op="Conv", kind="grouped", granularity="tensor", verdict="loses",
            note="a grouped INT8 convolution loses the fusion of bias and activation",
        ),
        _row(
            op="Conv", kind="depthwise", granularity="tensor", verdict="loses",
            note="an INT8 depthwise convolution stores its activation fourfold",
        ),
        _float(op="ConvTranspose", kind="dense", note="never runs in INT8"),
        _float(op="ConvTranspose", kind="grouped", note="never runs in INT8"),
        _float(op="ConvTranspose", kind="depthwise", note="never runs in INT8"),
        *(
            _row(
                op=op, kind=kind, granularity="axis", verdict="refused", base=("float32",),
                capabilities=_TURING, note="SM 7.5 has no FP32 product, quantized or not",
            )
            for op in ("Gemm", "MatMul")
            for kind in ("dense", "merged")
        ),
        _row(op="Gemm", kind="dense", granularity="axis", verdict="runs", note="INT8 kernel"),
        _row(op="MatMul", kind="dense", granularity="axis", verdict="runs", note="INT8 kernel"),
        _merged(op="Gemm"),
        _merged(op="MatMul"),
        _row(
            op="Attention", kind="dense", granularity="tensor", verdict="runs",
            base=("float16",), heads=(16, 32, 64), keys=(16, 512), free_keys=True,
            note="one INT8 kernel",
        ),
        _row(
            op="Add", kind="residual", granularity="tensor", verdict="float",
            note="the convolution that the Add fuses into reads the skip in 16 bits",
        ),
        _fp8(op="Conv", kind="dense", note="FP8 kernel that writes FP16"),
        _fp8(
            op="Conv", kind="grouped", verdict="loses",
            note="a grouped FP8 convolution loses the fusion of bias and activation",
        ),
        _fp8(
            op="Conv", kind="depthwise", verdict="loses",
            note="an FP8 depthwise convolution stores its activation fourfold",
        ),
        _fp8(op="ConvTranspose", kind="dense", verdict="float", note="never runs in FP8"),
        _fp8(op="ConvTranspose", kind="grouped", verdict="float", note="never runs in FP8"),
        _fp8(op="ConvTranspose", kind="depthwise", verdict="float", note="never runs in FP8"),
        _fp8(op="Gemm", kind="dense", granularity="axis", note="FP8 kernel"),
        _fp8(op="MatMul", kind="dense", granularity="axis", note="FP8 kernel"),
        _fp8(
            op="Gemm", kind="merged",
            note="per-channel, the Split is pushed through the product, which then runs in float",
        ),
        _fp8(
            op="MatMul", kind="merged",
            note="per-channel, the Split is pushed through the product, which then runs in float",
        ),
        _fp8(
            op="Attention", kind="dense", base=("float16",), heads=tuple(range(16, 257, 8)),
            keys=(32, 4096), free_keys=True, note="one FP8 kernel",
        ),
        _fp8(op="Add", kind="residual", note="the skip branch, the other operand fuses"),
        *(
            row(op=op, kind=kind)
            for row in (_token, _block)
            for op in ("Gemm", "MatMul")
            for kind in ("dense", "merged")
        ),
        *(
            _fp8(
                op=op, kind=kind, capabilities=(0, 88), verdict="refused",
                note="FP8 needs SM 8.9", source="rule I02",
            )
            for op, kind in LAYERS
        ),
        *(
            row(
                op=op, kind=kind, capabilities=(0, 88), verdict="refused",
                note="FP8 needs SM 8.9", source="rule I02",
            )
            for row in (_token, _block)
            for op in ("Gemm", "MatMul")
            for kind in ("dense", "merged")
        ),
    ),
)  # fmt: skip
