"""The activation is quantized beside a weight with scales per block.

What
    MatMul or Gemm whose weight has block scales (or INT4 codes) and whose activation comes from
    Q/DQ.

Why
    A block scale belongs to a part of the sum over K and cannot be applied after it. The
    compiler was seen to flatten the scales and to multiply them onto the result, which is
    another function. As Gemm with transB, or with one operand in FP8, it refuses the model
    (TRT065).

Example::

    y = MatMul(DequantizeLinear(x_int8), DequantizeLinear<axis = 0, block_size = 32>(w_int4))

Instead
    Leave the activation in FP16 (weight-only), or give the weight one scale per output channel
    and INT8 codes.

Source
    Rule C19 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.lint.trt065_refused_blocks import is_refused


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Block scales opposite a DQ; NVFP4 activations have scales of their own and are meant so."""
    for node in r.linears(graph):
        data, weight = r.operands(graph, node)
        if node.op not in ("Gemm", "MatMul") or data is None or weight is None:
            continue
        if r.storage(weight) == r.FP4 or is_refused(graph, node, data, weight):
            continue
        scale = r.scales(graph, weight)
        several = scale is not None and scale.size > 1
        blocks = several and scale is not None and scale.ndim > 1
        if blocks or (several and r.storage(weight) == r.INT4 and r.storage(data) != r.FP8):
            yield Fault(label(node), "its activation is quantized beside a weight in blocks")


RULE = Rule(
    code="TRT024",
    severity="silent numeric change",
    confidence="high",
    source="rule C19 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="drop the Q/DQ on the activation",
    check=check,
)
