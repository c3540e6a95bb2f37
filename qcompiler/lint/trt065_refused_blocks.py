"""A weight in blocks beside an activation that no kernel takes with it.

What
    MatMul or Gemm whose weight has block scales and whose activation comes from Q/DQ, if only one
    of the two is FP8, or if Gemm has transB = 1 and the weight is INT4 or FP8 (INT8: TRT037).

Why
    The builder flattens the scales of the blocks and multiplies them onto the result (TRT024 says
    what that computes). It cannot where the blocks run along the last axis, or where the operands
    have no product in common, and stops in Myelin.

Example::

    w = DequantizeLinear<axis = 1, block_size = 32>(w_int4, ws)
    y = Gemm<transB = 1>(DequantizeLinear(x_int8), w)

Instead
    Leave the activation in FP16 (weight-only), or give the weight one scale per output channel
    and the format of the activation.

Source
    Rule C19 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, Node, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Block scales opposite a DQ, in the forms that were seen to be refused."""
    for node in r.linears(graph):
        data, weight = r.operands(graph, node)
        if node.op not in ("Gemm", "MatMul") or data is None or weight is None:
            continue
        if is_refused(graph, node, data, weight):
            yield Fault(label(node), "no kernel takes this activation beside a weight in blocks")


def is_refused(graph: Graph, node: Node, data: Node, weight: Node) -> bool:
    """Whether a product of a quantized activation and a weight in blocks has no engine."""
    scale = r.scales(graph, weight)
    stored = r.storage(data), r.storage(weight)
    if scale is None or scale.size < 2 or scale.ndim < 2 or r.FP4 in stored:
        return False
    mixed = (stored[0] == r.FP8) != (stored[1] == r.FP8)
    transposed = node.op == "Gemm" and bool(node.attrs.get("transB", 0))
    return mixed or (transposed and stored[1] != "int8")


RULE = Rule(
    code="TRT065",
    severity="builder rejects",
    confidence="high",
    source="rule C19 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="drop the Q/DQ on the activation",
    check=check,
)
