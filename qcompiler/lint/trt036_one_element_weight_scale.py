"""The weight of a 16-bit Conv has a scale of shape [1] beside a scalar activation scale.

What
    A convolution with more than one output channel whose activation scale is 0-D and whose weight
    scale is FP16 or BF16 of shape [1].

Why
    The compiler takes [1] for one scale per output channel, and the build ends in an internal
    error (const_ppg.cpp). With FP32 scales it builds.

Example::

    w8 = DequantizeLinear(w_int8, float16[1] scale, int8[1] zero)
    y = Conv(x8, w8)

Instead
    Make the weight scale 0-D, or give one per output channel.

Source
    Rule B18 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """[1] in 16 bit on the weight, 0-D on the data."""
    for node in r.linears(graph):
        data, weight = r.operands(graph, node)
        if node.op != "Conv" or data is None or weight is None:
            continue
        x, w, shape = r.scales(graph, data), r.scales(graph, weight), weight.inputs[0].shape
        if x is None or w is None or x.ndim or w.shape != (1,) or not shape or shape[0] == 1:
            continue
        if r.type_name(weight.inputs[1]) in ("float16", "bfloat16"):
            yield Fault(label(node), f"reads {label(weight)}, whose 16-bit scale has shape [1]")


RULE = Rule(
    code="TRT036",
    severity="builder rejects",
    confidence="high",
    source="rule B18; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="reshape the scale to a scalar",
    check=check,
    libraries=(RTX,),
)
