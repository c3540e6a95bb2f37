"""Facts about raw ONNX protos that the graph facade needs: bodies, captures, what is set aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

_GRAPH_KINDS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)
_ASIDE_KINDS = (
    *_GRAPH_KINDS,
    AttributeProto.TENSORS,
    AttributeProto.SPARSE_TENSOR,
    AttributeProto.SPARSE_TENSORS,
    AttributeProto.TYPE_PROTO,
    AttributeProto.TYPE_PROTOS,
)


def shell(model: ModelProto) -> ModelProto:
    """Everything of a model but its nodes, constants and declarations."""
    out = ModelProto()
    for field, value in model.ListFields():
        if field.name in ("graph", "functions"):
            continue
        if field.is_repeated:
            getattr(out, field.name).extend(value)
        else:
            setattr(out, field.name, value)
    out.graph.name = model.graph.name
    out.graph.doc_string = model.graph.doc_string
    out.graph.metadata_props.extend(model.graph.metadata_props)
    out.graph.quantization_annotation.extend(model.graph.quantization_annotation)
    return out


def keep_aside(attribute: AttributeProto) -> bool:
    """Whether graphsurgeon would drop, alter or crash on an attribute."""
    if attribute.type in _ASIDE_KINDS or attribute.ref_attr_name:
        return True
    if attribute.type in (AttributeProto.STRING, AttributeProto.STRINGS):
        try:
            for raw in (attribute.s, *attribute.strings):
                raw.decode()
        except UnicodeDecodeError:
            return True
    value = onnx.helper.get_attribute_value(attribute)
    return isinstance(value, Sequence) and len(value) == 0


def graphs_of(attribute: AttributeProto) -> list[GraphProto]:
    """The sub-graphs that an attribute holds."""
    if attribute.type == AttributeProto.GRAPH:
        return [attribute.g]
    return list(attribute.graphs) if attribute.type == AttributeProto.GRAPHS else []


def control_bodies(node: NodeProto) -> list[tuple[str, GraphProto]]:
    """Attribute and body of an ``If``, ``Loop`` or ``Scan``; nothing of any other node."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in ("If", "Loop", "Scan"):
        return []
    return [(a.name, g) for a in node.attribute for g in graphs_of(a)]


def names_inside(body: GraphProto) -> Iterator[str]:
    """Every tensor name that a body defines, nested bodies included."""
    for node in body.node:
        yield from node.output
        for attribute in node.attribute:
            for inner in graphs_of(attribute):
                yield from names_inside(inner)
    yield from (t.name for t in (*body.initializer, *body.input))


def constants_inside(graph: GraphProto) -> Iterator[TensorProto]:
    """Every dense tensor that a graph stores: initializers, attributes, those of its bodies."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from constants_of(node)


def constants_of(node: NodeProto) -> Iterator[TensorProto]:
    """Every dense tensor in the attributes of a node, those of its bodies included."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR:
            yield attribute.t
        yield from attribute.tensors
        for body in graphs_of(attribute):
            yield from constants_inside(body)


def captures(node: NodeProto) -> list[str]:
    """Names that the sub-graphs of a node read from the outside, in order of first use."""
    out: dict[str, None] = {}
    for attribute in node.attribute:
        for body in graphs_of(attribute):
            inside = {t.name for t in (*body.initializer, *body.input)}
            inside |= {s.values.name for s in body.sparse_initializer}
            for inner in body.node:
                for name in (*inner.input, *captures(inner)):
                    if name and name not in inside:
                        out.setdefault(name)
                inside.update(inner.output)
            out.update((o.name, None) for o in body.output if o.name not in inside)
    return list(out)


def label(node: NodeProto) -> str:
    """How messages call a node: its name, or ``node_of_<output>``."""
    return node.name or f"node_of_{node.output[0] if node.output else node.op_type}"


def defined(graph: GraphProto) -> list[str]:
    """The tensor names that a graph defines itself, those of its sub-graphs not among them."""
    names = [t.name for t in (*graph.input, *graph.initializer)]
    names += [s.values.name for s in graph.sparse_initializer]
    return [*names, *(name for node in graph.node for name in node.output if name)]


def distinct(graph: GraphProto) -> None:
    """Let every tensor name of a model mean one tensor, in place.

    Names in sub-graphs that are not visible to each other may be equal, as in the two branches of
    an ``If``.  The later one becomes ``<node>/<attribute>/<name>``; outside of sub-graphs nothing
    is renamed, and nothing at all where names are distinct already.
    """
    _distinct_inside(graph, "", set(defined(graph)), {})


def _distinct_inside(
    graph: GraphProto, path: str, taken: set[str], renamed: dict[str, str]
) -> None:
    for node in graph.node:
        for attribute in node.attribute:
            for body in graphs_of(attribute):
                inside = f"{path}{label(node)}/{attribute.name}/"
                names = dict(renamed)
                for name in dict.fromkeys(defined(body)):
                    names[name] = _free(name, inside, taken)
                    taken.add(names[name])
                _rename(body, names)
                _distinct_inside(body, inside, taken, names)


def _free(name: str, path: str, taken: set[str]) -> str:
    found, count = name, 0
    while found in taken:
        found = f"{path}{name}" if not count else f"{path}{name}_{count}"
        count += 1
    return found


def _rename(body: GraphProto, names: dict[str, str]) -> None:
    declared = (*body.input, *body.output, *body.value_info, *body.initializer)
    for entry in (*declared, *(s.values for s in body.sparse_initializer)):
        if names.get(entry.name, entry.name) != entry.name:
            entry.name = names[entry.name]
    for node in body.node:
        for slots in (node.input, node.output):
            for index, name in enumerate(slots):
                if names.get(name, name) != name:
                    slots[index] = names[name]
