"""Full TensorRT 10.x and 11.x, data centre and Jetson: the documented form of the graph.

Nothing here was run on full TensorRT (its libraries cannot be installed without its index); rows
cite the rule book.  What the parser and builder of TensorRT for RTX accept is tested, and a row
that rests on them says so in ``verified``.
"""

from __future__ import annotations

from functools import partial

from qcompiler.targets.base import EXPANDS, LAYERS, NEWEST, Capability, Target

_row = partial(Capability, granularity="axis", verdict="runs", confidence="documented")
_refused = partial(
    _row,
    op="ConvTranspose",
    granularity="tensor",
    verdict="refused",
    note="a grouped quantized ConvTranspose is refused",
    source="rule D07",
)
_fp8 = partial(
    _row, format="fp8_e4m3", granularity="tensor", capabilities=(89, NEWEST), verdict="runs"
)
# Rule D09: a kernel is only certain for static scalar scales of both operands, so those of rows and
# of columns stand behind the product.
_token = partial(
    _fp8,
    granularity="ratio",
    scales="token",
    note="FP8 kernel, the scales of rows and columns behind it",
    source="rule D09; recorded build",
    confidence="tried",
    verified="tensorrt-rtx 1.7.1",
)
_block = partial(
    _fp8,
    granularity="tile",
    scales="block",
    verdict="refused",
    note="there is no dense kernel for FP8 blocks of 128",
    source="rules C14, C19, K03",
    confidence="reported",
)
# The work of a graph pass that both libraries have.
_merged = partial(
    _row,
    kind="merged",
    granularity="tensor",
    note="per-channel, the Split is pushed through the product, which then runs in float",
    source="recorded build",
    confidence="tried",
    verified="tensorrt-rtx 1.7.1",
)

TARGET = Target(
    name="tensorrt",
    family="tensorrt",
    recipe="int8+fp16",
    activation_format="int8",
    symmetric=True,
    opset=21,
    max_opset=24,
    prepares=EXPANDS,
    grouped_kernel=3,
    grouped_channels=8,
    cards=True,
    rows=(
        _row(op="Conv", kind="dense", note="INT8 kernel", source="rules D01, D06"),
        _row(op="Conv", kind="grouped", note="INT8 kernel", source="rules D06, D12"),
        _row(op="Conv", kind="depthwise", note="INT8 kernel", source="rules D06, D13"),
        _row(
            op="ConvTranspose", kind="dense", granularity="tensor", source="rule D07",
            note="per-channel scales are fragile, per-tensor ones are not",
        ),
        _refused(kind="grouped"),
        _refused(kind="depthwise"),
        _row(op="Gemm", kind="dense", note="INT8 kernel", source="rules D01, D05, D06"),
        _row(op="MatMul", kind="dense", note="INT8 kernel", source="rules D01, D06"),
        _merged(op="Gemm"),
        _merged(op="MatMul"),
        _row(
            op="Attention", kind="dense", granularity="tensor", base=("float16",),
            heads=(16, 32, 64), keys=(16, 512), note="one INT8 kernel", source="rule F02",
        ),
        _row(
            op="Add", kind="residual", granularity="tensor",
            note="the skip branch, the other operand fuses", source="rules E04, E06",
        ),
        # It has kernels for more than 16 channels and up to 32 taps.
        _fp8(
            op="Conv", kind="dense", verdict="loses", source="rule D10",
            note="nothing shows that an FP8 convolution pays, and three bits of mantissa cost "
            "convolutional networks accuracy",
        ),
        _fp8(
            op="Conv", kind="grouped", verdict="loses", source="rule D10",
            note="FP8 convolutions are dense ones",
        ),
        _fp8(
            op="Conv", kind="depthwise", verdict="loses", source="rule D10",
            note="FP8 convolutions are dense ones",
        ),
        _fp8(
            op="ConvTranspose", kind="dense", verdict="loses", source="rule D11",
            note="FP8 covers Conv, Gemm and MatMul",
        ),
        _fp8(op="Gemm", kind="dense", note="FP8 kernel", source="rule D09"),
        _fp8(op="MatMul", kind="dense", note="FP8 kernel", source="rule D09"),
        _fp8(op="Gemm", kind="merged", note="FP8 kernel", source="rule D09"),
        _fp8(op="MatMul", kind="merged", note="FP8 kernel", source="rule D09"),
        _fp8(
            op="Attention", kind="dense", base=("float16",), heads=tuple(range(16, 257, 8)),
            keys=(32, 3072), note="one FP8 kernel", source="rule F03",
        ),
        _fp8(
            op="Add", kind="residual", note="the skip branch, the other operand fuses",
            source="rules D11, E04",
        ),
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
