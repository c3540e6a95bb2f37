"""A merged projection has a weight scale per channel.

What
    A quantized MatMul or Gemm with several weight scales whose result is split into equal parts
    (query, key and value), of which one at least is not quantized directly behind the Split.

Why
    The compiler pushes the Split through the product, and the pieces of the scale no longer fit:
    the weight is dequantized by a kernel, and the product is in float.

Example::

    q, k, v = Split<num_outputs = 3>(MatMul(x8, w8[K, 3 * N]))

Instead
    One scale for the weight, a Q/DQ pair directly on each part, or three products.

Source
    Rule D06, E15; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, Node, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import QUANTIZE


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Quantized products with several scales and an even split behind them."""
    for node in r.linears(graph):
        weight = r.operands(graph, node)[1]
        if node.op not in ("Gemm", "MatMul") or not r.is_quantized(graph, node) or weight is None:
            continue
        scale = r.scales(graph, weight)
        if scale is None or scale.size < 2 or not ops.splits_evenly(graph, node):
            continue
        if not _are_quantized(graph, node):
            yield Fault(label(node), f"has {scale.size} weight scales and is split evenly")


def _are_quantized(graph: Graph, node: Node) -> bool:
    """Whether the parts of the Split behind a product all go straight into Q."""
    split = r.readers(graph, node)[0]
    while split.op != "Split":
        split = r.readers(graph, split)[0]
    users = [u.op for part in split.outputs for u, _ in graph.users(part)]
    return set(users) == {QUANTIZE}


RULE = Rule(
    code="TRT063",
    severity="loses fusion",
    confidence="high",
    source="rule D06, E15; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="use one scale for the merged weight",
    check=check,
)
