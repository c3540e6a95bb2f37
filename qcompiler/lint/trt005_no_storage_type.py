"""QuantizeLinear without zero point and output_dtype: UINT8 for ONNX, INT8 for TensorRT.

What
    A QuantizeLinear with two inputs and no output_dtype.

Why
    The ONNX specification says UINT8, so codes run over [0, 255]; TensorRT assumes INT8. ONNX
    Runtime and TensorRT compute different functions from one file.

Example::

    q = QuantizeLinear(x, s)

Instead
    Add an INT8 zero point of 0 (or, from opset 21, output_dtype = INT8).

Source
    Rule B06; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import QUANTIZE


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Two inputs, no ``output_dtype``."""
    for node in r.quantizers(graph, QUANTIZE):
        if r.operand(node, 2) is None and not node.attrs.get("output_dtype", 0):
            yield Fault(label(node), "names no type for its codes: ONNX says UINT8, TensorRT INT8")


RULE = Rule(
    code="TRT005",
    severity="silent numeric change",
    confidence="high",
    source="rule B06; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="add an INT8 zero point of 0",
    check=check,
)
