"""A Cast makes FP8, INT4 or FP4.

What
    Cast (or CastLike) to a type that only quantization may create.

Why
    A cast has no scale; the builder accepts these types only from QuantizeLinear.

Example::

    q = Cast<to = FLOAT8E4M3FN>(x)

Instead
    QuantizeLinear with the scale 1 (or a better one).

Source
    Rule A06; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Result types of casts."""
    for node in graph.nodes:
        if node.op in ("Cast", "CastLike"):
            made = r.type_name(node.outputs[0])
            if made in (r.FP8, r.INT4, r.FP4):
                yield Fault(label(node), f"casts to {made}")


RULE = Rule(
    code="TRT019",
    severity="builder rejects",
    confidence="high",
    source="rule A06; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="use QuantizeLinear",
    check=check,
)
