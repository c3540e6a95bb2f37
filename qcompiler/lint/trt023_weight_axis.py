"""The weight of a linear operator has scales along its input channels.

What
    A weight with one scale per index of an axis that is not the output channel.

Why
    The scale of an output channel can be applied after the sum: y[n] = s[n] * sum_k x[k] q[k,
    n]. The scale of an input channel cannot be taken out of the sum, so the weight is
    dequantized first and the product is in float.

Example::

    w = DequantizeLinear<axis = 0>(w_int8[K, N], scale[K])
    y = MatMul(x, w)

Instead
    Conv: axis 0. ConvTranspose: 1. Gemm with transB: 0. MatMul and Gemm [K, N]: the last.

Source
    Rule D06; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Axis of scales on weights that are read directly, both operands being quantized."""
    for node in r.linears(graph):
        slot = ops.WEIGHTED[node.op].weight
        weight = graph.producer(node.inputs[slot])
        if weight is None or any(d is None for d in r.operands(graph, node)):
            continue
        scale, shape = r.scales(graph, weight), weight.inputs[0].shape
        if scale is None or scale.ndim != 1 or scale.size < 2 or shape is None:
            continue
        axis = int(weight.attrs.get("axis", 1)) % len(shape)
        wanted = ops.weight_axis(node, slot, len(shape))
        if r.is_weight(graph, weight) and axis != wanted and shape[axis] == scale.size:
            yield Fault(label(node), f"its weight has scales on axis {axis}; outputs are {wanted}")


RULE = Rule(
    code="TRT023",
    severity="loses fusion",
    confidence="high",
    source="rule D06; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="quantize the weight along its output channels",
    check=check,
)
