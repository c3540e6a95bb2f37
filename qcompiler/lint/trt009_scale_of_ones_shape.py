"""A single scale has more than one dimension.

What
    A scale of one element and rank 2 or more, such as [1, 1, 1, 1].

Why
    A scale per tensor is 0-D. Frameworks that keep dimensions when they reduce
    (amax(keepdims=True)) write [1, 1, 1, 1].

Example::

    w = DequantizeLinear(w_int8, scale[1, 1, 1, 1], zero[1, 1, 1, 1])

Instead
    Reshape scale and zero point to 0-D.

Source
    Rule B18 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """One element, rank above 1."""
    for node in r.quantizers(graph):
        scale = r.scales(graph, node)
        if scale is not None and scale.size == 1 and scale.ndim > 1:
            yield Fault(label(node), f"has a single scale of shape {list(scale.shape)}")


RULE = Rule(
    code="TRT009",
    severity="parser rejects",
    confidence="high",
    source="rule B18 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="reshape scale and zero point to scalars",
    check=check,
)
