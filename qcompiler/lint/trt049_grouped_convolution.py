"""A depthwise or grouped convolution is quantized.

What
    A Conv with more than one group and both operands quantized. For full TensorRT only with a
    kernel below 3 or output channels that are no multiple of 8.

Why
    TensorRT for RTX pads each group to four channels: of a depthwise convolution it stores the
    activation fourfold and fills the weight with zeros, and bias and activation become a kernel
    of their own. Full TensorRT has INT8 kernels for the usual depthwise shapes.

Example::

    y = Conv<group = 64>(x8[1, 64, 32, 32], w8[64, 1, 3, 3])

Instead
    Leave it float, and keep the 1x1 convolutions around it quantized.

Source
    Rule D12, D13 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Quantized convolutions of several groups that the library has no good kernel for."""
    for node in r.linears(graph):
        parts = ops.groups(node)
        if node.op != "Conv" or parts == 1 or not r.is_quantized(graph, node):
            continue
        shape = ops.static(node.inputs[1].shape)
        if target.library == RTX or (shape is not None and _is_odd(shape)):
            yield Fault(label(node), f"is quantized and has {parts} groups")


def _is_odd(shape: tuple[int, ...]) -> bool:
    return shape[0] % 8 != 0 or min(shape[2:]) < 3


RULE = Rule(
    code="TRT049",
    severity="loses fusion",
    confidence="high",
    source="rule D12, D13 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="leave the convolution float",
    check=check,
)
