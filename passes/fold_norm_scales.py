"""Fold a constant Mul, Div, Add or Sub behind a norm into its weight and bias.

Every norm ends in an affine function of its own, so a second one disappears into it::

    LayerNormalization(x, gamma, beta) * s + t   =   LayerNormalization(x, s gamma, s beta + t)

BatchNormalization, InstanceNormalization and GroupNormalization alike; RMSNormalization has no
``beta``, so only ``s`` folds.  ``s`` and ``t`` may vary along the axes of ``gamma`` only: those
that a LayerNormalization or RMSNormalization normalizes, the channels of the others.

It is how a smoothing scale gets into the norm in front (AWQ; SmoothQuant,
https://arxiv.org/abs/2211.10438), and the ``1 / sqrt(d)`` of an attention into the norm of its
queries: a scalar factor commutes with data movement, so it is carried through Reshape, Transpose,
Squeeze, Unsqueeze and Flatten.

Where it stops:

* the norm's result is a graph output, captured by a body, or read by another node (``Shape``
  aside): that reader would see ``s y + t``;
* ``gamma`` or ``beta`` is computed, or dequantized;
* the new parameter is not finite in its type: FP16 ends at 65504.

A parameter that another node reads is copied first.  Arithmetic is FP64, stored in the parameter's
type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Graph, Node
from qcompiler.linear import F64, Affine, affine_of, sole_reader, upstream, vector_of
from qcompiler.parameters import rounded, write
from qcompiler.pipeline import Effect, Pass
from qcompiler.weights import Array

_LAST_AXES = ("LayerNormalization", "RMSNormalization")
_CHANNELS = ("BatchNormalization", "GroupNormalization", "InstanceNormalization")
_GAMMA, _BETA = 1, 2


@dataclass(frozen=True)
class FoldNormScales(Pass):
    """``Norm(x, gamma, beta) * s + t -> Norm(x, s gamma, s beta + t)``."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"
    # What can go into the linear op behind goes there: its weights have per-channel scales.
    after: ClassVar[tuple[str, ...]] = (
        "fold-constants",
        "fuse-layer-norm",
        "fuse-rms-norm",
        "fold-batch-norm",
        "fold-scales",
    )

    def run(self, graph: Graph) -> int:
        """Fold in graph order, so that a chain behind one norm collapses."""
        return sum(_fold(graph, n) for n in graph.nodes)


def _fold(graph: Graph, node: Node) -> bool:
    step = affine_of(graph, node)
    if step is None or sole_reader(graph, step.data) is None:
        return False
    source = upstream(graph, step.data) if step.is_scalar_factor else step.data
    norm = None if source is None else graph.producer(source)
    if norm is None or norm.domain or norm.op not in (*_LAST_AXES, *_CHANNELS):
        return False
    # A norm keeps the shape, also where inference does not know it.
    rank = max(step.rank, len(norm.inputs[0].shape or ()) if source is step.data else 0)
    new = _parameters(graph, norm, step, rank) if norm.outputs[0] is source else None
    if new is None:
        return False
    _write(graph, norm, *new)
    graph.replace(node.outputs[0], step.data)
    return True


def _parameters(
    graph: Graph, norm: Node, step: Affine, rank: int
) -> tuple[Array | None, Array | None] | None:
    """The new ``gamma`` and ``beta``, None for one that stays; None if they cannot be had."""
    given = [t for t in norm.inputs[_GAMMA : _BETA + 1] if t.name]
    if not all(graph.is_constant(t) for t in given):
        return None
    gamma, *rest = (graph.values(t).astype(np.float64) for t in given)
    scale = None if step.scale is None else _along(norm, step.scale, rank, gamma.shape)
    shift = None if step.shift is None else _along(norm, step.shift, rank, gamma.shape)
    if (scale is None, shift is None) != (step.scale is None, step.shift is None):
        return None
    if shift is not None and norm.op == "RMSNormalization":
        return None
    factor = np.ones(()) if scale is None else scale
    beta = rest[0] if rest else None
    if beta is not None or shift is not None:
        old = np.zeros(gamma.shape) if beta is None else beta * factor
        beta = old if shift is None else old + shift
    new_gamma = rounded(gamma * factor, given[0])
    new_beta = None if beta is None else rounded(beta, given[-1])
    if new_gamma is None or (new_beta is None) != (beta is None):
        return None
    return (None if scale is None else new_gamma), new_beta


def _along(norm: Node, c: F64, rank: int, gamma: tuple[int, ...]) -> F64 | None:
    """A constant in a shape that broadcasts to that of ``gamma``; None if it varies elsewhere.

    Args:
        norm: The norm.
        c: The constant as stored, broadcast against data of that rank.
        rank: Rank of the data; 0 if unknown, which lets only 0-D constants pass.
        gamma: Shape of the weight: the last axes of the data, or ``[C]``.
    """
    if c.ndim > rank:
        return None
    if c.size == 1:
        return c.reshape(())
    if norm.op in _CHANNELS:
        return vector_of(c, rank, 1, gamma[0]) if rank > 1 and len(gamma) == 1 else None
    lead = max(0, c.ndim - len(gamma))
    own = c.shape[lead:]
    varies = math.prod(c.shape[:lead]) != 1
    if varies or any(n not in (1, g) for n, g in zip(own[::-1], gamma[::-1], strict=False)):
        return None
    return c.reshape(own)


def _write(graph: Graph, norm: Node, gamma: Array | None, beta: Array | None) -> None:
    if gamma is not None:
        write(graph, norm, _GAMMA, gamma)
    if beta is None:
        return
    if len(norm.inputs) > _BETA and norm.inputs[_BETA].name:
        write(graph, norm, _BETA, beta)
    else:
        fresh = graph.const(f"{norm.inputs[_GAMMA].name}_beta", beta)
        graph.set_inputs(norm, [*norm.inputs[:_BETA], fresh])
