"""A quantized model computes its attention in FP32.

What
    MatMul, Softmax, MatMul in FP32, not quantized, with more than one query, in a model with
    Q/DQ.

Why
    The fused attention kernel takes FP16, BF16, INT8 or FP8. In FP32 the attention is two
    products and a softmax, with the scores written to memory and read again: at length S that is
    S x S numbers a head.

Example::

    y_fp32 = MatMul(Softmax(MatMul(q_fp32, k_fp32)), v_fp32)

Instead
    Compute it in FP16 (recipe int8+fp16); FP32 between Casts around the Softmax alone costs
    nothing.

Source
    Rule F01, G02; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import fusions
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Attentions with a float factor whose first product reads FP32."""
    if not r.quantizers(graph):
        return
    for found in fusions.attentions(graph):
        wide = r.type_name(found.first.inputs[0]) == "float32"
        if wide and not found.storage and found.queries != 1:
            yield Fault(label(found.softmax), "its attention computes in float32")


RULE = Rule(
    code="TRT047",
    severity="loses fusion",
    confidence="high",
    source="rule F01, G02; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="compute the attention in FP16: recipe int8+fp16",
    check=check,
)
