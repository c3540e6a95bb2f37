"""Where the factors of a linear ONNX node come from, and why a quantized one runs in float."""

from __future__ import annotations

import math
from dataclasses import dataclass

from qcompiler import ops
from qcompiler.engine.listing import Layer
from qcompiler.engine.precision import PRODUCTS, is_attention
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.verify import DEQUANTIZE, QUANTIZE

LINEAR = frozenset({*ops.WEIGHTED, "Attention"})
# One input, or one computed input beside a constant; a Q/DQ pair is looked for beyond them.
_POINTWISE = frozenset(
    {
        "Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu", "Gelu",
        "Mul", "Div", "Add", "Sub", "Cast", "AveragePool", "GlobalAveragePool", "Resize", "Pad",
    }
)  # fmt: skip
# They move data, but the builder does not move a DequantizeLinear past them.
_STANDS = frozenset({"Resize", "Upsample"})
_MXFP8 = "TRT_MXFP8DequantizeLinear"
_STEPS = 6
UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Source:
    """Where a factor comes from.

    Attributes:
        node: Its DequantizeLinear; None if it is float.
        between: Nodes between the two, nearest to the linear node first.
    """

    node: Node | None
    between: tuple[Node, ...] = ()


def factors(node: Node) -> tuple[Tensor, ...]:
    """The tensors that a linear node multiplies: two, or query, key and value."""
    return tuple(t for t in node.inputs[: 3 if node.op == "Attention" else 2] if t.name)


def source(graph: Graph, tensor: Tensor) -> Source:
    """The DequantizeLinear that a tensor comes from, past what moves data or works pointwise."""
    between: list[Node] = []
    for _ in range(_STEPS):
        node = graph.producer(tensor)
        if node is None:
            break
        if node.op.endswith(DEQUANTIZE):  # TensorRT's and ONNX Runtime's own ones, too
            return Source(node, tuple(between))
        if not ops.is_standard(node):
            break
        before = _before(graph, node)
        if before is None:
            break
        between.append(node)
        tensor = before
    return Source(None)


def _before(graph: Graph, node: Node) -> Tensor | None:
    """The tensor a pointwise or moving node works on; None for any other node."""
    if node.op == "Concat":
        found = [source(graph, t) for t in node.inputs if not graph.is_constant(t)]
        return node.inputs[0] if found and all(s.node is not None for s in found) else None
    if ops.moves_data(node):
        return node.inputs[0]
    computed = [t for t in node.inputs if t.name and not graph.is_constant(t)]
    return computed[0] if node.op in _POINTWISE and len(computed) == 1 else None


def constant_elements(graph: Graph, node: Node) -> int:
    """Elements of the constant factor, quantized or not; 0 if both are computed."""
    for tensor in reversed(factors(node)):
        constant = _constant(graph, tensor)
        if constant is not None:
            return math.prod(ops.constant_shape(constant))
    return 0


def _constant(graph: Graph, tensor: Tensor) -> Tensor | None:
    """The constant that a factor is: itself, behind DQ, or behind Q and DQ; None if computed."""
    if graph.is_constant(tensor):
        return tensor
    found = source(graph, tensor).node
    quantize = None if found is None else graph.producer(found.inputs[0])
    if quantize is not None and quantize.op == QUANTIZE:
        found = quantize
    return found.inputs[0] if found is not None and graph.is_constant(found.inputs[0]) else None


def quantized(graph: Graph, node: Node) -> str:
    """Which factors come from DequantizeLinear: ``both``, ``weight``, ``data`` or neither (empty).

    ``weight`` means a constant one.
    """
    found = [t for t in factors(node) if source(graph, t).node is not None]
    if found and len(found) == len(factors(node)):
        return "both"
    if any(_constant(graph, t) is not None for t in found):
        return "weight"
    return "data" if found else ""


def reason(graph: Graph, node: Node, layer: Layer | None) -> str:
    """What explains that a quantized node runs in float, as far as the graph shows.

    The order is that of certainty: operators that never have a low-precision kernel, then what
    stands between DequantizeLinear and the node, then scales, then the node's surroundings.
    """
    return (
        _by_operator(graph, node)
        or _by_neighbour(graph, node)
        or _by_scales(graph, node)
        or _by_surroundings(graph, node, layer)
        or UNKNOWN
    )


def _by_operator(graph: Graph, node: Node) -> str:
    found = [source(graph, t).node for t in factors(node)]
    if any(n is not None and n.op == _MXFP8 for n in found):
        return "MXFP8 is widened before every product"
    if node.op in ("ConvTranspose", "Attention"):
        return f"{node.op} has no low-precision kernel"
    if node.op == "Conv" and ops.groups(node) > 1:
        return f"a convolution of {ops.groups(node)} groups"
    return ""


def _by_neighbour(graph: Graph, node: Node) -> str:
    for tensor in factors(node):
        for between in source(graph, tensor).between:
            if between.op in _STANDS or not ops.moves_data(between):
                return f"{between.op} '{label(between)}' stands behind DequantizeLinear"
    return ""


def _by_scales(graph: Graph, node: Node) -> str:
    if not ops.is_weighted(node):
        return ""
    found = source(graph, node.inputs[1])
    constant = _constant(graph, node.inputs[1])
    if found.node is None or found.between or constant is None:
        return ""
    scales, shape = ops.constant_shape(found.node.inputs[1]), ops.constant_shape(constant)
    axis, wanted = _axis(found.node, len(shape)), ops.weight_axis(node, 1, len(shape))
    block = int(found.node.attrs.get("block_size", 0) or 0)
    if block:
        few = " (two at least are needed)" if scales[axis] == 1 else ""
        return f"the weight has {scales[axis]} block(s) of {block} along axis {axis}{few}"
    if math.prod(scales) > 1 and axis != wanted:
        return f"the weight's scales run along axis {axis}, its output channels along {wanted}"
    if math.prod(scales) > 1 and ops.splits_evenly(graph, node):
        return "the weight has a scale for each channel, and the result is split into equal parts"
    if quantized(graph, node) == "weight":
        return "only the weight is quantized, and without blocks along the sum"
    return ""


def _axis(dequantize: Node, rank: int) -> int:
    return int(dequantize.attrs.get("axis", 1)) % max(rank, 1)


def _by_surroundings(graph: Graph, node: Node, layer: Layer | None) -> str:
    if layer is not None and layer.kind not in PRODUCTS and not is_attention(layer):
        return "a matrix-vector product: a reduction, no matrix kernel"
    softmax = _softmax(graph, node)
    if softmax is not None and not constant_elements(graph, node):
        return f"its attention (Softmax '{label(softmax)}') is not one kernel"
    return ""


def _softmax(graph: Graph, node: Node) -> Node | None:
    """The Softmax that a product of two computed tensors feeds, or is fed by."""
    return _nearest(graph, node, ahead=True) or _nearest(graph, node, ahead=False)


def _nearest(graph: Graph, node: Node, *, ahead: bool) -> Node | None:
    """The first Softmax in one direction, no linear node in between."""
    edge = [node]
    for _ in range(_STEPS):
        step: dict[int, Node] = {}
        for here in edge:
            found = _after(graph, here) if ahead else _producers(graph, here)
            step |= {id(n): n for n in found if n.op not in LINEAR}
        edge = list(step.values())
        softmax = next((n for n in edge if n.op == "Softmax"), None)
        if softmax is not None:
            return softmax
    return None


def _after(graph: Graph, node: Node) -> list[Node]:
    return [user for tensor in node.outputs for user, _ in graph.users(tensor)]


def _producers(graph: Graph, node: Node) -> list[Node]:
    return [p for tensor in node.inputs if (p := graph.producer(tensor)) is not None]
