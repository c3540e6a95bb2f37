"""The number of scales is not the length of the axis.

What
    A scale of rank 1 with more than one element, and another length than the data has on axis.

Why
    One scale per index of the axis. The axis defaults to 1, which for a convolution weight is
    the input channel; a forgotten axis = 0 is the usual cause.

Example::

    w = DequantizeLinear<axis = 1>(w_int8[8, 3, 3, 3], scale[8], zero[8])

Instead
    Name the output-channel axis: 0 for Conv, 1 for ConvTranspose and for a MatMul weight [K,
    N].

Source
    Rule B14; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Rank-1 scales against the shape of the data."""
    for node in r.quantizers(graph):
        scale, shape = r.scales(graph, node), node.inputs[0].shape
        if scale is None or scale.ndim != 1 or scale.size < 2 or shape is None:
            continue
        axis = int(node.attrs.get("axis", 1))
        if not -len(shape) <= axis < len(shape):
            continue
        length = shape[axis]
        if isinstance(length, int) and length != scale.size:
            yield Fault(label(node), f"has {scale.size} scales for {length} on axis {axis}")


RULE = Rule(
    code="TRT008",
    severity="parser rejects",
    confidence="high",
    source="rule B14; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="set axis to the dimension that the scales belong to",
    check=check,
)
