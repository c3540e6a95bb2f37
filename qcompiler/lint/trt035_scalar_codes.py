"""A stored 0-D code is dequantized.

What
    DequantizeLinear of a constant without dimensions: the epsilon of a norm, the factor of a GELU,
    quantized like a weight.

Why
    The parser gives 0-D data one dimension by a reshape between constant and DequantizeLinear, and
    the builder then finds a quantized constant that no DequantizeLinear reads.

Example::

    e = DequantizeLinear(int8 3, s)
    y = Add(variance, e)

Instead
    Keep scalars in float.

Source
    Rule B20; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import DEQUANTIZE


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Stored codes of rank 0."""
    for node in r.quantizers(graph, DEQUANTIZE):
        codes = r.constant(graph, node.inputs[0])
        if codes is not None and codes.ndim == 0 and r.storage(node) not in ("int32", "uint8"):
            yield Fault(label(node), "dequantizes a constant without dimensions")


RULE = Rule(
    code="TRT035",
    severity="builder rejects",
    confidence="high",
    source="rule B20; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="store the scalar as float",
    check=check,
)
