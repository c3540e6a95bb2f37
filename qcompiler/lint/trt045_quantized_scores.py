"""The scores or the mask of an attention are quantized.

What
    A Q/DQ pair between the first product of an attention and its softmax, on the scores or on the
    mask.

Why
    Neither is part of the pattern that becomes one 8-bit kernel, so a quantized attention falls
    apart. (A float one stays one kernel in TensorRT for RTX, and rounds its scores to 256
    values.) ONNX Runtime's quantizer puts such a pair behind every MatMul and Add.

Example::

    s = DequantizeLinear(QuantizeLinear(MatMul(q, k)))
    y = MatMul(Softmax(s), v)

Instead
    Leave the scores and the mask float.

Source
    Rule F07 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import fusions
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """DQs between both ends of an attention."""
    for found in fusions.attentions(graph):
        for pair in found.scores:
            yield Fault(label(pair), f"dequantizes scores or mask of {label(found.softmax)}")


RULE = Rule(
    code="TRT045",
    severity="loses fusion",
    confidence="high",
    source="rule F07 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="remove the Q/DQ pair",
    check=check,
)
