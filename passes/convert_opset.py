"""Bring a model to the operator set that the output is written in.

Quantized models need opset 21 (``DequantizeLinear`` with blocks, INT4, FP8), and the passes behind
this one then know a single version of each operator::

    before (11):  y = Clip <min = 0.0, max = 6.0> (x)        z = Unsqueeze <axes = [0]> (y)
    after  (21):  y = Clip (x, 0.0, 6.0)                     z = Unsqueeze (y, [0])

Attributes become inputs, renamed operators get their new name, and where a default changed the old
one is written out, so the function is the same.  A node that means the same in both versions is
not touched: it keeps its name, its place and its metadata.  Bodies of ``If`` and ``Loop`` are
converted too.  A model that is newer than ``to`` stays as it is; nothing is converted downwards.

What one operator becomes is decided by ``onnx.version_converter`` with the corrections listed in
``qcompiler/opset.py``.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import onnx
from onnx import GraphProto, NodeProto, TensorProto, TypeProto

from qcompiler import protos
from qcompiler.errors import UnsupportedError
from qcompiler.graph import Graph, Node
from qcompiler.opset import Replacement, Request, convert
from qcompiler.pipeline import Effect, Pass


@dataclass(frozen=True)
class ConvertOpset(Pass):
    """``op_v(x; attributes) -> op_to(x, inputs)``, the same function in operator set ``to``.

    Attributes:
        to: Version wanted; older models are raised to it.
    """

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"

    to: int = 21

    def run(self, graph: Graph) -> int:
        """Convert every node that is written differently in ``to``.

        Returns:
            Nodes rewritten, and one for the version itself.

        Raises:
            UnsupportedError: A node has no equivalent, or ``to`` is newer than the onnx package.
        """
        old = graph.opset
        if old >= self.to:
            return 0
        if self.to > onnx.defs.onnx_opset_version():
            raise UnsupportedError(
                f"opset {self.to} is newer than the installed onnx package knows",
                hint=f"choose at most {onnx.defs.onnx_opset_version()}, or upgrade onnx",
            )
        scopes = list(_scopes(graph))
        requests = [Request(n, s.types, s.constants) for s in scopes for n in s.nodes]
        found = iter(convert(requests, old, self.to, _fresh_names(graph)))
        replacements = [[next(found) for _ in scope.nodes] for scope in scopes]
        # Inner bodies first: rewriting the outer one copies them.
        for scope, new in zip(reversed(scopes[1:]), reversed(replacements[1:]), strict=True):
            _rewrite_body(scope, new)
        for node, entry in zip(graph.nodes, replacements[0], strict=True):
            if entry is not None:
                _replace(graph, node, entry)
        graph.opset = self.to
        return 1 + sum(r is not None for scope in replacements for r in scope)


@dataclass(frozen=True)
class _Scope:
    """The main graph (``body`` is None) or a body, with what is known about its tensors."""

    body: GraphProto | None
    nodes: Sequence[NodeProto]
    types: ChainMap[str, TypeProto]
    constants: ChainMap[str, TensorProto]


def _scopes(graph: Graph) -> Iterator[_Scope]:
    """The main graph, then every body, outer ones before inner ones."""
    skeleton = graph.proto(skeleton=True)
    try:
        typed = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except Exception:  # noqa: BLE001  (raises several unrelated types)
        # Inference is strict about things that conversion need not care about.
        typed = skeleton.graph
    main = _Scope(None, skeleton.graph.node, ChainMap(), ChainMap())
    _learn(main, typed)
    yield main
    for node, twin in zip(graph.nodes, typed.node, strict=True):
        twins = (g for a in twin.attribute for g in protos.graphs_of(a))
        for body, inferred in zip(graph.bodies(node), twins, strict=True):
            yield from _inside(main, body, inferred)


def _inside(outer: _Scope, body: GraphProto, typed: GraphProto) -> Iterator[_Scope]:
    scope = _Scope(body, body.node, outer.types.new_child(), outer.constants.new_child())
    _learn(scope, typed)
    yield scope
    for node, twin in zip(body.node, typed.node, strict=True):
        inner = [g for a in node.attribute for g in protos.graphs_of(a)]
        twins = (g for a in twin.attribute for g in protos.graphs_of(a))
        for deeper, inferred in zip(inner, twins, strict=True):
            yield from _inside(scope, deeper, inferred)


def _learn(scope: _Scope, typed: GraphProto) -> None:
    for value in (*typed.input, *typed.value_info, *typed.output):
        scope.types[value.name] = value.type
    for initializer in typed.initializer:
        scope.constants[initializer.name] = initializer
        declared = TypeProto()
        declared.tensor_type.elem_type = initializer.data_type
        for length in initializer.dims:
            declared.tensor_type.shape.dim.add(dim_value=length)
        scope.types[initializer.name] = declared


def _fresh_names(graph: Graph) -> Callable[[str], str]:
    given: set[str] = set()

    def fresh(base: str) -> str:
        name, count = graph.fresh(base), 0
        while name in given:
            count += 1
            name = graph.fresh(f"{base}_{count}")
        given.add(name)
        return name

    return fresh


def _replace(graph: Graph, node: Node, new: Replacement) -> None:
    constants = {}
    for name, proto in new.constants.items():
        constants[name] = graph.const(name, onnx.numpy_helper.to_array(proto)).name
    graph.drop(node)
    for proto in new.nodes:
        for index, name in enumerate(proto.input):
            proto.input[index] = constants.get(name, name)
        graph.add_proto(proto)


def _rewrite_body(scope: _Scope, new: Sequence[Replacement | None]) -> None:
    body = scope.body
    if body is None or not any(new):
        return
    nodes: list[NodeProto] = []
    for node, entry in zip(scope.nodes, new, strict=True):
        if entry is None:
            nodes.append(NodeProto.FromString(node.SerializeToString()))
            continue
        for name, proto in entry.constants.items():
            constant = NodeProto(op_type="Constant", name=name, output=[name])
            value = constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR)
            value.t.CopyFrom(proto)
            nodes.append(constant)
        nodes += entry.nodes
    del body.node[:]
    body.node.extend(nodes)
