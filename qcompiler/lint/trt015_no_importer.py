"""A quantized operator that TensorRT does not import.

What
    QLinearConv, QLinearMatMul, ConvInteger, MatMulInteger, DynamicQuantizeLinear, and ONNX
    Runtime's QLinear*, QGemm, QAttention, DynamicQuantize*.

Why
    The operator-oriented form of quantization has no importers: TensorRT reads Q/DQ.

Example::

    y = QLinearConv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero)

Instead
    Quantize in Q/DQ form: onnxruntime.quantization with quant_format=QuantFormat.QDQ, or this
    compiler on the float model.

Source
    Rule A03; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule

_NAMES = frozenset(
    {
        "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QGemm", "QAttention",
        "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulIntegerToFloat",
    }
)  # fmt: skip


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Nodes by operator, whatever their domain."""
    for node in graph.nodes:
        if node.op in _NAMES or node.op.startswith("QLinear"):
            yield Fault(label(node), f"{node.op} has no importer")


RULE = Rule(
    code="TRT015",
    severity="parser rejects",
    confidence="high",
    source="rule A03; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="write the model in Q/DQ form (QuantFormat.QDQ)",
    check=check,
)
