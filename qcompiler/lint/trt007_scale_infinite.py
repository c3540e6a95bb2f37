"""A scale is infinite.

What
    A constant scale with an infinite element.

Why
    It passes the parser's test s > 0. Every code is then x / inf = 0 and every result 0 * inf =
    NaN.

Example::

    q = QuantizeLinear(x, inf, 0)

Instead
    Calibrate on finite samples; an overflow to infinity in an FP16 layer is the usual cause.

Source
    Rule B02 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Constant scales with an infinity."""
    for node in r.quantizers(graph):
        scale = r.scales(graph, node)
        if scale is not None and np.isposinf(scale).any():
            yield Fault(label(node), "has an infinite scale")


RULE = Rule(
    code="TRT007",
    severity="silent numeric change",
    confidence="high",
    source="rule B02 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="calibrate on finite values",
    check=check,
)
