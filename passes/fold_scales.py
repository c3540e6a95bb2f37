"""Fold a constant Mul, Div, Add or Sub beside a linear op into its weight and bias.

A linear op computes ``y = W x + b``.  With constants that vary along the output channels only::

    after    (W x + b) * s + t   =   (s W) x + (s b + t)

and with constants that vary along the input channels only::

    before   W (x * s + t) + b   =   (W s) x + (W t + b)

Linear ops are Conv, ConvTranspose, Gemm and MatMul by a constant matrix on the right; a MatMul
counts its following ``Add(constant)`` as its bias, which therefore stays (TensorRT fuses it).
``alpha`` and ``beta`` of a Gemm are folded too and become 1.

Where it stops:

* the tensor between is a graph output, captured by a body, or read by another node (``Shape``
  aside: folding does not change shapes);
* padding: ``x * s`` commutes with zero padding, ``x + t`` does not, so ``t`` before a Conv needs
  pads of 0; before a ConvTranspose it never folds (at the borders fewer products are summed);
* the weight must be a constant: nothing is folded through Q/DQ;
* a weight or bias that another node reads is copied first, never changed under it;
* the new weight must be finite in its type: FP16 ends at 65504.

A scalar factor also commutes with data movement, so it is carried through chains of Reshape,
Transpose, Squeeze, Unsqueeze and Flatten: the ``1 / sqrt(d)`` of attention, split over query and
key behind the heads' Reshape and Transpose, ends in the projections.

Where the opset has no op for an RMS norm, its weight counts as a constant like any other, and goes
into the next linear layer if that is its only reader.  That is the "gamma migration" of Outlier
Suppression (https://arxiv.org/abs/2209.13325), reported to leave smaller outliers to quantize.

Exporters: normalization of images before the first Conv, TorchScript's scaled attention, LayerScale
and Keras ``Rescaling`` through tf2onnx.  Arithmetic is FP64, stored in the weight's type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Graph, Node, Tensor
from qcompiler.linear import (
    F64,
    SCALAR_MOVES,
    Linear,
    affine_of,
    linear_of,
    sole_reader,
    upstream,
    vector_of,
)
from qcompiler.parameters import rounded, write
from qcompiler.pipeline import Effect, Pass
from qcompiler.weights import Array


@dataclass(frozen=True)
class FoldScales(Pass):
    """``(W x + b) * s + t -> (s W) x + (s b + t)`` and ``W (x * s + t) + b`` alike."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"
    # A norm's gamma, a GELU's 0.5 belong to their ops as long as these can take them.
    after: ClassVar[tuple[str, ...]] = (
        "fold-constants",
        "fold-batch-norm",
        "fuse-layer-norm",
        "fuse-rms-norm",
        "fuse-gelu",
        "fuse-hard-swish",
        "fuse-attention",
        "expand-attention",
    )

    def run(self, graph: Graph) -> int:
        """Fold until nothing is left to fold."""
        count = sum(_fold_gemm(graph, n) for n in graph.nodes)
        while True:
            # Downwards for what follows a linear op, upwards for what precedes one, so that a
            # chain collapses in one sweep.
            folded = sum(_fold_after(graph, n) for n in graph.nodes)
            folded += sum(_fold_before(graph, n) for n in reversed(graph.nodes))
            if not folded:
                return count
            count += folded


def _linear_of(graph: Graph, result: Tensor) -> Linear | None:
    """The linear op that computes a tensor, bias included."""
    node = graph.producer(result)
    if node is not None and node.op == "Add":
        step = affine_of(graph, node)
        node = None if step is None else graph.producer(step.data)
    linear = None if node is None else linear_of(graph, node)
    return linear if linear is not None and linear.result is result else None


def _is_plain(linear: Linear) -> bool:
    attrs = linear.node.attrs
    return {attrs.get("alpha", 1.0), attrs.get("beta", 1.0)} == {1.0}


# ---------------------------------------------------------------- folding


def _fold_after(graph: Graph, node: Node) -> bool:
    step = affine_of(graph, node)
    if step is None or sole_reader(graph, step.data) is None:
        return False
    source = upstream(graph, step.data) if step.is_scalar_factor else step.data
    linear = None if source is None else _linear_of(graph, source)
    if linear is None or not _is_plain(linear):
        return False
    rank = max(step.rank, linear.result_rank()) if linear.result is step.data else step.rank
    axis, count = linear.data_axis(0), linear.channels(0)
    scale = vector_of(step.scale, rank, axis, count)
    shift = vector_of(step.shift, rank, axis, count)
    whole = (scale is None, shift is None) == (step.scale is None, step.shift is None)
    if not whole or not _apply(graph, linear, 0, scale, shift):
        return False
    graph.replace(node.outputs[0], step.data)
    return True


def _fold_before(graph: Graph, node: Node) -> bool:
    step = affine_of(graph, node)
    reader = None if step is None else sole_reader(graph, node.outputs[0])
    while step is not None and step.is_scalar_factor and reader is not None:
        if reader[0].op not in SCALAR_MOVES or reader[0].domain or reader[1] != 0:
            break
        reader = sole_reader(graph, reader[0].outputs[0])
    linear = None if reader is None or reader[1] != 0 else linear_of(graph, reader[0])
    if step is None or linear is None or not _is_plain(linear):
        return False
    axis, count = linear.data_axis(1), linear.channels(1)
    scale = vector_of(step.scale, step.rank, axis, count)
    shift = vector_of(step.shift, step.rank, axis, count)
    whole = (scale is None, shift is None) == (step.scale is None, step.shift is None)
    if not whole or (shift is not None and not linear.sums_everywhere()):
        return False
    # The data may not be broadcast by the constant: x [1, 1, H, W] * c [3, 1, 1] has 3 channels.
    vectors = [v for v in (scale, shift) if v is not None and v.size > 1]
    if vectors and (step.data.shape or [])[axis] != count:
        return False
    if not _apply(graph, linear, 1, scale, shift):
        return False
    for user, slot in graph.users(node.outputs[0]):
        graph.set_input(user, slot, step.data)
    graph.set_inputs(node, [])
    return True


def _fold_gemm(graph: Graph, node: Node) -> bool:
    """``alpha A B + beta C -> A (alpha B) + (beta C)``."""
    linear = linear_of(graph, node) if node.op == "Gemm" else None
    if linear is None or _is_plain(linear):
        return False
    alpha, beta = (np.full((), float(node.attrs.get(k, 1.0))) for k in ("alpha", "beta"))
    weight = _rounded(graph, node.inputs[1], alpha)
    bias = None if linear.bias is None else _rounded(graph, node.inputs[2], beta)
    if weight is None or (linear.bias is not None and bias is None):
        return False
    write(graph, node, 1, weight)
    if bias is not None:
        write(graph, node, 2, bias)
    for name in ("alpha", "beta"):
        node.attrs.pop(name, None)
    return True


def _apply(graph: Graph, linear: Linear, side: int, scale: F64 | None, shift: F64 | None) -> bool:
    """Change weight and bias; False, and nothing changed, if they cannot hold the result.

    Args:
        graph: The graph.
        linear: The op.
        side: 0 for ``(W x + b) * scale + shift``, 1 for ``W (x * scale + shift) + b``.
        scale: Per channel of that side, or one element; None for 1.
        shift: The same; None for 0.
    """
    weight = linear.node.inputs[1]
    values = graph.values(weight).astype(np.float64)
    new = values if scale is None else linear.grouped(values) * linear.along(scale, side)
    narrow = rounded(new.reshape(values.shape), weight)
    factor = scale if side == 0 else None
    extra = linear.response(values, shift) if side and shift is not None else shift
    bias = _new_bias(graph, linear, factor, extra)
    if narrow is None or bias is None:
        return False
    if scale is not None:
        write(graph, linear.node, 1, narrow)
    if bias.size:
        _write_bias(graph, linear, bias)
    return True


def _new_bias(graph: Graph, linear: Linear, factor: F64 | None, extra: F64 | None) -> Array | None:
    """``b * factor + extra`` in its type; empty if it does not change, None if it cannot be."""
    unchanged: Array = np.empty(0)
    if factor is None and extra is None:
        return unchanged
    if linear.bias is None:
        if extra is None:
            return unchanged
        fresh = np.broadcast_to(extra, (linear.channels(0),))
        return None if linear.node.op == "MatMul" else rounded(fresh, linear.node.inputs[1])
    node, slot = linear.bias
    old = node.inputs[slot]
    if not graph.is_constant(old):
        return None
    values = graph.values(old).astype(np.float64)
    values = values if factor is None else values * factor
    return rounded(values if extra is None else values + extra, old)


def _write_bias(graph: Graph, linear: Linear, values: Array) -> None:
    if linear.bias is not None:
        write(graph, *linear.bias, values)
        return
    node = linear.node
    bias = graph.const(f"{node.name or node.outputs[0].name}_bias", values)
    graph.set_inputs(node, [*node.inputs[:2], bias])


def _rounded(graph: Graph, constant: Tensor, factor: F64) -> Array | None:
    """A constant times a factor in its own type; None if it is none, or becomes infinite."""
    if not graph.is_constant(constant):
        return None
    return rounded(graph.values(constant).astype(np.float64) * factor, constant)
