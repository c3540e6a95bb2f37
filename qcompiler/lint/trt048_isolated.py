"""A quantized operator stands alone among float ones.

What
    A linear operator with both operands quantized, while the linear operators before and behind
    it are float.

Why
    Around it the tensors are float: one kernel quantizes its input, and its result is written in
    float anyway. That is one more kernel and one more tensor for a gain in a single product.

Example::

    y = Conv(DequantizeLinear(QuantizeLinear(Conv(x, w))), w8)
    z = Conv(y, w)

Instead
    Quantize its neighbours too, or leave it float.

Source
    Rule J01, J02; TensorRT issue 4366; recorded build, tensorrt-rtx 1.7.1 (one kernel more)
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Quantized linear operators whose nearest ones on both sides are float."""
    for node in r.linears(graph):
        if not r.is_quantized(graph, node):
            continue
        before, behind = r.nearest(graph, node, ahead=False), r.nearest(graph, node, ahead=True)
        around = [*before, *behind]
        if before and behind and not any(r.is_quantized(graph, n) for n in around):
            yield Fault(label(node), "is quantized, and the linear operators around it are not")


RULE = Rule(
    code="TRT048",
    severity="advice",
    confidence="medium",
    source="rule J01, J02; TensorRT issue 4366; "
    "recorded build, tensorrt-rtx 1.7.1 (one kernel more)",
    verified=SEEN,
    help="quantize its neighbours, or leave it float",
    check=check,
)
