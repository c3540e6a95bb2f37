"""A Cast to a wider type stands between DequantizeLinear and the linear operator.

What
    DequantizeLinear to FP16, Cast to FP32, then Conv, Gemm or MatMul, on one operand or on both.

Why
    A narrowing Cast can be moved behind the product, a widening one cannot: the product runs in
    float on dequantized operands.

Example::

    x8 = DequantizeLinear(q, scale_fp16)
    y = MatMul(Cast<to = FLOAT>(x8), w8)

Instead
    Cast the result of the product, or give DequantizeLinear the wider type itself (the type of
    its scale, or output_dtype).

Source
    Rule G04, D04 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Operands that are quantized but for a widening Cast."""
    for node in r.linears(graph):
        cast = r.widened(graph, node)
        if cast is not None:
            made = r.type_name(cast.outputs[0])
            yield Fault(label(node), f"{label(cast)} widens its operand to {made}")


RULE = Rule(
    code="TRT039",
    severity="loses fusion",
    confidence="high",
    source="rule G04, D04 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="move the Cast behind the product",
    check=check,
)
