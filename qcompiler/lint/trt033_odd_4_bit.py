"""A 4-bit tensor has an odd number of elements.

What
    INT4 or FP4 codes whose number is odd.

Why
    Two codes share a byte; the builder refuses a half one.

Example::

    w = DequantizeLinear(w_int4[3, 5], s)

Instead
    Pad a dimension, or use INT8.

Source
    Rule B21 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Volume of 4-bit data of known shape."""
    for node in r.quantizers(graph):
        shape = ops.static(node.inputs[0].shape)
        if shape is not None and r.storage(node) in (r.INT4, r.FP4) and math.prod(shape) % 2:
            yield Fault(label(node), f"has {math.prod(shape)} 4-bit codes, an odd number")


RULE = Rule(
    code="TRT033",
    severity="builder rejects",
    confidence="high",
    source="rule B21 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="pad the tensor to an even number of elements",
    check=check,
)
