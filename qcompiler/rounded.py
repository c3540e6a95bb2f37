"""A 16-bit graph as float32 arithmetic: every result is rounded where the graph would store it.

What a GPU computes of ``y = op(x)`` in float16 is ``half(op(x))``, sums taken in float32.  ONNX
Runtime on a CPU computes something better: it has few 16-bit kernels, casts to float32 and back,
and then drops the Casts between neighbours, so a value of 10^6 on the way is no infinity there, and
nothing of the rounding is seen.  bfloat16 it does not run at all.  So results are judged on::

    y' = float(half(op(x')))            constants: float(W), W in 16 bits

whose every Cast is between float32 operators, where ONNX Runtime keeps it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qcompiler import protos
from qcompiler.bodies import DOMAIN, flatten
from qcompiler.graph import Graph
from qcompiler.narrow import Narrow

_TYPE_ATTRIBUTES = ("to", "dtype", "output_dtype")


def rounded(graph: Graph, low: Narrow, narrow: Collection[str] = ()) -> ModelProto | None:
    """The graph with float32 in place of the narrow type, inputs and outputs included.

    Args:
        graph: A finished graph of moderate size, with inferred types; not changed.
        low: Its narrow type.
        narrow: Inputs that keep it.

    Returns:
        The model; None if narrow tensors are in sub-graphs that are not of ``If``, ``Loop`` or
        ``Scan``.
    """
    flat = flatten(graph)
    graph, proto = flat.graph, flat.graph.proto()
    if any(_in_bodies(graph, node, low) for node in proto.graph.node):
        return None
    for stored in proto.graph.initializer:
        _widen(stored, low)
    nodes: list[NodeProto] = []
    renamed: dict[str, str] = {}
    for declared in proto.graph.input:
        if declared.type.tensor_type.elem_type == low.element:
            renamed[declared.name] = f"{declared.name}.qcompiler.rounded"
            rounding = _round(declared.name, renamed[declared.name], low)
            if declared.name in narrow:
                del rounding[0]
                rounding[0].input[0] = declared.name
            else:
                declared.type.tensor_type.elem_type = TensorProto.FLOAT
            nodes += rounding
    for node in proto.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        nodes += _rounding(graph, node, low)
    for declared in proto.graph.output:
        if declared.type.tensor_type.elem_type == low.element:
            declared.type.tensor_type.elem_type = TensorProto.FLOAT
    del proto.graph.node[:], proto.graph.value_info[:]
    proto.graph.node.extend(nodes)
    return flat.fold(proto, {low.element: TensorProto.FLOAT})


def _in_bodies(graph: Graph, node: NodeProto, low: Narrow) -> bool:
    bodies = [g for a in node.attribute for g in protos.graphs_of(a)]
    if not bodies:
        return False
    if any(_is_narrow(graph, name, low) for name in protos.captures(node)):
        return True
    inside = (t.data_type for body in bodies for t in body.initializer)
    casts = (a.i for body in bodies for n in body.node for a in n.attribute if a.name == "to")
    return low.element in (*inside, *casts)


def _is_narrow(graph: Graph, name: str, low: Narrow) -> bool:
    tensor = graph.tensor(name) if name else None
    return tensor is not None and tensor.dtype == low.dtype


def _rounding(graph: Graph, node: NodeProto, low: Narrow) -> list[NodeProto]:
    """A node in float32, and behind it the rounding of its narrow results."""
    for attribute in node.attribute:
        if attribute.name in _TYPE_ATTRIBUTES and attribute.i == low.element:
            attribute.i = TensorProto.FLOAT
        elif attribute.type == AttributeProto.TENSOR:
            _widen(attribute.t, low)
    out = [node]
    if node.domain == DOMAIN:  # rounded where it comes from
        return out
    for index, name in enumerate(node.output):
        if _is_narrow(graph, name, low):
            node.output[index] = f"{name}.qcompiler.raw"
            out += _round(node.output[index], name, low)
    return out


def _round(source: str, target: str, low: Narrow) -> list[NodeProto]:
    middle = f"{target}.qcompiler.narrow"
    return [
        helper.make_node("Cast", [source], [middle], to=low.element),
        helper.make_node("Cast", [middle], [target], to=TensorProto.FLOAT),
    ]


def _widen(stored: TensorProto, low: Narrow) -> None:
    if stored.data_type == low.element:
        values: Any = numpy_helper.to_array(stored)
        stored.CopyFrom(numpy_helper.from_array(values.astype(np.float32), stored.name))
