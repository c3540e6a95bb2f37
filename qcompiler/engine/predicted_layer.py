"""What capability rows are asked about a quantized node, read from the graph."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from qcompiler import ops
from qcompiler.engine import dequantized
from qcompiler.graph import Graph, Node, Tensor
from qcompiler.lint import reading as r
from qcompiler.targets.base import Layer
from qcompiler.verify import QUANTIZE


def layer_of(graph: Graph, node: Node) -> Layer | None:
    """What rows are asked about a node whose weight is quantized; None if its shape is unknown."""
    shape = shape_of(node.inputs[1])
    if shape is None or len(shape) < 2:
        return None
    convolution = node.op in ("Conv", "ConvTranspose")
    kernel = shape[2:] if convolution else ()
    kind = "merged" if not convolution and _is_merged(graph, node) else "dense"
    if convolution and ops.groups(node) > 1:
        per_group = shape[1] if node.op == "Conv" else shape[0] // ops.groups(node)
        kind = "depthwise" if per_group == 1 else "grouped"
    inputs = ops.reduction_length(node, 1, shape) // max(math.prod(kernel), 1)
    outputs = shape[ops.weight_axis(node, 1, len(shape))]
    return Layer(node.op, kind, inputs, outputs, kernel, _rows(node))


def _is_merged(graph: Graph, node: Node) -> bool:
    """Whether the result is split into equal parts, not each of them quantized at once."""
    if not ops.splits_evenly(graph, node):
        return False
    user = graph.sole_user(node.outputs[0])
    while user is not None and user.op != "Split":
        user = graph.sole_user(user.outputs[0])
    parts = [] if user is None else [n for t in user.outputs for n, _ in graph.users(t)]
    return any(n.op != QUANTIZE for n in parts)


def _rows(node: Node) -> int | None:
    """M of a matrix product, if the shapes say so."""
    shape = node.outputs[0].shape
    if node.op not in ("MatMul", "Gemm") or shape is None:
        return None
    keep = shape[:-1]
    return math.prod(d for d in keep if isinstance(d, int)) if _static(keep) else None


def _static(dims: Iterable[object]) -> bool:
    return all(isinstance(d, int) for d in dims)


def shape_of(tensor: Tensor) -> tuple[int, ...] | None:
    """The shape if all of it is fixed."""
    return ops.static(tensor.shape)


def scale_axis(pair: Node, rank: int) -> int:
    """Axis that the scales of a DQ run along."""
    return int(pair.attrs.get("axis", 1)) % max(rank, 1)


def scale_count(pair: Node) -> int:
    """Number of scales of a DQ."""
    return math.prod(d for d in pair.inputs[1].shape or () if isinstance(d, int))


def equal_scales(graph: Graph, concat: Node) -> bool:
    """Whether all parts of a Concat come from DQs of one scale."""
    pairs = [dequantized.source(graph, t).node for t in concat.inputs if t.name]
    scales = [None if p is None else r.scales(graph, p) for p in pairs]
    first = scales[0]
    if first is None:
        return False
    return all(s is not None and np.array_equal(first, s) for s in scales)
