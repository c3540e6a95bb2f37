"""The zero point is an empty name.

What
    A Q or DQ with three inputs, the third of them empty.

Why
    ONNX allows an omitted optional input to be written as an empty name. The importer counts
    inputs and reads the third; the message is only 'Invalid Node'.

Example::

    y = DequantizeLinear(q, s, )

Instead
    Write two inputs, or a zero point.

Source
    Rule B27; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Three inputs, the last one without a name."""
    for node in r.quantizers(graph):
        if len(node.inputs) > 2 and r.operand(node, 2) is None:
            yield Fault(label(node), "has an empty third input")


RULE = Rule(
    code="TRT018",
    severity="parser rejects",
    confidence="high",
    source="rule B27; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="drop the third input",
    check=check,
)
