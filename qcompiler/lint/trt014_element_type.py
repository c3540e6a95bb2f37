"""A tensor has an element type that TensorRT does not import.

What
    A graph input, constant or result of FP8 E5M2, an FNUZ variant, E8M0, UINT4, INT2, UINT2,
    INT16, UINT16, UINT32, UINT64, complex or string.

Why
    The parser knows FP64 (narrowed), FP32, FP16, BF16, INT8, UINT8, INT32, INT64, BOOL, FP8
    E4M3FN, INT4 and FP4 E2M1, and no others.

Example::

    q = QuantizeLinear(x, s, zero_point = int16 0)

Instead
    Quantize to INT8 or FP8 E4M3; a 16-bit activation stays FP16.

Source
    Rule A04; TensorRT 11.0 ONNX parser
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule

_KNOWN = frozenset({"int8", "uint8", "int32", "int64", "bool", r.FP8, r.INT4, r.FP4, *r.FLOATS})


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Types of every tensor, once, under the first node that touches it."""
    seen: set[int] = set()
    for node in graph.nodes:
        for tensor in (*node.inputs, *node.outputs):
            name = r.type_name(tensor)
            if id(tensor) in seen or not name or not tensor.name:
                continue
            seen.add(id(tensor))
            if name not in _KNOWN:
                yield Fault(label(node), f"tensor {tensor.name!r} has the type {name}")


RULE = Rule(
    code="TRT014",
    severity="parser rejects",
    confidence="high",
    source="rule A04; TensorRT 11.0 ONNX parser",
    verified=SEEN,
    help="use INT8, INT4, FP8 E4M3 or FP4 codes",
    check=check,
)
