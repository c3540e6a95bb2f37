"""Quantized attention of a size that has no kernel.

What
    Attention with all four factors quantized: INT8 with a head size other than 16, 32 or 64, more
    than 512 queries or keys, or one query; FP8 with a head size below 16 or above 256, or
    (TensorRT for RTX) fewer than 32 keys.

Why
    The fused 8-bit kernels exist for these sizes only. Beyond them attention is two products, a
    softmax and the quantizations, while the 16-bit kernel would still fit.

Example::

    q8, k8, v8 of [1, 4, 128, 48] in INT8

Instead
    Leave the attention in FP16 (its projections may stay quantized), or use FP8 where only the
    INT8 size is wrong.

Source
    Rule F02, F03; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import fusions
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Fixed sizes of every attention whose factors are all quantized."""
    for found in fusions.attentions(graph):
        if found.storage == "int8":
            wrong = _int8(found)
        elif found.storage == r.FP8:
            wrong = _fp8(found, target)
        else:
            continue
        if wrong:
            yield Fault(label(found.softmax), f"its {found.storage} attention has {wrong}")


def _int8(found: fusions.Attention) -> str:
    if found.head not in (None, 16, 32, 64):
        return f"a head size of {found.head}; there are kernels for 16, 32 and 64"
    longest = max(found.queries or 0, found.keys or 0)
    if longest > 512:
        return f"a length of {longest}; there are kernels up to 512"
    return "one query; there is no kernel for that" if found.queries == 1 else ""


def _fp8(found: fusions.Attention, target: LintTarget) -> str:
    if found.head is not None and not 16 <= found.head <= 256:
        return f"a head size of {found.head}; there are kernels for 16 to 256"
    if target.library == RTX and found.keys is not None and found.keys < 32:
        return f"{found.keys} keys; there are kernels from 32 on"
    return ""


RULE = Rule(
    code="TRT044",
    severity="loses fusion",
    confidence="high",
    source="rule F02, F03; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="leave that attention in FP16",
    check=check,
)
