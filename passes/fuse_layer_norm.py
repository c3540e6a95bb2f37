"""Fuse the exploded layer normalization into ``LayerNormalization``.

::

    before   m = ReduceMean(x)        d = Sub(x, m)        v = ReduceMean(d * d)
             y = d / Sqrt(v + eps) * gamma + beta
    after    y = LayerNormalization<axis, epsilon = eps>(x, gamma, beta)

Forms: ``d * d`` as ``Mul`` or ``Pow(d, 2)``; the division as ``Div``, as ``Mul`` with
``Reciprocal(Sqrt)`` or ``1 / Sqrt``, or as a power of +-1/2.  TorchScript exports before opset 17
write ``Pow`` and ``Div``; tf2onnx (Keras, ``tf.nn.batch_normalization``) multiplies out::

    r = gamma / Sqrt(v + eps)         y = x * r + (beta - m * r)

FP16 exports compute in FP32 between two ``Cast``; the op does the same (``stash_type`` 1), so the
casts go too.  A missing gamma is ones, a missing beta stays missing.

Only over the last axes, which is all the op can express; gamma and beta must have exactly the shape
of those axes (leading ones are dropped).  The op exists since opset 17 (ONNX operators,
LayerNormalization-17); below that the pattern stays.  FP64 is left alone: the op would compute in
FP32.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Graph, Node, Tensor
from qcompiler.match import (
    Match,
    Pattern,
    any_of,
    const,
    is_float,
    matches,
    number,
    op,
    optional,
    put,
    scalar,
    value_of,
    var,
)
from qcompiler.pipeline import Effect, Pass

_X = var("x")
_GAMMA, _BETA = const("gamma"), const("beta")
_MEAN = op("ReduceMean")(_X, ...)


def root(spread: Pattern) -> Pattern:
    """``sqrt(spread)``."""
    return any_of(op("Sqrt")(spread), op("Pow")(spread, number(0.5)))


def inverse_root(spread: Pattern) -> Pattern:
    """``1 / sqrt(spread)``."""
    return any_of(
        op("Reciprocal")(root(spread)),
        op("Div")(number(1.0), root(spread)),
        op("Pow")(spread, number(-0.5)),
    )


def mean_square(d: Pattern) -> Pattern:
    """``ReduceMean(d^2) + eps``, over any axes."""
    square = any_of(op("Pow")(d, number(2.0)), op("Mul")(d, d))
    return op("Add")(op("ReduceMean")(square, ...), scalar("epsilon"))


def _pattern() -> Pattern:
    d = op("Sub")(_X, _MEAN)
    spread = mean_square(d)
    inverse = inverse_root(spread)
    plain = any_of(op("Div")(d, root(spread)), op("Mul")(d, inverse))
    normalized = optional(op("Cast").named("cast"), plain)
    scaled = op("Mul")(normalized, _GAMMA)
    r = any_of(op("Mul")(inverse, _GAMMA), inverse)
    shift = op("Sub")(_BETA, op("Mul")(_MEAN, r))
    return any_of(
        op("Add")(op("Mul")(_X, r), shift),
        op("Add")(any_of(scaled, normalized), _BETA),
        scaled,
        normalized,
    )


_PATTERN = _pattern()


@dataclass(frozen=True)
class FuseLayerNorm(Pass):
    """``(x - mean) / sqrt(var + eps) * gamma + beta -> LayerNormalization``, from opset 17 on."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"

    def run(self, graph: Graph) -> int:
        """Replace every exploded layer normalization over last axes."""
        if graph.opset < 17:
            return 0
        return sum(_fuse(graph, found) for found in matches(graph, _PATTERN))


def _fuse(graph: Graph, found: Match) -> bool:
    arguments = norm_arguments(graph, found)
    if arguments is None:
        return False
    inputs, attrs = arguments
    if "beta" in found.tensors:
        beta = _parameter(graph, found, "beta", inputs[0], -int(attrs["axis"]))
        if beta is None:
            return False
        inputs = [*inputs, beta]
    put(graph, found, "LayerNormalization", inputs, attrs)
    return True


def norm_arguments(
    graph: Graph, found: Match
) -> tuple[list[Tensor], dict[str, int | float]] | None:
    """Inputs (data, scale) and attributes of the norm that a match computes; None if no op can."""
    x = _data(found, graph)
    if x is None or not x.shape or not found.keeps_shape("x"):
        return None
    epsilon = value_of(graph, found["epsilon"]) or 0.0
    count = _last_axes(graph, found.nodes, len(x.shape))
    if count == 0 or epsilon < 0:
        return None
    gamma = _parameter(graph, found, "gamma", x, count)
    attrs: dict[str, int | float] = {"axis": -count, "epsilon": epsilon, "stash_type": 1}
    return None if gamma is None else ([x, gamma], attrs)


def _data(found: Match, graph: Graph) -> Tensor | None:
    """The tensor to normalize: before the ``Cast`` to FP32 if a ``Cast`` back follows."""
    x = found["x"]
    if "cast" not in found.tensors:
        return x if is_float(x) else None
    up = graph.producer(x)
    if up is None or up.op != "Cast" or x.dtype != np.dtype(np.float32):
        return None
    source = up.inputs[0]
    same = source.dtype is not None and source.dtype == found["cast"].dtype
    return source if same and is_float(source) else None


def _last_axes(graph: Graph, nodes: tuple[Node, ...], rank: int) -> int:
    """How many last axes every ReduceMean of a match runs over; 0 if it is not that."""
    counts = {_axes(graph, n, rank) for n in nodes if n.op == "ReduceMean"}
    return counts.pop() if len(counts) == 1 else 0


def _axes(graph: Graph, node: Node, rank: int) -> int:
    if node.attrs.get("keepdims", 1) != 1:
        return 0
    axes = node.attrs.get("axes")
    if len(node.inputs) > 1 and node.inputs[1].name:
        if not graph.is_constant(node.inputs[1]):
            return 0
        axes = graph.values(node.inputs[1]).tolist()
    if not axes:
        return 0 if node.attrs.get("noop_with_empty_axes", 0) else rank
    found = sorted({int(a) % rank for a in axes})
    return len(found) if found == list(range(rank - len(found), rank)) else 0


def _parameter(graph: Graph, found: Match, name: str, x: Tensor, count: int) -> Tensor | None:
    """Scale or bias with the shape of the last ``count`` axes of x; ones if there is none."""
    shape = x.shape or []
    sizes = tuple(n for n in shape[len(shape) - count :] if isinstance(n, int))
    given = found.tensors.get(name)
    if len(sizes) < count:
        return None
    if given is None:
        return graph.const(f"{found.result.name}_ones", np.ones(sizes, x.dtype))
    if tuple(given.shape or ()) == sizes and given.dtype == x.dtype:
        return given
    values = graph.values(given)
    lead = max(0, values.ndim - count)
    if values.ndim > len(shape) or math.prod(values.shape[:lead]) != 1:
        return None
    own: tuple[int, ...] = values.shape[lead:]
    if any(n not in (1, s) for n, s in zip(own[::-1], sizes[::-1], strict=False)):
        return None
    full = np.broadcast_to(values.reshape(own), sizes).astype(x.dtype)
    return graph.const(given.name, full)
