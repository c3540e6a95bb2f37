"""A Gemm with transB has a quantized activation and a weight with scales per block.

What
    Gemm with transB = 1 whose weight has INT8 codes and block scales, more than one along both
    axes, and whose activation comes from Q/DQ.

Why
    The compiler flattens the block scales into a product after the sum (see TRT024); behind the
    transpose of the weight that ends in an internal error (operand.h, is_constant). The same
    layer as MatMul, as Gemm without transB, or without Q/DQ on the activation builds.

Example::

    w = DequantizeLinear<axis = 1, block_size = 32>(w_int8, scale)
    y = Gemm<transB = 1>(DequantizeLinear(x_int8), w)

Instead
    Give the weight one scale per output channel, or leave the activation in FP16.

Source
    Rule C19 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Block scales behind transB, opposite a DQ."""
    for node in r.linears(graph):
        data, weight = r.operands(graph, node)
        if node.op != "Gemm" or not node.attrs.get("transB", 0) or data is None or weight is None:
            continue
        scale = r.scales(graph, weight)
        if r.storage(weight) != "int8" or scale is None or scale.ndim != 2:
            continue
        # One block along an axis is the same as one scale per index of the other: that builds.
        if min(scale.shape) > 1:
            yield Fault(label(node), "has transB, a weight in blocks and a quantized activation")


RULE = Rule(
    code="TRT037",
    severity="builder rejects",
    confidence="high",
    source="rule C19 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="use one scale per output channel",
    check=check,
    libraries=(RTX,),
)
