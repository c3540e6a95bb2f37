"""A low-precision value goes into an operator that takes floats.

What
    FP8, INT4 or FP4 codes read by anything but DequantizeLinear, Concat and reshaping operators;
    INT8 codes read by MatMul.

Why
    Codes are numbers only together with their scale. The builder demands a DequantizeLinear;
    INT8 is an ordinary integer type for some operators, but not for a matrix product.

Example::

    q = QuantizeLinear(x, s, zero_point = int8 0)
    y = MatMul(q, w_int8)

Instead
    Put a DequantizeLinear between codes and operator; the two fuse into one kernel.

Source
    Rule A07 (as corrected by real builds); TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import DEQUANTIZE, QUANTIZE

_CARRY = frozenset(
    {DEQUANTIZE, QUANTIZE, "Concat", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten",
     "Identity", "Slice", "Split", "Gather"}
)  # fmt: skip


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Types of the inputs of operators; custom operators (TRT_...) know what they take."""
    for node in graph.nodes:
        if node.op in _CARRY or node.op.startswith("TRT_") or node.domain not in (None, ""):
            continue
        found = {r.type_name(t) for t in node.inputs if t.name}
        low = found & {r.FP8, r.INT4, r.FP4, *(("int8",) if node.op == "MatMul" else ())}
        if low and node.op not in ("If", "Loop", "Scan", "Cast", "CastLike"):
            yield Fault(label(node), f"{node.op} reads {min(low)} codes")


RULE = Rule(
    code="TRT011",
    severity="builder rejects",
    confidence="high",
    source="rule A07; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="put a DequantizeLinear between the codes and the operator",
    check=check,
)
