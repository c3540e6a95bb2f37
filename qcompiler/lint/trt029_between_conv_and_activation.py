"""A Q/DQ pair stands between a linear operator and its activation.

What
    Conv (or Conv and BatchNormalization), QuantizeLinear, DequantizeLinear, then Relu, Clip or
    BatchNormalization.

Why
    The activation belongs into the kernel of the convolution. The pair in between rounds the
    values that Relu then throws away, which wastes half of the codes.

Example::

    y = Relu(DequantizeLinear(QuantizeLinear(Conv(x8, w8))))

Instead
    Put the pair behind the activation.

Source
    Rule D20; TensorRT documentation, explicit quantization; in TensorRT for RTX it costs
    accuracy, not kernels
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import QUANTIZE

_BEFORE = ("Conv", "ConvTranspose", "BatchNormalization")
_AFTER = ("Relu", "Clip", "LeakyRelu", "BatchNormalization", "HardSwish", "PRelu")


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Pairs behind a convolution that only an activation reads."""
    for node in r.quantizers(graph, QUANTIZE):
        made = graph.producer(node.inputs[0])
        if made is None or made.op not in _BEFORE:
            continue
        after = [u for d in r.readers(graph, node) for u in r.readers(graph, d)]
        if after and all(u.op in _AFTER for u in after):
            yield Fault(label(node), f"stands between {made.op} and {after[0].op}")


RULE = Rule(
    code="TRT029",
    severity="loses fusion",
    confidence="medium",
    source="rule D20; TensorRT documentation, explicit quantization",
    verified=f"{SEEN}: costs accuracy there, not the fusion",
    help="move the Q/DQ pair behind the activation",
    check=check,
)
