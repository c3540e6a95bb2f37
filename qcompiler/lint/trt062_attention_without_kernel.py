"""The operator Attention has no kernel of this type or size.

What
    ONNX's Attention in FP32, or with a head size below 16 or above 256, without the attribute
    TRT_decomposable = 1.

Why
    It is imported as one layer that must be one kernel. The fused kernels take FP16, BF16 and
    head sizes of 16 to 256; for anything else the build ends, unless the layer may be decomposed.

Example::

    y_fp32 = Attention(q_fp32, k_fp32, v_fp32)

Instead
    Compute it in FP16, or write it out (MatMul, Softmax, MatMul), as compile does by the pass
    expand-attention.

Source
    Rule F11, F01; NvInfer.h, IAttention; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, Node, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Type and head size of Attention nodes."""
    for node in graph.nodes:
        if node.op != "Attention" or not ops.is_standard(node):
            continue
        if int(node.attrs.get("TRT_decomposable", 0)):
            continue
        head = _head(node)
        if r.type_name(node.inputs[0]) == "float32":
            yield Fault(label(node), "Attention computes in float32")
        elif head is not None and not 16 <= head <= 256:
            yield Fault(label(node), f"Attention has a head size of {head}")


def _head(node: Node) -> int | None:
    """Elements a head: the last axis, of three-dimensional inputs divided by the heads."""
    size, heads = r.extent(node.inputs[0], -1), int(node.attrs.get("q_num_heads", 1))
    return None if size is None else size // heads


RULE = Rule(
    code="TRT062",
    severity="builder rejects",
    confidence="high",
    source="rule F11, F01; NvInfer.h, IAttention; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="compute it in FP16, or write it out (compile does: expand-attention)",
    check=check,
)
