"""Convert single nodes to another version of the default operator set, many in one call.

``onnx.version_converter`` knows what each operator looked like in each version, but converts whole
models: it needs their weights, forgets metadata and does not look into bodies.  Here it sees one
flat, weightless model in which every node to convert stands alone, with private names::

    n0_o0 = Clip <min = 0.0> (n0_i0)        n1_o0 = Unsqueeze <axes = [0]> (n1_i0)        ...

and what comes back is taken apart again by those names.  One call costs milliseconds whatever the
number of nodes.

The converter (onnx 1.23) is wrong or clumsy in four places, which are put right here:

* ``Softmax``, ``LogSoftmax`` and ``Hardmax`` before 13 work on *all* axes from ``axis`` on.  If
  every axis behind it has length 1 that is today's operator, one node; else it is today's on the
  flattened tensor.  The converter always makes four nodes, and leaves ``Hardmax`` as it is.
* ``Resize`` 10 and ``Upsample`` sample at ``x_out / scale`` and round down; the converter leaves
  ``Resize`` 11's defaults, half pixels and rounding half down, which are another function.
* ``GroupNormalization`` before 21 has one scale and bias a *group*, afterwards one a *channel*.
* ``Scan`` 8 has a batch axis that no later version has; it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import onnx
import onnx.version_converter
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    TypeProto,
    numpy_helper,
)

from qcompiler.errors import UnsupportedError

_SOFTMAX = ("Softmax", "LogSoftmax", "Hardmax")
# What these carry besides tensors of numbers only became more permissive; the converter's own
# representation cannot hold it.
_NEVER = ("Constant", "If", "Loop", "Scan")


@dataclass(frozen=True)
class Request:
    """One node to convert.

    Attributes:
        node: The node; not changed.
        types: Types of its inputs and outputs, by tensor name, as far as they are known.
        constants: Small constants among its inputs, by tensor name.
    """

    node: NodeProto
    types: Mapping[str, TypeProto]
    constants: Mapping[str, TensorProto]


@dataclass(frozen=True)
class Replacement:
    """What a node becomes.

    Attributes:
        nodes: In order; the outputs of the original keep their names.
        constants: New constants that the nodes read, by tensor name.
    """

    nodes: tuple[NodeProto, ...]
    constants: Mapping[str, TensorProto]


def convert(
    requests: Sequence[Request], old: int, new: int, fresh: Callable[[str], str]
) -> list[Replacement | None]:
    """Convert nodes from one operator set to a later one.

    Args:
        requests: Nodes of the default domain.
        old: Version they are written in.
        new: Version wanted.
        fresh: Gives a tensor name that is free, from a wished one; never the same twice.

    Returns:
        For each request its replacement, or None if the node means the same in both versions.

    Raises:
        UnsupportedError: A node has no equivalent, naming it.
    """
    out: list[Replacement | None] = [None] * len(requests)
    batch: dict[int, Request] = {}
    for index, request in enumerate(requests):
        if not _differs(request, old, new):
            continue
        nodes = _by_hand(request, old, new, fresh)
        if nodes is None:
            batch[index] = request
        elif nodes.nodes != (request.node,):
            out[index] = nodes
    for index, component in _convert_batch(batch, old, new).items():
        out[index] = _adopt(requests[index], component, old, fresh)
    return out


def _label(node: NodeProto) -> str:
    return node.name or f"node_of_{next((o for o in node.output if o), node.op_type)}"


def _differs(request: Request, old: int, new: int) -> bool:
    node = request.node
    if node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Scan" and old < 9 <= new:
        raise UnsupportedError(
            "Scan of opset 8 has a batch axis that no later version can express",
            where=_label(node),
            hint="export the model again with opset 9 or later",
        )
    if node.op_type in _NEVER:
        return False
    names = [n for n in (*node.input, *node.output) if n in request.types]
    if any(request.types[n].WhichOneof("value") not in ("tensor_type", None) for n in names):
        return False
    try:
        before = onnx.defs.get_schema(node.op_type, old, "")
        after = onnx.defs.get_schema(node.op_type, new, "")
    except onnx.defs.SchemaError:
        return False
    return before.since_version != after.since_version


# ---------------------------------------------------------------------- by hand


def _by_hand(
    request: Request, old: int, new: int, fresh: Callable[[str], str]
) -> Replacement | None:
    if request.node.op_type in _SOFTMAX and old < 13 <= new:
        return _softmax(request, fresh)
    if request.node.op_type == "GroupNormalization" and old < 21 <= new:
        return _group_norm(request, fresh)
    return None


def _softmax(request: Request, fresh: Callable[[str], str]) -> Replacement:
    """One node where the old operator is today's, else today's on the flattened tensor."""
    node = NodeProto()
    node.CopyFrom(request.node)
    given = next((a for a in node.attribute if a.name == "axis"), None)
    axis = given.i if given is not None else 1
    if given is None:
        given = node.attribute.add(name="axis", i=axis, type=AttributeProto.INT)
    shape = _shape(request, node.input[0])
    rank = None if shape is None else len(shape)
    behind = shape[axis % rank + 1 :] if shape and rank else []
    if axis == -1 or (rank is not None and all(length == 1 for length in behind)):
        return Replacement((node,), {})
    source, result = node.input[0], node.output[0]
    lengths, flat = fresh(f"{result}_shape"), fresh(f"{result}_flatten")
    inner = fresh(f"{result}_{node.op_type.lower()}")
    before = NodeProto(op_type="Shape", name=lengths, input=[source], output=[lengths])
    flatten = NodeProto(op_type="Flatten", name=flat, input=[source], output=[flat])
    flatten.attribute.add(name="axis", i=axis, type=AttributeProto.INT)
    after = NodeProto(op_type="Reshape", name=result, input=[inner, lengths], output=[result])
    node.input[0], node.output[0], given.i = flat, inner, -1
    return Replacement((before, flatten, node, after), {})


def _group_norm(request: Request, fresh: Callable[[str], str]) -> Replacement:
    """Repeat the scale and bias of each group: ``[G] -> [G, 1] -> [G, C / G] -> [C]``."""
    node = NodeProto()
    node.CopyFrom(request.node)
    shape = _shape(request, node.input[0])
    groups = next((a.i for a in node.attribute if a.name == "num_groups"), 0)
    channels = shape[1] if shape is not None and len(shape) > 1 else 0
    if not groups or not channels:
        raise UnsupportedError(
            "GroupNormalization before opset 21 needs a known number of channels to be converted",
            where=_label(node),
            hint="fix the shape of the model's input, or export with opset 21",
        )
    new: list[NodeProto] = []
    constants: dict[str, TensorProto] = {}
    for index in (1, 2):
        tensor = node.input[index]
        steps = (("Reshape", [groups, 1]), ("Expand", [groups, channels // groups]))
        for op, target in (*steps, ("Reshape", [channels])):
            name = fresh(f"{node.input[index]}_shape")
            constants[name] = numpy_helper.from_array(np.array(target, np.int64), name)
            result = fresh(f"{node.input[index]}_channels")
            new.append(NodeProto(op_type=op, name=result, input=[tensor, name], output=[result]))
            tensor = result
        node.input[index] = tensor
    return Replacement((*new, node), constants)


def _shape(request: Request, name: str) -> list[int] | None:
    """Lengths of a tensor's axes, 0 where they are not known; None without a rank."""
    declared = request.types.get(name)
    if declared is None or not declared.tensor_type.HasField("shape"):
        return None
    return [d.dim_value for d in declared.tensor_type.shape.dim]


# ---------------------------------------------------------------------- by the converter


@dataclass(frozen=True)
class _Component:
    """The part of the converted model that one node became, still with private names."""

    nodes: list[NodeProto]
    constants: dict[str, TensorProto]
    names: dict[str, str]


def _convert_batch(batch: Mapping[int, Request], old: int, new: int) -> dict[int, _Component]:
    """Convert all at once; if that fails, halves, so that the error can name one node."""
    if not batch:
        return {}
    try:
        return _take_apart(onnx.version_converter.convert_version(_model(batch, old), new), batch)
    except Exception as error:
        if len(batch) == 1:
            node = next(iter(batch.values())).node
            reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
            raise UnsupportedError(
                f"{node.op_type} of opset {old} cannot be converted to opset {new}: {reason}",
                where=_label(node),
                hint=f"export the model again with opset {new}",
            ) from error
    items = list(batch.items())
    half = len(items) // 2
    return {
        **_convert_batch(dict(items[:half]), old, new),
        **_convert_batch(dict(items[half:]), old, new),
    }


def _private(index: int, node: NodeProto) -> dict[str, str]:
    """Private name of each tensor of one node -> its own name."""
    inputs = {f"n{index}_i{i}": name for i, name in enumerate(node.input) if name}
    return inputs | {f"n{index}_o{i}": name for i, name in enumerate(node.output) if name}


def _model(batch: Mapping[int, Request], old: int) -> ModelProto:
    graph = GraphProto(name="batch")
    for index, request in batch.items():
        names = _private(index, request.node)
        node = graph.node.add()
        node.CopyFrom(request.node)
        node.ClearField("domain")
        node.ClearField("name")
        node.ClearField("metadata_props")
        for i, name in enumerate(request.node.input):
            node.input[i] = f"n{index}_i{i}" if name else ""
        for i, name in enumerate(request.node.output):
            node.output[i] = f"n{index}_o{i}" if name else ""
        for private, name in names.items():
            if name in request.constants and private.startswith(f"n{index}_i"):
                graph.initializer.add().CopyFrom(request.constants[name])
                graph.initializer[-1].name = private
                continue
            side = graph.input if private.startswith(f"n{index}_i") else graph.output
            declared = side.add(name=private)
            if name in request.types:
                declared.type.CopyFrom(request.types[name])
    model = ModelProto(ir_version=8, graph=graph)
    model.opset_import.add(domain="", version=old)
    return model


def _take_apart(model: ModelProto, batch: Mapping[int, Request]) -> dict[int, _Component]:
    producers = {o: n for n in model.graph.node for o in n.output if o}
    constants = {t.name: t for t in model.graph.initializer}
    constants |= {n.output[0]: n.attribute[0].t for n in model.graph.node if _is_constant(n)}
    order = {id(n): i for i, n in enumerate(model.graph.node)}
    out: dict[int, _Component] = {}
    for index, request in batch.items():
        names = _private(index, request.node)
        found: dict[int, NodeProto] = {}
        stack = [name for name in names if name.startswith(f"n{index}_o")]
        while stack:
            node = producers.get(stack.pop())
            if node is None or _is_constant(node) or id(node) in found:
                continue
            found[id(node)] = node
            stack += node.input
        nodes = sorted(found.values(), key=lambda n: order[id(n)])
        read = {i for n in nodes for i in n.input if i in constants and i not in names}
        out[index] = _Component(nodes, {name: constants[name] for name in sorted(read)}, names)
    return out


def _is_constant(node: NodeProto) -> bool:
    return node.op_type == "Constant" and node.attribute[0].type == AttributeProto.TENSOR


def _adopt(
    request: Request, component: _Component, old: int, fresh: Callable[[str], str]
) -> Replacement | None:
    """Give a component the original's names and metadata; None if nothing changed."""
    original, names = request.node, dict(component.names)
    base = next(o for o in original.output if o)
    constants: dict[str, TensorProto] = {}
    for private, proto in component.constants.items():
        names[private] = fresh(f"{base}_const")
        constants[names[private]] = proto
    nodes: list[NodeProto] = []
    for converted in component.nodes:
        node = NodeProto()
        node.CopyFrom(converted)
        for field in (node.input, node.output):
            for i, private in enumerate(field):
                if private and private not in names:
                    names[private] = fresh(f"{base}_{converted.op_type.lower()}")
                field[i] = names[private] if private else ""
        node.name = node.output[0]
        nodes.append(node)
    last = nodes[-1]
    last.name, last.doc_string = original.name, original.doc_string
    last.metadata_props.extend(original.metadata_props)
    _sample_as_before(original, last, old)
    return None if len(nodes) == 1 and _same(original, last) else Replacement((*nodes,), constants)


def _sample_as_before(original: NodeProto, node: NodeProto, old: int) -> None:
    if node.op_type != "Resize" or original.op_type not in ("Resize", "Upsample") or old > 10:
        return
    wanted = {"coordinate_transformation_mode": b"asymmetric", "nearest_mode": b"floor"}
    for name, value in wanted.items():
        node.attribute.add(name=name, s=value, type=AttributeProto.STRING)


def _same(a: NodeProto, b: NodeProto) -> bool:
    return (
        a.op_type == b.op_type
        and _trim(a.input) == _trim(b.input)
        and _trim(a.output) == _trim(b.output)
        and _attributes(a) == _attributes(b)
    )


def _trim(names: Iterable[str]) -> list[str]:
    out = list(names)
    while out and not out[-1]:
        out.pop()
    return out


def _attributes(node: NodeProto) -> dict[str, bytes]:
    return {a.name: cast("bytes", a.SerializeToString(deterministic=True)) for a in node.attribute}
