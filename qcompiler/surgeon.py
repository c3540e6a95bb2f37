"""onnx-graphsurgeon's nodes and tensors: made from protos, turned back, wired by identity.

graphsurgeon, used bare, has traps (each was measured): its lists remove by value, so that two nodes
that look alike are confused; tensors are equal if their names are; types that numpy lacks become
integers; sub-graphs, exotic attributes, metadata and non-text strings are lost or crash.  What the
facade (``qcompiler.graph``) does to nodes and tensors goes through here, where none of that
happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, cast

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, GraphProto, NodeProto, SparseTensorProto, TensorProto
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.logger import G_LOGGER

from qcompiler import protos
from qcompiler.errors import VerifyError

G_LOGGER.severity = G_LOGGER.ERROR

Shape = list[int | str | None]


class Tensor(Protocol):
    """A graphsurgeon ``Variable`` or ``Constant``.  Compare with ``is``, never ``==``."""

    name: str
    dtype: np.dtype[Any] | None
    shape: Shape | None
    inputs: Sequence[Node]
    outputs: Sequence[Node]


class Node(Protocol):
    """A graphsurgeon ``Node``; change its wiring only through the ``Graph``.

    Its last inputs, from ``arity`` on, are the tensors that its sub-graphs capture; ``aside`` holds
    the attributes and ``extra`` the metadata that graphsurgeon would lose.
    """

    op: str
    name: str
    domain: str | None
    attrs: dict[str, Any]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]


def label(node: Node) -> str:
    """How messages call a node: its name, or, as TensorRT does, ``node_of_<output>``."""
    return node.name or f"node_of_{node.outputs[0].name if node.outputs else node.op}"


# ---------------------------------------------------------------------- from protos and back


def variable(name: str, dtype: np.dtype[Any] | None = None, shape: Shape | None = None) -> Tensor:
    """A computed tensor."""
    return cast("Tensor", gs.Variable(name, dtype, shape))


def nothing() -> Tensor:
    """The tensor of an optional slot that is left empty."""
    return cast("Tensor", gs.Variable.empty())


def constant(proto: TensorProto | SparseTensorProto) -> Tensor:
    """A constant whose bytes stay where they are until somebody asks."""
    if isinstance(proto, SparseTensorProto):
        sparse = gs.Constant(proto.values.name, gs.ir.tensor.SparseValues(proto))
        return cast("Tensor", sparse)
    values = gs.ir.tensor.LazyValues(proto)
    # graphsurgeon leaves types that numpy lacks as ONNX's integer.
    values.dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
    return cast("Tensor", gs.Constant(proto.name, values))


def is_constant(tensor: Tensor) -> bool:
    """Whether a tensor is an initializer, dense or sparse."""
    return isinstance(tensor, gs.Constant)


def stored(tensor: Tensor) -> TensorProto | SparseTensorProto:
    """The proto behind a constant."""
    return cast("TensorProto | SparseTensorProto", cast("Any", tensor)._values.tensor)


def node(
    op: str,
    name: str,
    domain: str,
    inputs: Sequence[Tensor | None],
    outputs: Sequence[Tensor],
    attrs: dict[str, Any],
) -> Node:
    """A new node; None stands for an omitted optional input."""
    wired = [nothing() if t is None else t for t in inputs]
    made = gs.Node(op, name, attrs, wired, list(outputs), domain or None)
    made.arity, made.aside, made.extra = len(wired), [], NodeProto()
    return cast("Node", made)


def node_from(proto: NodeProto, lookup: Callable[[str], Tensor]) -> Node:
    """A node from its proto; ``lookup`` gives the tensor of a name."""
    captured = [lookup(name) for name in protos.captures(proto)]
    made = node(
        proto.op_type,
        proto.name,
        "" if proto.domain == "ai.onnx" else proto.domain,
        [*(lookup(name) for name in proto.input), *captured],
        [lookup(name) for name in proto.output],
        {a.name: _value(a) for a in proto.attribute if not protos.keep_aside(a)},
    )
    raw = cast("Any", made)
    raw.arity = len(proto.input)
    raw.aside = [a for a in proto.attribute if protos.keep_aside(a)]
    for field in ("doc_string", "overload"):
        if proto.HasField(field):
            setattr(raw.extra, field, getattr(proto, field))
    raw.extra.metadata_props.extend(proto.metadata_props)
    return made


def _value(attribute: AttributeProto) -> Any:
    if attribute.type == AttributeProto.TENSOR:
        return gs.Constant("", gs.ir.tensor.LazyValues(attribute.t))
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [v.decode() if isinstance(v, bytes) else v for v in value]
    return value


def node_to(made: Node) -> NodeProto:
    """A node as it will be written: attributes, metadata and sub-graphs included."""
    raw = cast("Any", made)
    proto = cast("NodeProto", OnnxExporter.export_node(made))
    del proto.input[raw.arity :]
    while proto.input and not proto.input[-1]:
        del proto.input[-1]
    proto.attribute.extend(raw.aside)
    proto.MergeFrom(raw.extra)
    return proto


def tag(made: Node, key: str, value: str) -> None:
    """Add one ``metadata_props`` entry to a node."""
    cast("Any", made).extra.metadata_props.add(key=key, value=value)


def set_type(tensor: Tensor | None, proto: onnx.ValueInfoProto) -> None:
    """Give a computed tensor the type and shape of a declaration."""
    if not isinstance(tensor, gs.Variable) or not proto.type.HasField("tensor_type"):
        return
    declared = proto.type.tensor_type
    if declared.elem_type:
        tensor.dtype = onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type)
    if declared.HasField("shape"):
        # A negative length is how some exporters write an unknown one.
        tensor.shape = [
            d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else d.dim_param or None
            for d in declared.shape.dim
        ]


# ---------------------------------------------------------------------- wiring


def explicit(made: Node) -> Sequence[Tensor]:
    """The inputs of a node without the tensors that its sub-graphs capture."""
    return made.inputs[: cast("Any", made).arity]


def captured(made: Node) -> Sequence[Tensor]:
    """The tensors that the sub-graphs of a node read."""
    return made.inputs[cast("Any", made).arity :]


def bodies(made: Node) -> list[GraphProto]:
    """The sub-graphs of a node."""
    return [g for a in cast("Any", made).aside for g in protos.graphs_of(a)]


def connect_input(made: Node, index: int, tensor: Tensor | None) -> None:
    """Let one slot read another tensor."""
    new = nothing() if tensor is None else tensor
    remove(made.inputs[index].outputs, made)
    list.__setitem__(cast("Any", made.inputs), index, new)
    list.append(cast("Any", new.outputs), made)


def connect_inputs(made: Node, tensors: Sequence[Tensor | None]) -> None:
    """Replace all inputs."""
    raw = cast("Any", made)
    for tensor in made.inputs:
        remove(tensor.outputs, made)
    list.clear(raw.inputs)
    for given in tensors:
        new = nothing() if given is None else given
        list.append(raw.inputs, new)
        list.append(cast("Any", new.outputs), made)
    raw.arity = len(tensors)


def connect_output(made: Node, old: Tensor, new: Tensor | None) -> None:
    """Let a node write another tensor in place of ``old``; None leaves the slot empty."""
    position = next(i for i, t in enumerate(made.outputs) if t is old)
    written = nothing() if new is None else new
    list.__setitem__(cast("Any", made.outputs), position, written)
    list.clear(cast("Any", old.inputs))
    if new is not None:
        list.append(cast("Any", new.inputs), made)


def disconnect(made: Node) -> None:
    """Take a node out of the lists of its tensors."""
    for tensor in made.inputs:
        remove(tensor.outputs, made)
    for tensor in made.outputs:
        remove(tensor.inputs, made)
    list.clear(cast("Any", made.inputs))


def remove(nodes: Iterable[Node], made: Node) -> None:
    """Remove one entry by identity: graphsurgeon's lists compare by value."""
    raw = cast("list[Any]", nodes)
    for index, entry in enumerate(raw):
        if entry is made:
            list.__delitem__(raw, index)
            return


def in_order(nodes: Sequence[Node]) -> list[Node]:
    """A depth-first order that keeps the given one where it can; iterative, so depth is no limit.

    Raises:
        VerifyError: There is a cycle.
    """
    done: set[int] = set()
    under_way: set[int] = set()
    out: list[Node] = []
    for root in nodes:
        stack = [(root, False)]
        while stack:
            made, ready = stack.pop()
            if id(made) in done:
                continue
            if ready:
                done.add(id(made))
                under_way.discard(id(made))
                out.append(made)
                continue
            if id(made) in under_way:
                raise VerifyError("the graph has a cycle", where=label(made))
            under_way.add(id(made))
            stack.append((made, True))
            waiting = [p for t in made.inputs for p in t.inputs if id(p) not in done]
            stack += [(p, False) for p in reversed(waiting)]
    return out


def reachable(outputs: Iterable[Tensor]) -> set[int]:
    """Identities of the nodes that some tensors depend on."""
    alive: set[int] = set()
    stack: list[Node] = [n for t in outputs for n in t.inputs]
    while stack:
        made = stack.pop()
        if id(made) not in alive:
            alive.add(id(made))
            stack += [p for t in made.inputs for p in t.inputs]
    return alive
