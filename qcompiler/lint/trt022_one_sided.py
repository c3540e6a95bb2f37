"""Only one operand of a linear operator is quantized.

What
    Conv with a quantized weight or activation but not both; for TensorRT also Gemm and MatMul
    (TensorRT for RTX has kernels for matrix products with INT8 or FP8 weights only).

Why
    A low-precision kernel needs both operands. Otherwise the DequantizeLinear is a kernel of
    its own, in front of a float product.

Example::

    y = Conv(x, DequantizeLinear(w_int8))

Instead
    Quantize the other operand too, or neither.

Source
    Rule D01 (as corrected by real builds); TensorRT documentation, explicit quantization
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, Node, label
from qcompiler.lint import fusions
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Exactly one operand behind a DQ."""
    inside = {id(n) for a in fusions.attentions(graph) for n in (a.first, a.second)}  # TRT043
    for node in r.linears(graph):
        data, weight = r.operands(graph, node)
        given = data or weight
        if given is None or (data is not None and weight is not None):
            continue
        if id(node) in inside or r.widened(graph, node) is not None:
            continue
        if r.blocked_by(graph, node) is None and not _has_kernel(graph, node, given, target):
            which = "weight" if given is weight else "activation"
            yield Fault(label(node), f"only its {which} is quantized")


def _has_kernel(graph: Graph, node: Node, given: Node, target: LintTarget) -> bool:
    if node.op not in ("Gemm", "MatMul") or not r.is_weight(graph, given):
        return False
    return target.library == RTX or r.storage(given) in (r.INT4, r.FP4)


RULE = Rule(
    code="TRT022",
    severity="loses fusion",
    confidence="high",
    source="rule D01 (as corrected by real builds); TensorRT documentation, explicit quantization",
    verified=SEEN,
    help="quantize both operands or neither",
    check=check,
)
