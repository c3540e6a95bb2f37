"""FP32 matrix products on a GPU that has none.

What
    TensorRT for RTX for SM 7.5: MatMul or Gemm with an FP32 result, INT8 operands or not.

Why
    The builder stops: 'FP32 GEMM is not supported'.

Example::

    --target tensorrt-rtx:sm75 with y_fp32 = MatMul(a_fp32, b_fp32)

Instead
    Make the float tensors FP16 (recipe int8+fp16 or fp16).

Source
    Rule D27, I01 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Products with an FP32 result, if the weakest capability is below 8.0."""
    if target.capability is None or target.capability >= 80:
        return
    for node in r.linears(graph):
        if node.op in ("Gemm", "MatMul") and r.type_name(node.outputs[0]) == "float32":
            yield Fault(label(node), f"{node.op} gives float32, which SM 7.5 cannot multiply in")


RULE = Rule(
    code="TRT058",
    severity="builder rejects",
    confidence="high",
    source="rule D27, I01 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="make the float tensors FP16",
    check=check,
    libraries=(RTX,),
)
