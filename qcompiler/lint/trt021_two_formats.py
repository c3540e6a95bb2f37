"""The operands of a linear operator are quantized to different types.

What
    Conv, Gemm or MatMul with, say, an INT8 activation and an FP8 weight.

Why
    There is no kernel that multiplies them, and the builder does not fall back.

Example::

    y = MatMul(DequantizeLinear(x_int8), DequantizeLinear(w_fp8))

Instead
    Quantize both to one type. INT4 weights take a float activation.

Source
    Rule D02; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, Node, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Storage types of both operands; INT4 with several scales in a matrix product is TRT024."""
    for node in r.linears(graph):
        data, weight = r.operands(graph, node)
        if data is None or weight is None or _is_float(graph, node, data, weight):
            continue
        # UINT8 in ONNX is INT8 here (TRT004, TRT005).
        kinds = {r.storage(d).replace("uint8", "int8") for d in (data, weight)}
        bad = kinds in ({"int8", r.FP8}, {r.FP8, r.INT4})
        single = (scale := r.scales(graph, weight)) is not None and scale.size == 1
        if bad or (kinds == {"int8", r.INT4} and (node.op == "Conv" or single)):
            yield Fault(label(node), f"multiplies {' by '.join(sorted(kinds))}")


def _is_float(graph: Graph, node: Node, data: Node, weight: Node) -> bool:
    """Whether scales keep the product in float, so that there is no conflict (TRT010, 023, 025)."""
    scale, weights = r.scales(graph, data), r.scales(graph, weight)
    if scale is not None and scale.ndim == 1 and node.op == "Conv":
        return True
    rank = len(data.inputs[0].shape or ())
    if scale is not None and scale.size > 1 and _axis(data, rank) == rank - 1:
        return True
    shape = weight.inputs[0].shape
    if weights is not None and weights.ndim > 1 and node.op == "Conv":
        return True
    if weights is None or weights.ndim != 1 or weights.size < 2 or shape is None:
        return False
    wanted = ops.weight_axis(node, ops.WEIGHTED[node.op].weight, len(shape))
    return _axis(weight, len(shape)) != wanted


def _axis(node: Node, rank: int) -> int:
    axis = int(node.attrs.get("axis", 1))
    return axis + rank if axis < 0 else axis


RULE = Rule(
    code="TRT021",
    severity="builder rejects",
    confidence="high",
    source="rule D02; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="quantize both operands to the same type",
    check=check,
)
