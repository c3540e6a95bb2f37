"""INT8 convolutions on a GPU that has none.

What
    TensorRT for RTX for SM 7.5: Conv with both operands in INT8.

Why
    There the library has INT8 matrix products, but no INT8 convolution: it quantizes and
    dequantizes in kernels of their own, around a float convolution.

Example::

    --target tensorrt-rtx:sm75 with Q/DQ around Conv

Instead
    Leave convolutions float for that card, or build another engine for it.

Source
    Rule D27, I01 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Quantized convolutions, if the weakest capability is below 8.0."""
    if target.capability is None or target.capability >= 80:
        return
    for node in r.linears(graph):
        if node.op == "Conv" and r.is_quantized(graph, node):
            yield Fault(label(node), "is quantized, and runs in float there")


RULE = Rule(
    code="TRT057",
    severity="loses fusion",
    confidence="high",
    source="rule D27, I01 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="leave convolutions float for this GPU",
    check=check,
    libraries=(RTX,),
)
