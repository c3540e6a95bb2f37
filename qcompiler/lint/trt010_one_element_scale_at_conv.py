"""The activation of a Conv has a scale of shape [1].

What
    A convolution with both operands quantized whose activation scale has shape [1].

Why
    The compiler takes [1] for one scale per channel and runs the whole convolution in the base
    type. Matrix products do not mind.

Example::

    x8 = DequantizeLinear(q, scale[1], zero[1])
    y = Conv(x8, w8)

Instead
    Make the scale 0-D.

Source
    Rule B18 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Scales of shape [1] on the data of a quantized convolution."""
    for node in r.linears(graph):
        data, weight = r.operands(graph, node)
        if node.op != "Conv" or data is None or weight is None:
            continue
        scale = r.scales(graph, data)
        if scale is not None and scale.shape == (1,):
            yield Fault(label(node), f"reads {label(data)}, whose scale has shape [1]")


RULE = Rule(
    code="TRT010",
    severity="loses fusion",
    confidence="high",
    source="rule B18 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="reshape the scale to a scalar",
    check=check,
    libraries=(RTX,),
)
