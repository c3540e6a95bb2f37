"""The canonical listing: a graph as text that a test can compare whole.

Nodes are standard ONNX text (onnx docs/Syntax.md), constants follow one a line with *decoded*
values, because ``onnx.printer`` shows 16-bit and packed 4-bit constants as bit patterns or not at
all::

    <opset_import: ["" : 21]>
    g (float[N,2] x) => (float[N,3] y) {
      W_dq = DequantizeLinear <axis = 1> (W_q, W_scale)
      y = MatMul (x, W_dq)
    }
    # W_q: int8[2, 3] = 7, -7, 7, 1, 1, -4
    # W_scale: float[3] = 0.1, 0.2, 1

Names of nodes and metadata are left out, so that goldens speak about structure.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto

from qcompiler import weights
from qcompiler.graph import Graph
from qcompiler.weights import Array

# Constants up to this many values are written out, longer ones as range and digest.
SHOWN_VALUES = 8
_DIGEST_DIGITS = 12
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def listing(graph: Graph, *, names: bool = False) -> str:
    """The whole main graph, its bodies and its constants as text; ends with a newline.

    Args:
        graph: Any graph.
        names: Write the name of each node in brackets before it.
    """
    model = graph.proto(skeleton=True)
    declared = {t.name for t in graph.inputs}
    imports = ", ".join(f'"{o.domain}" : {o.version}' for o in model.opset_import)
    head = _signature(model.graph, [v for v in model.graph.input if v.name in declared])
    lines = [f"<opset_import: [{imports}]>", f"{head} {{"]
    lines += [f"  {line}" for n in model.graph.node for line in _node(n, names=names)]
    lines.append("}")
    for tensor in graph.constants():
        if graph.is_constant(tensor):
            lines.append(f"# {_name(tensor.name)}: {constant_text(graph.values(tensor))}")
        else:
            lines.append(f"# {_name(tensor.name)}: sparse {_sparse(model.graph, tensor.name)}")
    return "\n".join(lines) + "\n"


def constant_text(array: Array) -> str:
    """Type, shape and values of an array: ``int8[2, 3] = 7, -7, 7, 1, 1, -4``.

    Args:
        array: Values of any ONNX element type, ``ml_dtypes`` ones included.
    """
    dtype = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    kind = TensorProto.DataType.Name(dtype).lower()
    shape = f"[{', '.join(map(str, array.shape))}]" if array.ndim else ""
    return f"{kind}{shape} = {_values(array)}".rstrip()


def _values(array: Array) -> str:
    if array.size <= SHOWN_VALUES:
        return ", ".join(_scalar(v) for v in array.reshape(-1))
    digest = _digest(_bytes(array))
    if array.dtype.kind in "OSUc":
        return f"{array.size} values, {digest}"
    wide = array if array.dtype.kind in "iub" else array.astype(np.float64)
    low, high = wide.min(), wide.max()
    return f"{_scalar(array.dtype.type(low))} .. {_scalar(array.dtype.type(high))}, {digest}"


def _bytes(array: Array) -> bytes:
    if array.dtype.kind in "OSU":
        return repr(array.tolist()).encode()
    return np.ascontiguousarray(array).tobytes()


def _scalar(value: object) -> str:
    """Shortest text that reads back as the same value of its type; whole floats without ``.0``."""
    if isinstance(value, (bytes, str, np.str_)):
        return _quoted(value.decode(errors="replace") if isinstance(value, bytes) else str(value))
    if isinstance(value, (bool, np.bool_)):
        return "1" if value else "0"
    return str(value).removesuffix(".0")


def _sparse(graph: GraphProto, name: str) -> str:
    proto = next(s for s in graph.sparse_initializer if s.values.name == name)
    kind = TensorProto.DataType.Name(proto.values.data_type).lower()
    return f"{kind}{list(proto.dims)} = {_digest(proto.SerializeToString(deterministic=True))}"


def _digest(data: bytes) -> str:
    return f"sha256 {hashlib.sha256(data).hexdigest()[:_DIGEST_DIGITS]}"


# ---------------------------------------------------------------------- nodes


def _signature(graph: GraphProto, inputs: Iterable[ValueInfoProto]) -> str:
    reads, writes = (", ".join(map(_declared, side)) for side in (inputs, graph.output))
    return f"{_name(graph.name or 'graph')} ({reads}) => ({writes})"


def _node(node: NodeProto, *, names: bool) -> Iterator[str]:
    outputs = ", ".join(_name(o) for o in node.output)
    inputs = ", ".join(_name(i) for i in node.input)
    op = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
    tag = f"[{_quoted(node.name)}] " if names and node.name else ""
    plain = [a for a in node.attribute if not _bodies(a)]
    attributes = ", ".join(_attribute(a) for a in plain)
    attributes = f" <{attributes}>" if attributes else ""
    bodies = [(a.name, g) for a in node.attribute for g in _bodies(a)]
    yield f"{tag}{outputs} = {op}{attributes} ({inputs}){' <' if bodies else ''}"
    for index, (name, body) in enumerate(bodies):
        yield f"  {name} = {_signature(body, body.input)} {{"
        for initializer in body.initializer:
            yield f"    # {_name(initializer.name)}: {_tensor(initializer)}"
        for inner in body.node:
            yield from (f"    {line}" for line in _node(inner, names=names))
        yield f"  }}{',' if index + 1 < len(bodies) else ''}"
    if bodies:
        yield ">"


def _bodies(attribute: AttributeProto) -> list[GraphProto]:
    if attribute.type == AttributeProto.GRAPH:
        return [attribute.g]
    return list(attribute.graphs) if attribute.type == AttributeProto.GRAPHS else []


def _attribute(attribute: AttributeProto) -> str:
    if attribute.ref_attr_name:
        return f"{attribute.name} = @{attribute.ref_attr_name}"
    kind = AttributeProto.AttributeType.Name(attribute.type).lower()
    value = onnx.helper.get_attribute_value(attribute)
    if attribute.type == AttributeProto.TENSOR:
        return f"{attribute.name} = {_tensor(attribute.t)}"
    if attribute.type == AttributeProto.TYPE_PROTO:
        return f"{attribute.name} = {_type(attribute.tp)}"
    if attribute.type in (AttributeProto.FLOAT, AttributeProto.FLOATS):
        texts = [str(np.float32(v)) for v in np.atleast_1d(value)]
    elif attribute.type in (AttributeProto.INT, AttributeProto.INTS):
        texts = [str(v) for v in np.atleast_1d(value)]
    elif attribute.type in (AttributeProto.STRING, AttributeProto.STRINGS):
        texts = [_scalar(v) for v in ([value] if isinstance(value, bytes) else value)]
    else:
        digest = _digest(attribute.SerializeToString(deterministic=True))
        return f"{attribute.name}: {kind} = {digest}"
    if not kind.endswith("s"):
        return f"{attribute.name} = {texts[0]}"
    shown = attribute.name if texts else f"{attribute.name}: {kind}"
    return f"{shown} = [{', '.join(texts)}]"


def _tensor(proto: TensorProto) -> str:
    if proto.data_location == TensorProto.EXTERNAL:
        kind = TensorProto.DataType.Name(proto.data_type).lower()
        return f"{kind}{list(proto.dims)} = external"
    return constant_text(weights.read(proto, None)).replace(" = ", " {", 1) + "}"


# ---------------------------------------------------------------------- names and types


def _name(name: str) -> str:
    return name if _IDENTIFIER.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _declared(value: ValueInfoProto) -> str:
    return f"{_type(value.type)} {_name(value.name)}"


def _type(proto: TypeProto) -> str:
    kind = proto.WhichOneof("value")
    if kind in ("tensor_type", "sparse_tensor_type"):
        declared = getattr(proto, kind)
        element = TensorProto.DataType.Name(declared.elem_type).lower()
        text = element + _shape(declared)
        return text if kind == "tensor_type" else f"sparse_tensor({text})"
    if kind == "sequence_type":
        return f"seq({_type(proto.sequence_type.elem_type)})"
    if kind == "optional_type":
        return f"optional({_type(proto.optional_type.elem_type)})"
    if kind == "map_type":
        key = TensorProto.DataType.Name(proto.map_type.key_type).lower()
        return f"map({key}, {_type(proto.map_type.value_type)})"
    return "?"


def _shape(declared: TypeProto.Tensor | TypeProto.SparseTensor) -> str:
    if not declared.HasField("shape"):
        return "[]"
    dims = [
        str(d.dim_value) if d.HasField("dim_value") else d.dim_param or "?"
        for d in declared.shape.dim
    ]
    return f"[{','.join(dims)}]" if dims else ""
