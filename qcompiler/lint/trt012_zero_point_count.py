"""Scale and zero point have different numbers of elements.

What
    A constant zero point with another number of elements than the scale.

Why
    They belong to each other element by element; a single 0 is not spread over the channels.
    For FP8 the zero point is not read.

Example::

    w = DequantizeLinear<axis = 0>(w_int8, scale[8], zero[1])

Instead
    Give one zero for every scale, or leave the zero point out of a DequantizeLinear.

Source
    Rule B08; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Counts of zero points against scales."""
    for node in r.quantizers(graph):
        scale, zero = r.scales(graph, node), r.constant(graph, r.operand(node, 2))
        if scale is None or zero is None or str(zero.dtype) == r.FP8:
            continue
        if zero.size != scale.size:
            yield Fault(label(node), f"has {zero.size} zero points for {scale.size} scales")


RULE = Rule(
    code="TRT012",
    severity="parser rejects",
    confidence="high",
    source="rule B08; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="give as many zeros as scales",
    check=check,
)
