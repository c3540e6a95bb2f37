"""INT4 weights with fewer than two blocks along the sum.

What
    TensorRT for RTX: MatMul or Gemm of a float activation and an INT4 weight with one scale, one
    scale per channel, or a block as long as the sum.

Why
    The kernel that multiplies FP16 by INT4 needs at least two blocks. With fewer a kernel
    dequantizes the weight on every run, and the product reads it in float: more bytes than
    without INT4.

Example::

    y = MatMul(x, DequantizeLinear<axis = 0, block_size = 128>(w_int4[128, N]))

Instead
    Smaller blocks: 32, 64 or 128 along the sum, two at least.

Source
    Rule C02 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Number of blocks of INT4 weights that are multiplied by a float activation."""
    for node in r.linears(graph):
        data, weight = r.operands(graph, node)
        if node.op not in ("Gemm", "MatMul") or data is not None or weight is None:
            continue
        scale = r.scales(graph, weight)
        if r.storage(weight) != r.INT4 or scale is None or not r.is_weight(graph, weight):
            continue
        blocks = scale.shape[int(weight.attrs.get("axis", 1))] if scale.ndim > 1 else 1
        if blocks < 2:
            yield Fault(label(node), f"its INT4 weight {label(weight)} has one block along the sum")


RULE = Rule(
    code="TRT064",
    severity="loses fusion",
    confidence="high",
    source="rule C02 (as corrected by real builds); recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="use two blocks at least along the sum",
    check=check,
    libraries=(RTX,),
)
