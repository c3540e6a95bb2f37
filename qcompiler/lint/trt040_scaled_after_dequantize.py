"""A Cast or a scaling stands between DequantizeLinear and the linear operator.

What
    DequantizeLinear, then a Cast to a narrower type or a Mul or Div by a scalar, then Conv, Gemm
    or MatMul. In attention it is 1/sqrt(d).

Why
    TensorRT's documents and NVIDIA's own exporters want DequantizeLinear directly at the
    operator; anything that computes in between may keep the product in float. TensorRT for RTX
    moves both behind the product, so there this rule is silent.

Example::

    s = MatMul(Mul(DequantizeLinear(q8), 0.125), DequantizeLinear(k8))

Instead
    Scale before QuantizeLinear or behind the product; let DequantizeLinear give the narrower
    type.

Source
    Rule D04, F04, G04; ModelOpt, PR 1289 and export/fp8_exporter.py
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, Node, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import TENSORRT, UNSEEN, Fault, LintTarget, Rule
from qcompiler.verify import DEQUANTIZE


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """What computes between a product of two quantized operands and their DQs."""
    for node in r.linears(graph):
        if not r.is_quantized(graph, node):
            continue
        slot = ops.WEIGHTED[node.op]
        for given in (r.operand(node, slot.data), r.operand(node, slot.weight)):
            step = None if given is None else graph.producer(given)
            while step is not None and step.op not in (DEQUANTIZE, "Concat"):
                if step.op in ("Cast", "Mul", "Div"):
                    yield Fault(label(node), f"{step.op} {label(step)} follows DequantizeLinear")
                    break
                step = _before(graph, step)


def _before(graph: Graph, node: Node) -> Node | None:
    computed = next((t for t in node.inputs if r.constant(graph, t) is None), None)
    return None if computed is None else graph.producer(computed)


RULE = Rule(
    code="TRT040",
    severity="loses fusion",
    confidence="medium",
    source="rule D04, F04, G04; ModelOpt, PR 1289 and export/fp8_exporter.py",
    verified=UNSEEN,
    help="scale before QuantizeLinear or behind the product",
    check=check,
    libraries=(TENSORRT,),
)
