"""A Q/DQ pair stands inside a gate, a norm, GELU or a written-out Softmax.

What
    QuantizeLinear and DequantizeLinear between Sigmoid and its Mul (SiLU, HardSwish, squeeze-
    excite), beside Erf, Pow, Sqrt or Exp, or a quantized convolution inside a squeeze-excite
    gate.

Why
    These operators become one kernel that reads and writes memory once. Inside of it the pair
    saves no byte and rounds intermediate values, of which a variance or a gate does not forgive
    much; full TensorRT may also split the kernel there.

Example::

    y = Mul(x, DequantizeLinear(QuantizeLinear(Sigmoid(x))))

Instead
    One pair behind the whole, where the next linear operator reads it.

Source
    Rule E09, E12, E13; ModelOpt, partitioning.py; TensorRT documentation, layer fusion
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, label
from qcompiler.lint import fusions
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import QUANTIZE


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Pairs that cut a composite in two; quantized linear operators of a squeeze-excite gate."""
    for node in r.quantizers(graph, QUANTIZE):
        cut = fusions.composite(graph, node)
        if cut and r.constant(graph, node.inputs[0]) is None:
            yield Fault(label(node), f"stands inside {cut}")
    for node in r.linears(graph):
        if node.op == "Conv" and r.is_quantized(graph, node) and ops.in_gate(graph, node):
            yield Fault(label(node), "is quantized inside a squeeze-excite gate")


RULE = Rule(
    code="TRT042",
    severity="loses fusion",
    confidence="medium",
    source="rule E09, E12, E13; ModelOpt, partitioning.py; TensorRT documentation, layer fusion",
    verified=f"{SEEN}: costs accuracy there, not kernels",
    help="move the Q/DQ pair behind the whole",
    check=check,
)
