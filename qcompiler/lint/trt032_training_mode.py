"""The model was exported for training, or pools with dilations.

What
    BatchNormalization with training_mode = 1, Dropout whose training_mode is true or not
    constant, MaxPool or AveragePool with dilations other than 1.

Why
    TensorRT only infers, and its pooling layers have no dilation.

Example::

    y, m, v = BatchNormalization<training_mode = 1>(x, ...)

Instead
    Export in evaluation mode (model.eval()).

Source
    Rule A14 (as corrected by real builds); TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, Node, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """The three operators."""
    for node in graph.nodes:
        if node.op == "BatchNormalization" and int(node.attrs.get("training_mode", 0)):
            yield Fault(label(node), "BatchNormalization is in training mode")
        if node.op == "Dropout" and _trains(graph, node):
            yield Fault(label(node), "Dropout is in training mode, or may be")
        if node.op in ("MaxPool", "AveragePool") and set(node.attrs.get("dilations", [1])) != {1}:
            yield Fault(label(node), f"{node.op} has dilations")


def _trains(graph: Graph, node: Node) -> bool:
    given = r.operand(node, 2)
    if given is None:
        return False
    value = r.constant(graph, given)
    return value is None or bool(value.any())


RULE = Rule(
    code="TRT032",
    severity="parser rejects",
    confidence="high",
    source="rule A14 (as corrected by real builds); TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="export the model in evaluation mode",
    check=check,
)
