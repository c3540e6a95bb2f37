"""A ConvTranspose is quantized.

What
    ConvTranspose with both operands quantized. For full TensorRT only with groups, in 3-D, or
    with a scale per channel.

Why
    TensorRT for RTX has no low-precision kernel for it: the weight is dequantized, and the
    product is in float with one kernel more than without Q/DQ. Full TensorRT refuses groups, runs
    3-D in FP16, and per-channel scales are reported to fail.

Example::

    y = ConvTranspose(x8, w8)

Instead
    Leave it float; for full TensorRT one scale for the whole weight.

Source
    Rule D07, D08; TensorRT issues 1694, 1699, 1934; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, Node, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Quantized transposed convolutions that the library has no good kernel for."""
    for node in r.linears(graph):
        if node.op != "ConvTranspose" or not r.is_quantized(graph, node):
            continue
        if target.library == RTX or ops.groups(node) > 1 or _is_fragile(graph, node):
            yield Fault(label(node), "ConvTranspose is quantized")


def _is_fragile(graph: Graph, node: Node) -> bool:
    _, weight = r.operands(graph, node)
    scale = None if weight is None else r.scales(graph, weight)
    several = scale is not None and scale.size > 1
    return several or len(node.inputs[1].shape or ()) > 4


RULE = Rule(
    code="TRT050",
    severity="loses fusion",
    confidence="high",
    source="rule D07, D08; TensorRT issues 1694, 1699, 1934; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="leave the ConvTranspose float",
    check=check,
)
