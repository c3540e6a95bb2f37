"""Facts about raw ONNX protos that the graph facade needs: bodies, captures, what is set aside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto

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


def names_inside(body: GraphProto) -> Iterator[str]:
    """Every tensor name that a body defines, nested bodies included."""
    for node in body.node:
        yield from node.output
        for attribute in node.attribute:
            for inner in graphs_of(attribute):
                yield from names_inside(inner)
    yield from (t.name for t in (*body.initializer, *body.input))


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
