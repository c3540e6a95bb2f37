"""Both operands of a residual Add are quantized.

What
    An Add of two Q/DQ pairs, one of them on the result of a convolution that nobody else reads.

Why
    Without that pair the convolution adds the skip branch in its own kernel, before it rounds.
    With it the sum is a kernel of its own, and the branch is rounded twice.

Example::

    y = Add(DequantizeLinear(QuantizeLinear(Conv(...))), DequantizeLinear(skip))

Instead
    Quantize the skip branch only.

Source
    Rule E06; ModelOpt, remove_partial_input_qdq; confirmed by real builds
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import DEQUANTIZE


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Adds of two pairs, one on a convolution."""
    for node in graph.nodes:
        pairs = [graph.producer(t) for t in node.inputs if t.name]
        if node.op != "Add" or any(p is None or p.op != DEQUANTIZE for p in pairs):
            continue
        for pair in pairs:
            made = r.source(graph, pair)
            if made is not None and made.op == "Conv" and len(r.readers(graph, made)) == 1:
                yield Fault(label(node), f"adds the quantized result of {label(made)}")


RULE = Rule(
    code="TRT027",
    severity="loses fusion",
    confidence="medium",
    source="rule E06; ModelOpt, remove_partial_input_qdq; confirmed by real builds",
    verified=SEEN,
    help="drop the Q/DQ pair between the convolution and the Add",
    check=check,
)
