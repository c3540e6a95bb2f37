"""A scale is zero, negative, NaN, or no float.

What
    A constant scale with an element that is not greater than 0, without elements, or of a type
    other than a float of 16 bit or more.

Why
    Codes are x / s. A channel whose weights are all zero gets the scale 0 from max|w| / 127; in
    FP16 a scale under 3e-8 rounds to 0.

Example::

    w = DequantizeLinear<axis = 0>(w_int8, [0.01, 0.0], [0, 0])

Instead
    Give dead channels any positive scale: their codes are 0.

Source
    Rule B02; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Constant scales that the parser's test ``s > 0`` refuses."""
    for node in r.quantizers(graph):
        scale = r.constant(graph, r.operand(node, 1))
        if scale is None:
            continue
        if str(scale.dtype) not in r.FLOATS:
            yield Fault(label(node), f"has a scale of type {scale.dtype}")
        elif scale.size == 0 or not (scale.astype(float) > 0).all():
            yield Fault(label(node), "has a scale that is not positive")


RULE = Rule(
    code="TRT006",
    severity="parser rejects",
    confidence="high",
    source="rule B02; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="give dead channels a positive scale",
    check=check,
)
