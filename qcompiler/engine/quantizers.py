"""What became of every QuantizeLinear: free in its producer's kernel, or a kernel of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from qcompiler import ops
from qcompiler.engine.dequantized import LINEAR
from qcompiler.engine.listing import Layer
from qcompiler.engine.precision import writes_low
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.verify import QUANTIZE

FOLDED, OWN, EMULATED, UNLISTED = "folded", "own", "emulated", "unlisted"
# One computed input and the same number of elements: part of the producer's epilogue.
_EPILOGUE = frozenset(
    {
        "Relu", "Clip", "LeakyRelu", "PRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Elu",
        "Gelu", "Erf", "Swish", "Mish", "Mul", "Div", "Add", "Sub", "Cast",
    }
)  # fmt: skip
_STEPS = 8


class Quantizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One QuantizeLinear in the engine.

    Attributes:
        node: Its name.
        fate: ``folded``: the kernel that computes its input stores it in low precision. ``own``:
            a kernel exists only to quantize, whatever pointwise work it takes along. ``emulated``:
            a kernel quantizes and dequantizes at once, and stores a float. ``unlisted``: no kernel
            names it.
        producer: The node that computes its input, past pointwise and moving nodes; empty if that
            is a graph input.
        kernel: Name of its kernel.
    """

    node: str
    fate: str
    producer: str
    kernel: str


def quantizers(
    graph: Graph, layers: Mapping[str, Sequence[Layer]], linear: Mapping[str, str]
) -> tuple[Quantizer, ...]:
    """What became of every QuantizeLinear of a computed tensor.

    Args:
        graph: The model that was built.
        layers: ONNX node -> kernels that name it.
        linear: Linear node -> the kernel that computes it.
    """
    return tuple(
        _quantizer(graph, n, layers.get(label(n), ()), linear)
        for n in graph.nodes
        if n.op == QUANTIZE and not graph.is_constant(n.inputs[0])
    )


def _quantizer(
    graph: Graph, node: Node, layers: Sequence[Layer], linear: Mapping[str, str]
) -> Quantizer:
    chain = _chain(graph, node)
    producer = label(chain[-1]) if chain and _worked_on(graph, chain[-1]) is None else ""
    storing = [n for n in layers if writes_low(n)]
    if not layers:
        return Quantizer(label(node), UNLISTED, producer, "")
    if not storing:
        return Quantizer(label(node), EMULATED, producer, layers[0].name)
    kernel = storing[0]
    if producer and chain[-1].op in LINEAR:
        folded = linear.get(producer) == kernel.name
    else:
        computed = {label(n) for n in chain if not ops.moves_data(n)}
        folded = not computed.isdisjoint(kernel.onnx_nodes)
    return Quantizer(label(node), FOLDED if folded else OWN, producer, kernel.name)


def _chain(graph: Graph, node: Node) -> list[Node]:
    """Nodes before a quantizer, nearest first, up to the first that is no epilogue."""
    found: list[Node] = []
    tensor: Tensor | None = node.inputs[0]
    for _ in range(_STEPS):
        producer = None if tensor is None else graph.producer(tensor)
        if producer is None:
            break
        found.append(producer)
        tensor = _worked_on(graph, producer)
    return found


def _worked_on(graph: Graph, node: Node) -> Tensor | None:
    """The one tensor that a node moves or works on element by element; None for any other node."""
    computed = [t for t in node.inputs if t.name and not graph.is_constant(t)]
    if not ops.is_standard(node) or not computed:
        return None
    if ops.moves_data(node) or (node.op in _EPILOGUE and len(computed) == 1):
        return computed[0]
    if node.op == "Mul" and len(computed) == 2:
        return _gated(graph, *computed) or _gated(graph, *reversed(computed))
    return None


def _gated(graph: Graph, tensor: Tensor, gate: Tensor) -> Tensor | None:
    """``x`` of ``x * gate(x)``: SiLU, and GELU spelled out."""
    for _ in range(_STEPS):
        if gate is tensor:
            return tensor
        producer = graph.producer(gate)
        computed = [] if producer is None else producer.inputs
        computed = [t for t in computed if t.name and not graph.is_constant(t)]
        if producer is None or producer.op not in _EPILOGUE or len(computed) != 1:
            return None
        gate = computed[0]
    return None
