"""The operator Attention reads quantized tensors.

What
    ONNX's Attention (opset 23) with query, key or value from DequantizeLinear.

Why
    The importer multiplies query and key by the root of the scale, behind the operator's inputs;
    the quantization does not reach the kernel. It runs in 16 bit, and each pair is work for
    nothing.

Example::

    y = Attention(DequantizeLinear(q8), DequantizeLinear(k8), DequantizeLinear(v8))

Instead
    Write attention out (MatMul, Softmax, MatMul) and quantize that: compile does, from a float
    model, by the pass expand-attention. Or leave the operator's inputs float.

Source
    Rule F09; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Attention nodes behind DQ."""
    for node in graph.nodes:
        if node.op == "Attention" and ops.is_standard(node):
            given = [r.dequantizer(graph, r.operand(node, i)) for i in range(3)]
            if any(given):
                yield Fault(label(node), "reads DequantizeLinear, and computes in float")


RULE = Rule(
    code="TRT046",
    severity="loses fusion",
    confidence="high",
    source="rule F09; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="compile the float model (expand-attention writes it out), or remove the Q/DQ pairs",
    check=check,
)
