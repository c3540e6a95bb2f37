"""The GPU has no such type.

What
    FP8 under SM 8.9, BF16 or INT4 under SM 8.0, FP4 under SM 10.0 (TensorRT for RTX: 12.0),
    when the target names a compute capability.

Why
    The builder finds no implementation. An engine for several capabilities is limited to the
    weakest.

Example::

    --target tensorrt-rtx:sm86 with FP8 Q/DQ

Instead
    INT8 runs from SM 7.5; build another engine for the older card.

Source
    Rule I02, I03, I04, G06; TensorRT support matrix
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule

_SINCE = {"bfloat16": 80, r.INT4: 80, r.FP8: 89, r.FP4: 100}


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Types of all tensors against the weakest capability; one finding a type."""
    if target.capability is None:
        return
    told: set[str] = set()
    for node in graph.nodes:
        for name in (r.type_name(t) for t in (*node.inputs, *node.outputs)):
            least = 120 if name == r.FP4 and target.library == RTX else _SINCE.get(name, 0)
            if target.capability < least and name not in told:
                told.add(name)
                yield Fault(label(node), f"{name} needs SM {least / 10:.1f} or newer")


RULE = Rule(
    code="TRT031",
    severity="builder rejects",
    confidence="high",
    source="rule I02, I03, I04, G06; TensorRT support matrix",
    verified=SEEN,
    help="use INT8, or name only GPUs that have the type",
    check=check,
)
