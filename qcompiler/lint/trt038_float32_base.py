"""The rest of a quantized model computes in FP32.

What
    Q/DQ around linear operators, or block-wise weights, in a model whose linear operators give
    FP32.

Why
    Networks are strongly typed: what is not quantized runs in the type that the file says, and a
    product of INT8 operands writes the type of its scales. Moved bytes double against FP16, and
    an INT8 convolution keeps a wider result. Plain FP16 is often faster than INT8 in an FP32
    model.

Example::

    x8 = DequantizeLinear(q, scale_fp32)
    y_fp32 = Conv(x8, w8)

Instead
    Make the float tensors FP16, scales included: recipe int8+fp16. Scales may stay FP32 where
    DequantizeLinear has output_dtype.

Source
    Rule G02, B11; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Linear operators with an FP32 result; one finding a model, and none without Q/DQ."""
    if not r.quantizers(graph):
        return
    linear = [n for n in graph.nodes if ops.is_weighted(n) or n.op == "Attention"]
    wide = [n for n in linear if r.type_name(n.outputs[0]) == "float32"]
    if wide:
        yield Fault(label(wide[0]), f"{len(wide)} of {len(linear)} linear operators give float32")


RULE = Rule(
    code="TRT038",
    severity="advice",
    confidence="high",
    source="rule G02, B11; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="make the float tensors FP16: recipe int8+fp16",
    check=check,
)
