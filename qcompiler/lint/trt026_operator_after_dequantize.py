"""An operator stands between DequantizeLinear and the linear operator.

What
    DequantizeLinear, then Relu, Resize or another operator on one tensor, then Conv, Gemm or
    MatMul with a quantized weight.

Why
    Only data movement, a product with a scalar and a narrowing Cast can change places with a
    DequantizeLinear. After any other operator the activation is float, and so is the product.
    (A widening Cast is TRT039.)

Example::

    y = Conv(Relu(DequantizeLinear(q)), w8)

Instead
    Put the Q/DQ pair directly in front of the linear operator, behind the other one.

Source
    Rule D04, E01 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """What blocks the DQ of the data of a linear operator whose weight is quantized."""
    for node in r.linears(graph):
        found = r.blocked_by(graph, node)
        if found is not None and found.op != "Cast":
            yield Fault(
                label(node), f"{found.op} {label(found)} parts it from its DequantizeLinear"
            )


RULE = Rule(
    code="TRT026",
    severity="loses fusion",
    confidence="high",
    source="rule D04, E01 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="move the Q/DQ pair behind that operator",
    check=check,
)
