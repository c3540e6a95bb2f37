"""One tensor is quantized twice, with different scales.

What
    Two QuantizeLinear nodes with different scales read the same tensor.

Why
    Each scale needs a copy of the tensor of its own, written and read again.

Example::

    a = QuantizeLinear(x, 0.05, 0)
    b = QuantizeLinear(x, 0.06, 0)

Instead
    Share one pair between all readers, with the wider scale.

Source
    Rule E15; TensorRT documentation; confirmed by real builds (two INT8 copies are written)
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import QUANTIZE


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Distinct scales among the Q nodes that read a tensor."""
    for node in r.quantizers(graph, QUANTIZE):
        others = [n for n, i in graph.users(node.inputs[0]) if n.op == QUANTIZE and i == 0]
        given = [r.scales(graph, n) for n in others]
        known = {(s.shape, s.tobytes()) for s in given if s is not None}
        if others[0] is node and len(known) > 1:
            yield Fault(label(node), f"reads a tensor that is quantized with {len(known)} scales")


RULE = Rule(
    code="TRT034",
    severity="loses fusion",
    confidence="medium",
    source="rule E15; recorded build, tensorrt-rtx 1.7.1 (two INT8 copies are written)",
    verified=SEEN,
    help="share one Q/DQ pair between the readers",
    check=check,
)
