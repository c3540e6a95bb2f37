"""Questions that several rules ask about a graph: quantizers, their parameters, what feeds whom."""

from __future__ import annotations

import numpy as np
import onnx

from qcompiler import ops
from qcompiler.graph import Graph, Node, Tensor
from qcompiler.verify import DEQUANTIZE, QUANTIZE
from qcompiler.weights import Array

FLOATS = frozenset({"float64", "float32", "float16", "bfloat16"})
FP8, FP4, INT4 = "float8_e4m3fn", "float4_e2m1fn", "int4"
# No chain between a DequantizeLinear and its reader that is longer than this is followed.
_FAR = 6


def quantizers(graph: Graph, *kinds: str) -> list[Node]:
    """Q and DQ nodes, of whatever domain: TensorRT looks importers up by the operator alone."""
    return [n for n in graph.nodes if n.op in (kinds or (QUANTIZE, DEQUANTIZE))]


def operand(node: Node, index: int) -> Tensor | None:
    """An input of a node; None if it is omitted."""
    found = node.inputs[index] if len(node.inputs) > index else None
    return found if found is not None and found.name else None


def constant(graph: Graph, tensor: Tensor | None) -> Array | None:
    """The values of a tensor that is known before running; None if it is not.

    Initializers and ``Constant`` nodes, also behind ``Identity`` and ``Cast`` (whose rounding is
    not applied).
    """
    for _ in range(_FAR):
        if tensor is None or graph.is_constant(tensor):
            break
        producer = graph.producer(tensor)
        if producer is not None and producer.op == "Constant" and "value" in producer.attrs:
            return graph.attribute(producer, "value")
        passes = producer is not None and producer.op in ("Identity", "Cast")
        tensor = producer.inputs[0] if producer is not None and passes else None
    return None if tensor is None or not graph.is_constant(tensor) else graph.values(tensor)


def scales(graph: Graph, node: Node) -> Array | None:
    """The scale of a Q or DQ as float64, in its own shape; None if it is computed."""
    found = constant(graph, operand(node, 1))
    return None if found is None or found.dtype.kind in "OSU" else found.astype(np.float64)


def type_name(tensor: Tensor | None) -> str:
    """Element type, such as ``int8`` or ``float8_e4m3fn``; empty if it is unknown."""
    return "" if tensor is None or tensor.dtype is None else str(np.dtype(tensor.dtype))


def storage(node: Node) -> str:
    """Type of the codes of a Q or DQ by the ONNX specification; empty if it is unknown."""
    if node.op == DEQUANTIZE:
        return type_name(node.inputs[0])
    zero = operand(node, 2)
    if zero is not None:
        return type_name(zero)
    wanted = int(node.attrs.get("output_dtype", 0))
    return attribute_type(wanted) if wanted else "uint8"


def attribute_type(code: int) -> str:
    """Name of a ``TensorProto.DataType``, as ``type_name`` writes it."""
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(code))
    except KeyError:
        return "unknown"


def is_weight(graph: Graph, dequantize: Node) -> bool:
    """Whether a DQ gives a constant: stored codes, or a constant quantized on the spot."""
    source = dequantize.inputs[0]
    producer = graph.producer(source)
    if producer is not None and producer.op == QUANTIZE:
        source = producer.inputs[0]
    return constant(graph, source) is not None


def dequantizer(graph: Graph, tensor: Tensor | None) -> Node | None:
    """The DQ that a tensor comes from, past what TensorRT moves a DQ over (rules D04, E01).

    Of a Concat whose every part comes from a DQ, the DQ of the first part.
    """
    for _ in range(_FAR):
        producer = None if tensor is None else graph.producer(tensor)
        if producer is None or producer.op == DEQUANTIZE:
            return producer
        if producer.op == "Concat":
            parts = [dequantizer(graph, t) for t in producer.inputs]
            return None if any(p is None for p in parts) else parts[0]
        if not is_transparent(graph, producer):
            return None
        tensor = next((t for t in producer.inputs if constant(graph, t) is None), None)
    return None


def is_transparent(graph: Graph, node: Node) -> bool:
    """Data movement (not Resize), a product with a scalar, and a Cast that does not widen."""
    if not ops.is_standard(node):
        return False
    if node.op == "Cast":
        source, made = node.inputs[0].dtype, node.outputs[0].dtype
        return source is not None and made is not None and made.itemsize <= source.itemsize
    if node.op in ("Mul", "Div"):
        factors = [constant(graph, t) for t in node.inputs]
        return any(f is not None and f.size == 1 for f in factors)
    return ops.moves_data(node) and node.op not in ("Resize", "Upsample")


def linears(graph: Graph) -> list[Node]:
    """Conv, ConvTranspose, Gemm and MatMul."""
    return [n for n in graph.nodes if ops.is_weighted(n)]


def operands(graph: Graph, node: Node) -> tuple[Node | None, Node | None]:
    """The DQ of the data and of the weight (or second) operand of a linear operator."""
    slot = ops.WEIGHTED[node.op]
    return (
        dequantizer(graph, operand(node, slot.data)),
        dequantizer(graph, operand(node, slot.weight)),
    )


def readers(graph: Graph, node: Node) -> list[Node]:
    """The nodes that read a node's first output."""
    return [user for user, _ in graph.users(node.outputs[0])]


def source(graph: Graph, dequantize: Node | None) -> Node | None:
    """The node whose output a Q/DQ pair carries; None if there is no such pair."""
    quantize = None if dequantize is None else graph.producer(dequantize.inputs[0])
    if quantize is None or quantize.op != QUANTIZE:
        return None
    return graph.producer(quantize.inputs[0])


def blocked_by(graph: Graph, node: Node) -> Node | None:
    """The operator on one tensor between a DQ and the data of a linear operator, if any.

    Only where the weight is quantized, so that a low-precision kernel was meant.
    """
    data, weight = operands(graph, node)
    given = operand(node, ops.WEIGHTED[node.op].data)
    producer = None if given is None else graph.producer(given)
    if data is not None or weight is None or producer is None:
        return None
    computed = [t for t in producer.inputs if t.name and constant(graph, t) is None]
    if len(computed) != 1 or dequantizer(graph, computed[0]) is None:
        return None
    return producer


def is_quantized(graph: Graph, node: Node) -> bool:
    """Whether both operands of a linear operator come from DQ."""
    return all(pair is not None for pair in operands(graph, node))


def widened(graph: Graph, node: Node) -> Node | None:
    """The Cast to a wider type between a linear operator and the DQ of an operand, if any.

    Only where both operands are quantized but for such a Cast.
    """
    slot = ops.WEIGHTED[node.op]
    found: list[Node] = []
    for given in (operand(node, slot.data), operand(node, slot.weight)):
        if dequantizer(graph, given) is not None:
            continue
        cast = None if given is None else graph.producer(given)
        if cast is None or cast.op != "Cast" or dequantizer(graph, cast.inputs[0]) is None:
            return None
        found.append(cast)
    return found[0] if found else None


def extent(tensor: Tensor | None, axis: int) -> int | None:
    """A dimension; None if it is not fixed."""
    shape = None if tensor is None else tensor.shape
    if shape is None or not -len(shape) <= axis < len(shape):
        return None
    found = shape[axis]
    return found if isinstance(found, int) else None


def users(graph: Graph, node: Node) -> list[Node]:
    """The nodes that read a node's first output, past what only moves data."""
    found: list[Node] = []
    for user in readers(graph, node):
        moves = ops.moves_data(user) and user.op not in ("Resize", "Upsample")
        found += users(graph, user) if moves else [user]
    return found


def nearest(graph: Graph, node: Node, *, ahead: bool) -> list[Node]:
    """The first linear operators with a constant weight, in one direction.

    Depthwise convolutions and products of two computed tensors are passed over.
    """
    found: list[Node] = []
    seen: set[int] = set()
    edge = [node]
    while edge:
        here = edge.pop()
        around = _after(graph, here) if ahead else _before(graph, here)
        for step in around:
            if id(step) in seen:
                continue
            seen.add(id(step))
            (found if _is_layer(graph, step) else edge).append(step)
    return found


def _after(graph: Graph, node: Node) -> list[Node]:
    return [user for tensor in node.outputs for user, _ in graph.users(tensor)]


def _before(graph: Graph, node: Node) -> list[Node]:
    return [made for tensor in node.inputs if (made := graph.producer(tensor)) is not None]


def _is_layer(graph: Graph, node: Node) -> bool:
    if not ops.is_weighted(node) or ops.groups(node) > 1:
        return False
    weight = operand(node, ops.WEIGHTED[node.op].weight)
    pair = None if weight is None else graph.producer(weight)
    if pair is not None and pair.op == DEQUANTIZE:
        return is_weight(graph, pair)
    return constant(graph, weight) is not None
