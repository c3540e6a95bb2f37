"""Turn ``Constant`` nodes into initializers of the same name.

Exporters write a number either as an initializer or as the output of a node::

    before:  c = Constant <value = t> ()      y = Add(x, c)
    after:   c : initializer, c = t           y = Add(x, c)

The two mean the same (ONNX operators page, ``Constant``).  After this pass there is one way left
to be a constant, so every other pass, and TensorRT's fusions, see weights where weights are.
Strings and sparse values stay nodes: nothing here computes with them, and ``sparse_value`` as an
initializer would need a reader for two encodings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from onnx import AttributeProto

from qcompiler.graph import Graph, Node
from qcompiler.pipeline import Effect, Pass
from qcompiler.weights import Array


@dataclass(frozen=True)
class LiftConstants(Pass):
    """``c = Constant <value = t> ()`` becomes the initializer ``c = t``."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"

    def run(self, graph: Graph) -> int:
        """Lift every dense numeric ``Constant`` of the main graph; bodies keep theirs."""
        count = 0
        for node in graph.nodes:
            if node.op != "Constant" or node.domain:
                continue
            array = _value(graph, node)
            if array is not None:
                graph.make_constant(node.outputs[0], array)
                count += 1
        return count


def _value(graph: Graph, node: Node) -> Array | None:
    for attribute in graph.node_proto(node).attribute:
        match attribute.type:
            case AttributeProto.TENSOR:
                array = graph.attribute(node, attribute.name)
                return None if array.dtype.kind in "OSU" else array
            case AttributeProto.FLOAT:
                return np.array(attribute.f, np.float32)
            case AttributeProto.FLOATS:
                return np.array(attribute.floats, np.float32)
            case AttributeProto.INT:
                return np.array(attribute.i, np.int64)
            case AttributeProto.INTS:
                return np.array(attribute.ints, np.int64)
            case _:
                return None
    return None
