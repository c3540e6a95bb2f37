"""output_dtype is not what the node can give.

What
    QuantizeLinear: output_dtype differs from the type of the zero point, or is none of INT8,
    INT4, FP8 E4M3, FP4. DequantizeLinear: output_dtype is no float.

Why
    The attribute and the zero point both name the type of the codes; they must agree.

Example::

    q = QuantizeLinear<output_dtype = UINT8>(x, s, zero_point = int8 0)

Instead
    Leave output_dtype out and let the zero point (or the scale, for DequantizeLinear) decide.

Source
    Rule B09, B10; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import QUANTIZE

_CODES = ("int8", r.INT4, r.FP8, r.FP4)


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """``output_dtype`` against the zero point and the types that exist."""
    for node in r.quantizers(graph):
        wanted = r.attribute_type(int(node.attrs.get("output_dtype", 0) or 0))
        if not node.attrs.get("output_dtype", 0):
            continue
        zero = r.type_name(r.operand(node, 2))
        if node.op != QUANTIZE:
            if wanted not in r.FLOATS:
                yield Fault(label(node), f"is to give {wanted}, which is no float")
        elif zero and zero != wanted:
            yield Fault(label(node), f"has output_dtype {wanted} and a zero point of type {zero}")
        elif not zero and wanted == "uint8":
            yield Fault(label(node), f"has output_dtype {wanted}; TensorRT knows {_CODES}")


RULE = Rule(
    code="TRT013",
    severity="parser rejects",
    confidence="high",
    source="rule B09, B10; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="leave output_dtype out",
    check=check,
)
