"""A zero point of UINT8, INT32 or float: INT8 is used instead.

What
    QuantizeLinear whose zero point is 0, of a type TensorRT does not quantize to.

Why
    The parser warns and quantizes to INT8: the range becomes [-128, 127] instead of [0, 255],
    and everything above 127 steps saturates.

Example::

    q = QuantizeLinear(x, s, zero_point = uint8 0)

Instead
    Give an INT8 zero point, and a scale of max|x| / 127.

Source
    Rule B05, B07; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import QUANTIZE


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Zero points of a type that the parser replaces by INT8."""
    for node in r.quantizers(graph, QUANTIZE):
        zero = r.constant(graph, r.operand(node, 2))
        if zero is None or zero.astype(float).any():
            continue
        if str(zero.dtype) in ("uint8", "int32", "int64", *r.FLOATS):
            yield Fault(label(node), f"has a {zero.dtype} zero point; it is quantized to INT8")


RULE = Rule(
    code="TRT004",
    severity="silent numeric change",
    confidence="high",
    source="rule B05, B07; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="use an INT8 zero point and the scale max|x| / 127",
    check=check,
)
