"""Attention is quantized in part.

What
    Of the factors of both products (query, key, softmax output, value) some come from
    DequantizeLinear and others are float; or all four are quantized and the result is not.

Why
    One kernel computes a whole attention, either in 16 bit or with every factor in 8 bit (INT8
    also needs the result quantized; for FP8 only full TensorRT asks for that). In between it
    falls apart into two products, a softmax and the quantizations, with the scores written to
    memory. (With a single quantized factor TensorRT for RTX keeps the 16-bit kernel, and rounds
    that factor for nothing.) Keys and values from an 8-bit cache are another kernel, and are left
    alone here.

Example::

    s = MatMul(DequantizeLinear(q8), DequantizeLinear(k8))
    y = MatMul(Softmax(s), DequantizeLinear(v8))

Instead
    Quantize query, key, value, softmax output (scale 1/127; FP8: 1/448) and result, or none of
    them.

Source
    Rule F02, F03, F18; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, Node, label
from qcompiler.lint import fusions
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, TENSORRT, Fault, LintTarget, Rule
from qcompiler.verify import QUANTIZE


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """What is missing of the quantization of each attention."""
    for found in fusions.attentions(graph):
        missing = [name for name, pair in found.factors.items() if pair is None]
        stored = {r.storage(d) for d in found.factors.values() if d is not None}
        needs_result = "int8" in stored or target.library == TENSORRT
        if not missing and found.result is None and needs_result:
            missing = ["result"]
        if len(missing) in (1, 2, 3) and not _reads_cache(graph, found):
            yield Fault(label(found.softmax), f"its attention is not quantized at: {_and(missing)}")


def _and(names: list[str]) -> str:
    return ", ".join(names)


def _reads_cache(graph: Graph, found: fusions.Attention) -> bool:
    """Keys or values that were stored in 8 bit, and a float query."""
    pairs = (found.key, found.value)
    stored = [d for d in pairs if d is not None and r.source(graph, d) is None]
    fresh = [d for d in stored if not _is_quantize(graph.producer(d.inputs[0]))]
    return found.query is None and found.probabilities is None and bool(fresh)


def _is_quantize(node: Node | None) -> bool:
    return node is not None and node.op == QUANTIZE


RULE = Rule(
    code="TRT043",
    severity="loses fusion",
    confidence="high",
    source="rule F02, F03, F18; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="quantize query, key, softmax output, value and result, or none of them",
    check=check,
)
