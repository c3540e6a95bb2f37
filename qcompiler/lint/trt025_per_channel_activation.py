"""An activation of a Conv has a scale per channel.

What
    A convolution whose activation comes from a Q/DQ with several scales, or a matrix product
    whose activation has them along K.

Why
    The scale of an input channel cannot be taken out of the sum, so the product runs in float.
    TensorRT documents per-channel scales for weights only.

Example::

    y = Conv(DequantizeLinear<axis = 1>(x_int8, scale[C]), w8)

Instead
    One scale for the activation; move the ratios of its channels into the weight (SmoothQuant).

Source
    Rule B22, D26 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Several scales on data that is no weight."""
    for node in r.linears(graph):
        data, weight = r.operands(graph, node)
        if data is None or weight is None or r.is_weight(graph, data):
            continue
        scale, shape = r.scales(graph, data), data.inputs[0].shape
        if scale is None or scale.size < 2:
            continue
        axis = int(data.attrs.get("axis", 1))
        rows = shape is not None and axis % len(shape) != len(shape) - 1
        if node.op in ("Conv", "ConvTranspose") or not rows:
            yield Fault(label(node), f"its activation {label(data)} has {scale.size} scales")


RULE = Rule(
    code="TRT025",
    severity="loses fusion",
    confidence="high",
    source="rule B22, D26 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="use one scale for the activation",
    check=check,
)
