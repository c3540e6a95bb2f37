"""The axis is not one of the tensor.

What
    A Q or DQ with several scales whose axis is outside [-rank, rank - 1].

Why
    There is no such dimension to spread the scales over. With a single scale the axis is
    ignored.

Example::

    w = DequantizeLinear<axis = 2>(w_int8[8, 4], scale[4], zero[4])

Instead
    Name a dimension that exists.

Source
    Rule B13; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Axis against rank."""
    for node in r.quantizers(graph):
        scale, shape = r.scales(graph, node), node.inputs[0].shape
        axis = int(node.attrs.get("axis", 1))
        if scale is None or scale.size < 2 or shape is None:
            continue
        if not -len(shape) <= axis < len(shape):
            yield Fault(label(node), f"has axis {axis} for a tensor of rank {len(shape)}")


RULE = Rule(
    code="TRT017",
    severity="parser rejects",
    confidence="high",
    source="rule B13; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="set axis to the dimension that the scales belong to",
    check=check,
)
