"""Let equal Q/DQ nodes on one tensor be one node.

Before::

    a = QuantizeLinear(x, s, z)    b = QuantizeLinear(x, s, z)
    y = DequantizeLinear(a, s)     w = DequantizeLinear(b, s)

After: ``b`` is ``a`` and ``w`` is ``y``.  Two nodes are equal if they read the same tensor,
have the same attributes, and constants of the same type, shape and bytes.

qcompiler writes one pair a tensor; models that come quantized often have one pair for each reader
(the "dedicated pairs" of onnxruntime.quantization, fake quantizers of PyTorch).  TensorRT keeps one
requantization for each scale that it cannot prove equal (rules B29, E15).
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.graph import Graph, Node, Tensor
from qcompiler.pipeline import Effect, Pass
from qcompiler.verify import DEQUANTIZE, QUANTIZE


@dataclass(frozen=True)
class MergeQdq(Pass):
    """Equal ``QuantizeLinear`` and ``DequantizeLinear`` nodes of one tensor become one."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "tidy"

    def run(self, graph: Graph) -> int:
        """Merge in graph order, so that merged Q make their DQ equal in the same run."""
        first: dict[Hashable, Tensor] = {}
        count = 0
        for node in graph.nodes:
            if node.domain or node.op not in (QUANTIZE, DEQUANTIZE):
                continue
            result = node.outputs[0]
            kept = first.setdefault(_identity(graph, node), result)
            if kept is result or graph.is_pinned(result):
                continue
            for user, index in graph.users(result):
                graph.set_input(user, index, kept)
            count += 1
        return count


def _identity(graph: Graph, node: Node) -> Hashable:
    """What two nodes must share to be one."""
    data, *numbers = node.inputs
    attributes = tuple(sorted((k, repr(v)) for k, v in node.attrs.items()))
    return (node.op, id(data), attributes, *(_number(graph, t) for t in numbers if t.name))


def _number(graph: Graph, tensor: Tensor) -> Hashable:
    if not graph.is_constant(tensor):
        return id(tensor)
    values = graph.values(tensor)
    return (str(values.dtype), values.shape, values.tobytes())
