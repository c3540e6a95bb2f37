"""An FP8 convolution has a large kernel.

What
    Conv with both operands in FP8 and more than 32 elements a kernel, such as 7x7 (INT8 has no
    such limit).

Why
    There are FP8 kernels up to 32 elements. Beyond, both operands are dequantized in front of a
    float convolution.

Example::

    y = Conv<kernel_shape = [7, 7]>(x_fp8, w_fp8)

Instead
    Leave the convolution float, or quantize it to INT8.

Source
    Rule D10 (as corrected by real builds); ModelOpt, graph_utils.py; recorded build, tensorrt-rtx
    1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qcompiler import ops
from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Elements of the kernel of each FP8 convolution."""
    for node in r.linears(graph):
        weight = r.operands(graph, node)[1]
        if node.op != "Conv" or weight is None or not r.is_quantized(graph, node):
            continue
        shape = ops.static(node.inputs[1].shape)
        size = int(np.prod(shape[2:])) if shape is not None else 0
        if r.storage(weight) == r.FP8 and size > 32:
            yield Fault(label(node), f"has {size} elements a kernel, and 32 are the limit")


RULE = Rule(
    code="TRT061",
    severity="loses fusion",
    confidence="high",
    source="rule D10 (as corrected by real builds); ModelOpt, graph_utils.py; "
    "recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="leave the convolution float, or quantize it to INT8",
    check=check,
)
