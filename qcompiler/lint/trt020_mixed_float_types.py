"""The float operands of an operator have different types.

What
    An element-wise operator, Concat, Where, MatMul, Gemm, Conv or LayerNormalization with
    operands of, say, FP16 and FP32; a bias of another type than the dequantized weight.

Why
    Strongly typed networks convert nothing on their own. Conversions to FP16 that leave scalar
    constants or biases in FP32 are the usual cause.

Example::

    y = Add(x_fp16, one_fp32)

Instead
    Insert a Cast, or store the constant in the other operand's type.

Source
    Rule E20, G07, D24; TensorRT 11.0 ONNX parser; strong typing
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule

_SAME = frozenset(
    {
        "Add", "Sub", "Mul", "Div", "Max", "Min", "Sum", "Mean", "Concat", "Where", "MatMul",
        "Gemm", "Conv", "ConvTranspose", "LayerNormalization", "PRelu",
    }
)  # fmt: skip


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Float types among the inputs of one node."""
    for node in graph.nodes:
        if node.op not in _SAME or not ops.is_standard(node):
            continue
        found = {r.type_name(t) for t in node.inputs if t.name} & r.FLOATS
        if len(found) > 1:
            yield Fault(label(node), f"{node.op} reads {' and '.join(sorted(found))}")


RULE = Rule(
    code="TRT020",
    severity="parser rejects",
    confidence="high",
    source="rule E20, G07, D24; TensorRT 11.0 ONNX parser; strong typing",
    verified=SEEN,
    help="cast one operand, or store the constant in the other's type",
    check=check,
)
