"""Which operand of a residual Add is quantized: the one that does not fuse (rules E04-E06)."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

from qcompiler import ops
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.plan import Slot

# An Add's result reaches the next convolution through these without leaving the fused kernel.
_EPILOGUE = frozenset({"Relu", "Clip", "LeakyRelu", "PRelu", "Add"})


def skips(graph: Graph, quantized: AbstractSet[str]) -> Iterator[tuple[str, Slot]]:
    """The skip branch of every residual Add on the way to a quantized operator.

    Args:
        graph: With types inferred.
        quantized: Linear operators that are quantized.

    Returns:
        Pairs of a tensor and the slot of the Add that reads it, in graph order.
    """
    for node in graph.nodes:
        if not (ops.is_standard(node) and node.op == "Add") or not _is_residual(
            graph, node, quantized
        ):
            continue
        index = _skip_index(graph, node, quantized)
        if index is not None:
            skip = node.inputs[index]
            yield skip.name, Slot(label(node), index, "skip")


def _is_residual(graph: Graph, node: Node, quantized: AbstractSet[str]) -> bool:
    """Whether an Add joins two computed tensors of one shape on the way to a quantized operator."""
    a, b = node.inputs
    if graph.is_constant(a) or graph.is_constant(b) or a is b:
        return False
    if a.shape is None or b.shape is None or list(a.shape) != list(b.shape):
        return False
    return _reaches_quantized(graph, node.outputs[0], quantized, depth=6)


def _reaches_quantized(
    graph: Graph, tensor: Tensor, quantized: AbstractSet[str], depth: int
) -> bool:
    if depth == 0:
        return False
    for user, _ in graph.users(tensor):
        if label(user) in quantized:
            return True
        passes = ops.is_standard(user) and (user.op in _EPILOGUE or ops.moves_data(user))
        if passes and _reaches_quantized(graph, user.outputs[0], quantized, depth - 1):
            return True
    return False


def _skip_index(graph: Graph, node: Node, quantized: AbstractSet[str]) -> int | None:
    """Which operand is the skip: the one that is not the convolution the Add fuses into.

    If both are convolutions the longer branch fuses (rule E05).
    """
    convs = [i for i in (0, 1) if _is_fusible_conv(graph, node.inputs[i], quantized)]
    if len(convs) == 2:
        lengths = _branch_lengths(graph, node)
        return 0 if lengths[1] >= lengths[0] else 1
    return 1 - convs[0] if convs else None


def _is_fusible_conv(graph: Graph, tensor: Tensor, quantized: AbstractSet[str]) -> bool:
    producer = graph.producer(tensor)
    return (
        producer is not None
        and producer.op in ("Conv", "ConvTranspose")
        and label(producer) in quantized
        and graph.sole_user(tensor) is not None
    )


def _branch_lengths(graph: Graph, node: Node) -> tuple[int, int]:
    """Steps from each operand of an Add back to where the branches part."""
    chains = [[id(t) for t in _upstream(graph, operand)] for operand in node.inputs]
    common = next((t for t in chains[0] if t in chains[1]), None)
    if common is None:
        return len(chains[0]), len(chains[1])
    return chains[0].index(common), chains[1].index(common)


def _upstream(graph: Graph, tensor: Tensor, limit: int = 64) -> Iterator[Tensor]:
    for _ in range(limit):
        yield tensor
        producer = graph.producer(tensor)
        if producer is None or not producer.inputs:
            return
        tensor = producer.inputs[0]
