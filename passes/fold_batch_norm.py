"""Fold a ``BatchNormalization`` into the weight and bias of the linear node before it.

In inference a batch norm is an affine function of each channel (Ioffe & Szegedy 2015, section 3.1;
folding as in Jacob et al. 2018, section 3.2)::

    before:  z = W * x + b              y = gamma * (z - mean) / sqrt(var + eps) + beta
    after:   y = (f W) * x + b'         f = gamma / sqrt(var + eps),  b' = (b - mean) f + beta

``f`` multiplies the output channels of the weight: axis 0 of ``Conv``; axis 1 inside each group of
``ConvTranspose``, whose weight is ``[C_in, C_out / group, ...]``; axis 0 or 1 of ``Gemm`` by
``transB``; the last axis of ``MatMul``, which has no bias, so that the norm becomes an ``Add``.
``Gemm``'s own factors stay right: ``alpha`` scales the product, and ``beta C`` becomes one ``C``.

Weights must be quantized *after* this: the folded weight is what the engine multiplies with, and a
norm left between a convolution and its activation keeps TensorRT from fusing either.

Left alone: a norm whose input has another reader or is an output, parameters that are computed,
training mode, a norm that follows nothing linear, and a fold that overflows the weight's type.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from qcompiler.graph import Graph, Node, Tensor
from qcompiler.pipeline import Effect, Pass
from qcompiler.weights import Array

F64 = NDArray[np.float64]


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """``BN(W * x + b) -> (f W) * x + ((b - mean) f + beta)``, ``f = gamma / sqrt(var + eps)``."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"
    after: ClassVar[tuple[str, ...]] = ("lift-constants", "fold-constants", "drop-identity")

    def run(self, graph: Graph) -> int:
        """Fold every batch norm that follows a linear node with a constant weight."""
        return sum(_fold(graph, n) for n in graph.nodes if _is_inference(graph, n))


def _is_inference(graph: Graph, node: Node) -> bool:
    if node.op != "BatchNormalization" or node.domain or len(node.inputs) != 5:
        return False
    if node.attrs.get("training_mode", 0) or any(t.name for t in node.outputs[1:]):
        return False
    # Until opset 6 training was the default, and until 8 statistics could differ by position.
    if graph.opset < 7 and not node.attrs.get("is_test", 0):
        return False
    return bool(node.attrs.get("spatial", 1)) and all(graph.is_constant(t) for t in node.inputs[1:])


def _fold(graph: Graph, norm: Node) -> bool:
    z, y = norm.inputs[0], norm.outputs[0]
    node = graph.producer(z)
    if node is None or node.domain or graph.sole_user(z) is not norm or not _is_linear(graph, node):
        return False
    gamma, beta, mean, var = (graph.values(t).astype(np.float64) for t in norm.inputs[1:])
    with np.errstate(all="ignore"):
        factor = gamma / np.sqrt(var + float(np.float32(norm.attrs.get("epsilon", 1e-5))))
    weight = node.inputs[1]
    old = graph.values(weight)
    scale = _on_channels(node, old.shape, factor)
    if scale is None:
        return False
    bias = _bias(graph, node)
    new_weight = _narrow(old.astype(np.float64) * scale, old.dtype)
    new_bias = _narrow((bias - mean) * factor + beta, old.dtype)
    if new_weight is None or new_bias is None:
        return False
    wider, shift = graph.const(f"{weight.name}_bn", new_weight), _bias_name(node)
    offset = graph.const(f"{shift}_bn", new_bias)
    if node.op == "MatMul":
        graph.set_input(node, 1, wider)
        graph.replace(y, graph.add("Add", [z, offset], output=f"{y.name}_add", name=norm.name))
        return True
    graph.set_inputs(node, [node.inputs[0], wider, offset])
    if node.op == "Gemm":
        node.attrs.pop("beta", None)
    graph.replace(y, z)
    return True


def _is_linear(graph: Graph, node: Node) -> bool:
    if node.op == "MatMul":
        # The channels of a norm are axis 1; those of a product are the last axis.
        shape = node.outputs[0].shape
        return shape is not None and len(shape) == 2 and graph.is_constant(node.inputs[1])
    if node.op not in ("Conv", "ConvTranspose", "Gemm") or not graph.is_constant(node.inputs[1]):
        return False
    bias = _optional(node, 2)
    return bias is None or graph.is_constant(bias)


def _optional(node: Node, index: int) -> Tensor | None:
    return node.inputs[index] if len(node.inputs) > index and node.inputs[index].name else None


def _bias(graph: Graph, node: Node) -> F64:
    """The bias as added to the product: ``[C]`` (or what ``Gemm`` broadcasts), 0 without one."""
    tensor = _optional(node, 2)
    scale = float(node.attrs.get("beta", 1.0)) if node.op == "Gemm" else 1.0
    if tensor is None or scale == 0.0:
        return np.zeros(1)
    return graph.values(tensor).astype(np.float64) * scale


def _bias_name(node: Node) -> str:
    tensor = _optional(node, 2)
    return tensor.name if tensor is not None else f"{node.inputs[1].name}_bias"


def _on_channels(node: Node, shape: Sequence[int], factor: F64) -> F64 | None:
    """``factor`` in a shape that multiplies the output channels of a weight; None if they differ.

    Args:
        node: The linear node.
        shape: Shape of its weight.
        factor: ``[C_out]``.
    """
    rank = len(shape)
    if node.op == "ConvTranspose":
        group = int(node.attrs.get("group", 1))
        if factor.shape != (group * shape[1],) or shape[0] % group:
            return None
        tail = [1] * (rank - 2)
        each = np.repeat(factor.reshape(group, 1, shape[1]), shape[0] // group, axis=1)
        return each.reshape([shape[0], shape[1], *tail])
    axis = 0 if node.op == "Conv" or node.attrs.get("transB", 0) else 1
    if rank < 2 or (rank > 2 and node.op != "Conv") or factor.shape != (shape[axis],):
        return None
    return factor.reshape([shape[axis] if i == axis else 1 for i in range(rank)])


def _narrow(values: F64, dtype: np.dtype[Any]) -> Array | None:
    """``values`` in the weight's type, or None if they do not fit it."""
    with np.errstate(all="ignore"):
        out = values.astype(dtype)
        finite = math.isfinite(float(np.abs(out.astype(np.float64)).max(initial=0.0)))
    return out if finite else None
