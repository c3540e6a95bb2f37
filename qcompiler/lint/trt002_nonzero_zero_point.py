"""A zero point of INT8 or INT4 is not zero.

What
    A constant zero point of a signed type holds something other than 0.

Why
    TensorRT quantizes symmetrically: x = s * q. With a zero point, the product of two tensors
    gains terms in the sums of codes that its kernels do not compute.

Example::

    q = QuantizeLinear(x, s, zero_point = int8 -3)

Instead
    Calibrate symmetrically: s = max|x| / 127, zero point 0.

Source
    Rule B04; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Non-zero zero points of signed integer types."""
    for node in r.quantizers(graph):
        zero = r.constant(graph, r.operand(node, 2))
        if zero is not None and str(zero.dtype) in ("int8", r.INT4) and zero.astype(int).any():
            yield Fault(label(node), f"has a {zero.dtype} zero point that is not 0")


RULE = Rule(
    code="TRT002",
    severity="parser rejects",
    confidence="high",
    source="rule B04; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="quantize symmetrically, with zero point 0",
    check=check,
)
