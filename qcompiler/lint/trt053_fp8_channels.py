"""FP8 with more than one scale.

What
    A linear operator whose FP8 weight has a scale per channel, or whose FP8 activation has one
    per row.

Why
    A fused FP8 kernel is certain for one scale per tensor only; NVIDIA's reference builder saw
    the others fall back to FP16, while a release note promises them on Hopper. TensorRT for RTX
    keeps the FP8 kernel, so there this rule is silent.

Example::

    w8 = DequantizeLinear<axis = 1>(w_fp8[K, N], scale[N])

Instead
    One scale for the tensor, unless a measurement says otherwise.

Source
    Rule D09; TensorRT 10.6 release notes; trtmc, formats.py
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import TENSORRT, UNSEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Several scales on an FP8 operand of a product of two quantized tensors."""
    for node in r.linears(graph):
        data, weight = r.operands(graph, node)
        if data is None or weight is None:
            continue
        for pair, name in ((data, "activation"), (weight, "weight")):
            scale = r.scales(graph, pair)
            if r.storage(pair) == r.FP8 and scale is not None and scale.size > 1:
                yield Fault(label(node), f"its FP8 {name} has {scale.size} scales")


RULE = Rule(
    code="TRT053",
    severity="loses fusion",
    confidence="low",
    source="rule D09; TensorRT 10.6 release notes; trtmc, formats.py",
    verified=UNSEEN,
    help="use one scale for each tensor",
    check=check,
    libraries=(TENSORRT,),
)
