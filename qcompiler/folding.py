"""How a graph was folded: which node stands in which body, and what goes in and out of each.

The inverse of ``qcompiler.bodies``, which says what a flat graph is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from qcompiler import protos
from qcompiler.graph import Graph


class Place(NamedTuple):
    """One slot of a node with bodies: ``input``, ``output``, ``body input`` or ``body output``."""

    kind: str
    body: int
    slot: int


@dataclass(frozen=True)
class Link:
    """A link of a flat graph: the slots of its owner that its inputs and outputs stand for."""

    owner: str
    reads: tuple[Place, ...]
    writes: tuple[Place, ...]


@dataclass(frozen=True)
class Body:
    """One body: where it is, the attribute that holds it, and its declarations."""

    path: str
    attribute: str
    proto: GraphProto


@dataclass(frozen=True)
class Owner:
    """A node with bodies, and the path of the scope that it stands in."""

    proto: NodeProto
    home: str
    bodies: tuple[Body, ...]

    def at(self, place: Place) -> str:
        """The tensor in a slot."""
        if place.kind == "input":
            return str(self.proto.input[place.slot])
        if place.kind == "output":
            return str(self.proto.output[place.slot])
        body = self.bodies[place.body].proto
        declared = body.input if place.kind == "body input" else body.output
        return str(declared[place.slot].name)

    def home_of(self, place: Place) -> str:
        """The path of the scope that a slot belongs to."""
        return self.home if place.kind in ("input", "output") else self.bodies[place.body].path


@dataclass
class Folded:
    """Everything that a flat graph does not say.

    Attributes:
        names: Label of a node in a body -> the name it had.
        home_of_node: Label -> path of its scope; empty for the main graph.
        home_of_constant: Tensor -> path of its scope.
        owners: Label -> node with bodies, outer ones first.
        links: Label -> link.
    """

    names: dict[str, str] = field(default_factory=dict)
    home_of_node: dict[str, str] = field(default_factory=dict)
    home_of_constant: dict[str, str] = field(default_factory=dict)
    owners: dict[str, Owner] = field(default_factory=dict)
    links: dict[str, Link] = field(default_factory=dict)

    def model(self, flat: ModelProto, types: Graph, elements: Mapping[int, int]) -> ModelProto:
        """Fold a flat model.

        Args:
            flat: The model.
            types: A graph that knows the types of its tensors.
            elements: Element type -> the one that bodies declare in its place.
        """
        return _Fold(self, flat, types, elements).run()


class _Fold:
    def __init__(
        self, folded: Folded, flat: ModelProto, types: Graph, elements: Mapping[int, int]
    ) -> None:
        self._folded = folded
        self._flat = flat
        self._types = types
        self._elements = elements
        self._depth = {"": 0}
        self._outer: dict[str, str] = {}
        for owner in folded.owners.values():
            self._depth |= {b.path: self._depth[owner.home] + 1 for b in owner.bodies}
            self._outer |= {b.path: owner.home for b in owner.bodies}
        self._home = dict(folded.home_of_constant)
        # Tensor -> the innermost scope around all that read it.
        self._around: dict[str, str] = {}
        self._at: dict[tuple[str, Place], str] = {}
        # Nodes of each scope in order; a node with bodies by its label.
        self._nodes: dict[str, list[NodeProto | str]] = defaultdict(list)
        self._names = set(protos.defined(flat.graph))

    def run(self) -> ModelProto:
        links = [n for n in self._flat.graph.node if n.name in self._folded.links]
        for node in links:
            self._read_link(self._folded.links[node.name], node)
        for node in self._flat.graph.node:
            self._put(node)
        model = protos.shell(self._flat)
        graph, old = model.graph, self._flat.graph
        graph.input.extend(old.input)
        graph.output.extend(old.output)
        graph.value_info.extend(old.value_info)
        graph.node.extend(self._scope(""))
        self._constants(graph, "")
        return model

    def _read_link(self, link: Link, node: NodeProto) -> None:
        owner = self._folded.owners[link.owner]
        for place, name in zip(link.reads, node.input, strict=True):
            self._at[link.owner, place] = name
            self._read_from(owner.home_of(place), name)
        for place, name in zip(link.writes, node.output, strict=True):
            self._at[link.owner, place] = name
            self._home[name] = owner.home_of(place)

    def _read_from(self, home: str, name: str) -> None:
        """Widen the scope around the readers of a tensor."""
        known = self._around.get(name, home)
        while known != home:
            if self._depth[known] >= self._depth[home]:
                known = self._outer[known]
            else:
                home = self._outer[home]
        self._around[name] = home

    def _put(self, node: NodeProto) -> None:
        link = self._folded.links.get(node.name)
        if link is not None:
            home = self._folded.owners[link.owner].home
            if link.owner not in self._nodes[home]:
                self._nodes[home].append(link.owner)
            return
        known = self._folded.home_of_node.get(protos.label(node), "")
        reads = (*node.input, *protos.captures(node))
        homes = (self._home.get(name, "") for name in reads)
        home = max(known, *homes, "", key=self._depth.__getitem__)
        self._home.update(dict.fromkeys(node.output, home))
        for name in reads:
            self._read_from(home, name)
        made = NodeProto()
        made.CopyFrom(node)
        made.name = self._folded.names.get(node.name, node.name)
        self._nodes[home].append(made)

    def _scope(self, path: str) -> list[NodeProto]:
        return [self._owner(n) if isinstance(n, str) else n for n in self._nodes[path]]

    def _owner(self, name: str) -> NodeProto:
        owner, made = self._folded.owners[name], NodeProto()
        made.CopyFrom(owner.proto)
        for slots, kind in ((made.input, "input"), (made.output, "output")):
            for index, old in enumerate(slots):
                slots[index] = self._at.get((name, Place(kind, 0, index)), old)
        number = 0
        for attribute in made.attribute:
            for body in protos.graphs_of(attribute):
                body.CopyFrom(self._body(name, owner.bodies[number], number))
                number += 1
        return made

    def _body(self, owner: str, body: Body, number: int) -> GraphProto:
        model = protos.shell(self._flat)
        graph = model.graph
        graph.CopyFrom(body.proto)
        for slots, kind in ((graph.input, "body input"), (graph.output, "body output")):
            for index, declared in enumerate(slots):
                declared.name = self._at.get((owner, Place(kind, number, index)), declared.name)
                self._declare(declared)
        graph.node.extend(self._scope(body.path))
        self._own_outputs(graph)
        self._constants(graph, body.path)
        for declared in graph.value_info:
            self._declare(declared)
        ordered = Graph.of(model)
        ordered.sweep()
        return ordered.proto().graph

    def _declare(self, declared: ValueInfoProto) -> None:
        tensor = self._types.tensor(declared.name)
        kind = declared.type.WhichOneof("value")
        if kind not in (None, "tensor_type"):
            return
        element = declared.type.tensor_type.elem_type
        if tensor is not None and tensor.dtype is not None:
            element = onnx.helper.np_dtype_to_tensor_dtype(tensor.dtype)
        element = self._elements.get(element, element)
        if element:
            declared.type.tensor_type.elem_type = element

    def _own_outputs(self, graph: GraphProto) -> None:
        """A body must not give away what it did not compute: ONNX Runtime refuses that."""
        own = {v.name for v in graph.input} | {n for node in graph.node for n in node.output}
        for declared in graph.output:
            if declared.name not in own:
                name, count = f"{declared.name}_out", 0
                while name in self._names:
                    count += 1
                    name = f"{declared.name}_out_{count}"
                self._names.add(name)
                graph.node.add(op_type="Identity", input=[declared.name], output=[name], name=name)
                declared.name = name

    def _constants(self, graph: GraphProto, path: str) -> None:
        """The constants of a scope; those on disk are the main graph's, wherever they are read."""
        for tensor in self._flat.graph.initializer:
            outside = tensor.data_location == TensorProto.EXTERNAL
            if path == ("" if outside else self._home_of_constant(tensor.name)):
                graph.initializer.append(tensor)
        for sparse in self._flat.graph.sparse_initializer:
            if path == self._home_of_constant(sparse.values.name):
                graph.sparse_initializer.append(sparse)

    def _home_of_constant(self, name: str) -> str:
        """Where a constant was, or for a new one the innermost scope around all its readers."""
        return self._folded.home_of_constant.get(name, self._around.get(name, ""))
