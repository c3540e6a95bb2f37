"""UINT8 codes that cannot be read as INT8.

What
    DequantizeLinear of stored or given UINT8 codes, or QuantizeLinear with a UINT8 zero point
    other than 0.

Why
    TensorRT's quantized integer type is INT8. UINT8 data has no kernel on a GPU, and a zero
    point of 128 is asymmetric.

Example::

    q = QuantizeLinear(x, s, zero_point = uint8 128)
    y = DequantizeLinear(q, s, zero_point = uint8 128)

Instead
    Re-centre: subtract 128 from codes and zero point, and store them as INT8; with the zero
    point 128 this computes the same function.

Source
    Rule B05; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import QUANTIZE


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """UINT8 data of a DQ that no Q made, and UINT8 zero points that are not zero."""
    for node in r.quantizers(graph):
        if node.op == QUANTIZE:
            zero = r.constant(graph, r.operand(node, 2))
            if zero is not None and str(zero.dtype) == "uint8" and zero.any():
                yield Fault(label(node), "has a UINT8 zero point that is not 0")
            continue
        producer = graph.producer(node.inputs[0])
        made_here = producer is not None and producer.op == QUANTIZE
        if r.type_name(node.inputs[0]) == "uint8" and not made_here:
            yield Fault(label(node), "dequantizes UINT8 codes")


RULE = Rule(
    code="TRT003",
    severity="parser rejects",
    confidence="high",
    source="rule B05; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="use INT8 codes: subtract 128 from codes and zero point",
    check=check,
)
