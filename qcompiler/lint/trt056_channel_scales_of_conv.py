"""A convolution in a 16-bit model has a weight scale per channel.

What
    TensorRT for RTX: Conv with an 8-bit weight that has several scales and an FP16 or BF16
    result.

Why
    With one scale the kernel writes FP16 and takes bias, activation and residual Add along. With
    a scale per channel it writes FP32, and all of that is done by the next kernel, which reads it
    again: about half as many bytes more. Full TensorRT applies the scales in the kernel.

Example::

    y_fp16 = Conv(x8, DequantizeLinear<axis = 0>(w8, scale_fp16[O]))

Instead
    One scale S for the weight; where channels need their own, quantize with s[c], store S, and
    multiply the result by s[c] / S.

Source
    Rule D06, D26 for full TensorRT; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Quantized convolutions of one group with several scales and a 16-bit result."""
    for node in r.linears(graph):
        data, weight = r.operands(graph, node)
        if node.op != "Conv" or ops.groups(node) > 1 or data is None or weight is None:
            continue
        if target.capability is not None and target.capability < 80:
            continue  # no INT8 convolution at all: TRT057
        scale = r.scales(graph, weight)
        if scale is None or scale.ndim != 1 or scale.size < 2:
            continue
        if r.type_name(node.outputs[0]) in ("float16", "bfloat16"):
            yield Fault(label(node), f"its weight has {scale.size} scales")


RULE = Rule(
    code="TRT056",
    severity="loses fusion",
    confidence="high",
    source="rule D06, D26 for full TensorRT; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="use one scale for the weight of a convolution",
    check=check,
    libraries=(RTX,),
)
