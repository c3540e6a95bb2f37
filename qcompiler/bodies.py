"""Sub-graphs laid out flat in the graph around them, and folded back.

What holds of a tensor does not end at the border of a body.  So whoever decides about all tensors
of a model (which are 16 bits wide, where a rounding hurts) looks at one flat graph: the nodes of
the bodies of ``If``, ``Loop`` and ``Scan`` stand between those of the main graph, and *links*
stand for what the node with the body passes in and out::

    z = If (c) <then_branch = {p = f (a)}, else_branch = {q = g (a)}>

        p = f (a)     q = g (a)     z = link (p, q)

    y, ys = Loop (m, c, x) <body = (i, k, s) {t = f (s); u = g (s)} -> (k, t, u)>

        s, y = link (x, t)     t = f (s)     u = g (s)     ys = link (u)

A link computes nothing: its tensors are of one type, and the values on its right are values on its
left.  The one of a carried value reads what is computed behind it.  A tensor that a body captures
is an input like any other.

* A node in a body is called ``<node with the body>/<attribute>/<its own label>``, a link
  ``<node with the body>/<tensor>``.
* Every tensor has a name of its own (``protos.distinct``), and ``Constant`` nodes of bodies are
  initializers.
* Folded back, a new node stands where the innermost tensor that it reads is defined: once, for all
  bodies that read its result.
* Bodies of other operators stay closed, with what they capture.

A graph without such bodies is its own flat graph.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    numpy_helper,
)

from qcompiler import protos, surgeon
from qcompiler.errors import InputError
from qcompiler.folding import Body, Folded, Link, Owner, Place
from qcompiler.graph import Graph, Node, label

DOMAIN = "qcompiler.bodies"
"""Operator set of the links."""
LINK, CARRIED, CONTROL = "Link", "Carried", "Control"
"""A link; the one of a value that goes round, whose second input is computed from its output; and
what decides how often a body runs."""

# Scan had another signature before.
_SCAN_OPSET = 9


def is_link(node: Node) -> bool:
    """Whether a node of a flat graph passes tensors into a body or out of it."""
    return node.domain == DOMAIN


@dataclass(frozen=True)
class Flat:
    """A flat graph, and how it was folded.

    Attributes:
        graph: To look at and to edit; never to be sorted or swept: a loop is a cycle in it.
        inner: Tensors that are defined in bodies.
        owners: Labels of the nodes whose bodies were laid out.
    """

    graph: Graph
    inner: frozenset[str]
    owners: frozenset[str]
    _folded: Folded | None = None

    def labels(self, given: Collection[str]) -> tuple[str, ...]:
        """Labels of nodes, that of a node with bodies standing for all that is in it.

        Raises:
            InputError: There is no such node.
        """
        nodes = {label(n) for n in self.graph.nodes}
        missing = set(given) - nodes - self.owners
        if missing:
            raise InputError(
                "keep names a node that the model does not have",
                where=min(missing),
                hint="nodes without a name are called node_of_<output>, those in the body of "
                "another <node>/<attribute>/<label>",
            )
        whole = tuple(f"{name}/" for name in given if name in self.owners)
        inside = [n for n in sorted(nodes) if whole and n.startswith(whole)]
        return tuple(dict.fromkeys([*given, *inside]))

    def fold(self, model: ModelProto, elements: Mapping[int, int] | None = None) -> ModelProto:
        """The model with its bodies where they were.

        Args:
            model: The flat graph as a proto, edited or not; nodes may be renamed to nothing else.
            elements: Element type -> another one, for what bodies declare.
        """
        if self._folded is None:
            return model
        return self._folded.model(model, self.graph, elements or {})


def flatten(graph: Graph) -> Flat:
    """Lay out the bodies of a graph; the graph itself is not changed.

    Args:
        graph: Types must have been inferred.
    """
    laid = _Layout(graph.opset)
    if not any(laid.bodies(node) for n in graph.nodes for node in _with_bodies(graph, n)):
        return Flat(graph, frozenset(), frozenset())
    model = graph.proto()
    protos.distinct(model.graph)
    laid.folded.home_of_constant.update({t.name: "" for t in model.graph.initializer})
    laid.scope(list(model.graph.node), "")
    del model.graph.node[:]
    model.graph.node.extend(laid.nodes)
    model.graph.initializer.extend(laid.initializers)
    model.graph.sparse_initializer.extend(laid.sparse)
    flat = graph.sibling(model)
    _set_types(graph, flat)
    inner = frozenset(laid.inner)
    return Flat(flat, inner, frozenset(laid.folded.owners), laid.folded)


def _with_bodies(graph: Graph, node: Node) -> list[NodeProto]:
    return [graph.node_proto(node)] if graph.has_body(node) else []


@dataclass
class _Layout:
    """Walks through the scopes and writes down the flat nodes."""

    opset: int
    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    sparse: list[onnx.SparseTensorProto] = field(default_factory=list)
    inner: list[str] = field(default_factory=list)
    folded: Folded = field(default_factory=Folded)

    def bodies(self, node: NodeProto) -> list[tuple[str, GraphProto]]:
        """Attribute and body, where it is known what goes in and out."""
        if node.op_type == "Scan" and self.opset < _SCAN_OPSET:
            return []
        return protos.control_bodies(node)

    def scope(self, nodes: list[NodeProto], path: str) -> None:
        """Lay out the nodes of one scope."""
        for node in nodes:
            if self.bodies(node):
                self._owner(node, path)
                continue
            if path:
                name = f"{path}{protos.label(node)}"
                self.folded.names[name] = node.name
                node.name = name
            self.folded.home_of_node[protos.label(node)] = path
            self.nodes.append(node)

    def _owner(self, node: NodeProto, path: str) -> None:
        name = f"{path}{protos.label(node)}"
        bodies = [Body(f"{name}/{key}/", key, g) for key, g in self.bodies(node)]
        self.folded.owners[name] = Owner(node, path, tuple(bodies))
        inside = [(b, self._open(b)) for b in bodies]
        self._link(_control(node, name))
        links = list(_links(node, name, [b.proto for b in bodies]))
        # The values that come in are known before those that are computed of them.
        for link in (k for k in links if k.writes[0].kind == "body input"):
            self._link(link)
        for body, inner in inside:
            self.scope(inner, body.path)
        for link in (k for k in links if k.writes[0].kind != "body input"):
            self._link(link)

    def _open(self, body: Body) -> list[NodeProto]:
        """Take the nodes and constants out of a body."""
        whole = GraphProto()
        whole.CopyFrom(body.proto)
        for taken in ("node", "initializer", "sparse_initializer"):
            body.proto.ClearField(taken)
        self.inner += protos.defined(whole)
        made = [(n, _constant(n)) for n in whole.node]
        constants = [*whole.initializer, *(c for _, c in made if c is not None)]
        names = [*(t.name for t in constants), *(s.values.name for s in whole.sparse_initializer)]
        self.folded.home_of_constant.update(dict.fromkeys(names, body.path))
        self.initializers += constants
        self.sparse += whole.sparse_initializer
        return [n for n, constant in made if constant is None]

    def _link(self, link: Link) -> None:
        owner = self.folded.owners[link.owner]
        reads = [owner.at(place) for place in link.reads]
        writes = [owner.at(place) for place in link.writes]
        tensor = next((n for n in writes if n), "")
        name = f"{link.owner}/{tensor or link.writes[:1]}"
        self.folded.links[name] = link
        op = (CONTROL, LINK, CARRIED)[len(writes)]
        self.nodes.append(onnx.helper.make_node(op, reads, writes, name=name, domain=DOMAIN))


def _control(node: NodeProto, name: str) -> Link:
    count = {"If": 1, "Loop": 2}.get(node.op_type, 0)
    places = [Place("input", 0, k) for k, tensor in enumerate(node.input[:count]) if tensor]
    if node.op_type == "Loop":
        places.append(Place("body output", 0, 0))
    return Link(name, tuple(places), ())


def _links(node: NodeProto, name: str, bodies: list[GraphProto]) -> Iterator[Link]:
    """What a node passes into its bodies and out of them."""
    if node.op_type == "If":
        for k in range(len(node.output)):
            reads = tuple(Place("body output", b, k) for b in range(len(bodies)))
            yield Link(name, reads, (Place("output", 0, k),))
        return
    (body,) = bodies
    # Loop has the number of its iteration and a condition in front of what it carries.
    first, before = (2, 1) if node.op_type == "Loop" else (0, 0)
    slices = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
    carried = len(body.input) - first - slices
    for k in range(carried):
        reads = (Place("input", 0, first + k), Place("body output", 0, before + k))
        yield Link(name, reads, (Place("body input", 0, first + k), Place("output", 0, k)))
    for k in range(carried, carried + slices):
        yield Link(name, (Place("input", 0, k),), (Place("body input", 0, k),))
    for k in range(carried, len(node.output)):
        yield Link(name, (Place("body output", 0, before + k),), (Place("output", 0, k),))


def _constant(node: NodeProto) -> TensorProto | None:
    """The value of a dense numeric ``Constant`` node as an initializer."""
    if node.op_type != "Constant" or node.domain or len(node.attribute) != 1:
        return None
    attribute, made = node.attribute[0], TensorProto()
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.name == "value" and attribute.type == AttributeProto.TENSOR:
        if value.data_type == TensorProto.STRING:
            return None
        made.CopyFrom(value)
    elif attribute.name in _NUMBERS:
        made.CopyFrom(numpy_helper.from_array(np.asarray(value, _NUMBERS[attribute.name])))
    else:
        return None
    made.name = node.output[0]
    return made


_NUMBERS: Mapping[str, type[np.generic]] = {
    "value_float": np.float32,
    "value_floats": np.float32,
    "value_int": np.int64,
    "value_ints": np.int64,
}


# ---------------------------------------------------------------------- types


def _set_types(graph: Graph, flat: Graph) -> None:
    """Let a flat graph know what is known of the types: of the main graph, and by inference."""
    skeleton = graph.proto(skeleton=True)
    protos.distinct(skeleton.graph)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except Exception:  # noqa: BLE001  (raises several unrelated types; what is declared remains)
        inferred = skeleton.graph
    for declared in _declared(inferred):
        surgeon.set_type(flat.tensor(declared.name), declared)
    for node in graph.nodes:
        for tensor in (*node.inputs, *node.outputs):
            twin = flat.tensor(tensor.name)
            if twin is not None and tensor.dtype is not None and not surgeon.is_constant(twin):
                twin.dtype, twin.shape = tensor.dtype, tensor.shape
    for node in flat.nodes:
        if is_link(node):
            tensors = [t for t in (*node.inputs, *node.outputs) if t.name]
            dtype = next((t.dtype for t in tensors if t.dtype is not None), None)
            for tensor in (t for t in tensors if t.dtype is None):
                tensor.dtype = dtype


def _declared(graph: GraphProto) -> Iterator[ValueInfoProto]:
    yield from (*graph.input, *graph.value_info, *graph.output)
    for node in graph.node:
        for attribute in node.attribute:
            for body in protos.graphs_of(attribute):
                yield from _declared(body)
