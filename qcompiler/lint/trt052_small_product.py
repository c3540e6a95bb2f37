"""A small matrix product is quantized.

What
    Gemm or MatMul with both operands quantized and fewer than 16 terms a sum or fewer than 16
    columns; for full TensorRT also a single row.

Why
    The kernel that quantizes the activation costs more than the product saves: a product with a
    vector waits for memory, not for arithmetic, and a tiny one for its own launch.

Example::

    y = MatMul(x8[64, 8], w8[8, 8])

Instead
    Leave it float. With a single row and a large weight quantize the weight alone (INT4 by
    blocks).

Source
    Rule D16, J03; ModelOpt, graph_utils.py; recorded build, tensorrt-rtx 1.7.1 (one kernel more)
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, Node, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, TENSORRT, Fault, LintTarget, Rule


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Fixed sizes of quantized products with a constant weight."""
    for node in r.linears(graph):
        _, weight = r.operands(graph, node)
        if node.op not in ("Gemm", "MatMul") or not r.is_quantized(graph, node):
            continue
        if weight is None or not r.is_weight(graph, weight):
            continue
        rows, terms, columns = _sizes(node)
        if terms is not None and terms < 16:
            yield Fault(label(node), f"is quantized with {terms} terms a sum")
        elif columns is not None and columns < 16:
            yield Fault(label(node), f"is quantized with {columns} columns")
        elif rows == 1 and target.library == TENSORRT:
            yield Fault(label(node), "is quantized with a single row")


def _sizes(node: Node) -> tuple[int | None, int | None, int | None]:
    """M, K and N; None where a size is not fixed."""
    turned = node.op == "Gemm" and bool(node.attrs.get("transA", 0))
    terms = r.extent(node.inputs[0], -2 if turned else -1)
    made = node.outputs[0]
    leading = [r.extent(made, axis) for axis in range(len(made.shape or ()) - 1)]
    rows = 1 if leading and set(leading) == {1} else None
    return rows, terms, r.extent(made, -1)


RULE = Rule(
    code="TRT052",
    severity="advice",
    confidence="medium",
    source="rule D16, J03; ModelOpt, graph_utils.py; "
    "recorded build, tensorrt-rtx 1.7.1 (one kernel more)",
    verified=SEEN,
    help="leave the product float",
    check=check,
)
