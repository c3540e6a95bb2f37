"""A Concat of tensors with different scales goes straight into a linear operator.

What
    Concat of DequantizeLinear results with unequal scales, read by Conv, Gemm or MatMul with a
    quantized weight.

Why
    The joined tensor has no single scale, so the product runs in float.

Example::

    y = Conv(Concat(DequantizeLinear(a, s1), DequantizeLinear(b, s2)), w8)

Instead
    Give the parts one scale, or put a Q/DQ pair behind the Concat.

Source
    Rule E07 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import DEQUANTIZE


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Scales of the parts of a Concat that a quantized product reads."""
    for node in graph.nodes:
        pairs = [graph.producer(t) for t in node.inputs if t.name]
        if node.op != "Concat" or any(p is None or p.op != DEQUANTIZE for p in pairs):
            continue
        given = [r.scales(graph, p) for p in pairs if p is not None]
        known = {s.tobytes() for s in given if s is not None}
        linear = [u for u in r.readers(graph, node) if ops.is_weighted(u)]
        if len(known) > 1 and any(r.operands(graph, u)[1] is not None for u in linear):
            yield Fault(label(node), f"joins tensors of {len(known)} different scales")


RULE = Rule(
    code="TRT028",
    severity="loses fusion",
    confidence="high",
    source="rule E07 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="use one scale for all parts",
    check=check,
)
