"""The operator set is newer than the parser declares, or older than 9.

What
    A default operator set above 24 or below 9.

Why
    The parser does not refuse it: it imports every node with the meaning it knows, which may be
    an older one. Q/DQ need 13, FP8 19, INT4 and blocks 21, FP4 23.

Example::

    opset_import: ["" : 26]

Instead
    Export for a set between 13 and 24.

Source
    Rule A01; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import targets
from qcompiler.graph import Graph
from qcompiler.lint.base import UNSEEN, Fault, LintTarget, Rule

_OLDEST = 9


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Version of the default operator set."""
    newest = targets.find(target.library).max_opset
    if not _OLDEST <= graph.opset <= newest:
        yield Fault("model", f"uses operator set {graph.opset}; declared are {_OLDEST} to {newest}")


RULE = Rule(
    code="TRT030",
    severity="advice",
    confidence="medium",
    source="rule A01; TensorRT 11.0 ONNX parser",
    verified=UNSEEN,
    help="export the model for an operator set from 13 to 24",
    check=check,
)
