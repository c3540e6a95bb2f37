"""Fuse exploded scaled dot-product attention into ``Attention``.

::

    before   S = (a Q) @ transpose(b K) * c + mask         P = Softmax(S)         Y = P @ V
    after    Y = Attention<scale = a b c>(Q, K, V, mask)

with Q ``[B, H, S, D]``, K ``[B, H, T, D]``, V ``[B, H, T, E]``; :mod:`qcompiler.attention` says
which forms are known.  The op defines the softmax of a fully masked row, which torch guards by
``Where(IsNaN(P), 0, P)``, as zero (where an unguarded one would give NaN: the only values that
change).

Legality, checked on inferred shapes: rank 4; H and D static and the same in Q, K, V (the op would
take differing heads for grouped queries; ``MatMul`` would not); one batch size; a mask whose last
axes *are* S and T (``Add`` broadcasts an axis of 1; the op pads a shorter T with minus infinity,
and ONNX Runtime 1.32 refuses a shorter S).  The op exists since opset 23 (ONNX operators,
Attention-23).

This pass is part of no default pipeline.  For TensorRT that runs ``expand-attention``, the way
back: TensorRT recognizes the exploded form itself, quantizes it, and lets it emit INT8 or FP8 for
the output projection; the op emits FP16 only, ignores Q/DQ on its inputs, and in FP32 does not
build.  Run this one for other runtimes, and never both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.attention import PATTERN, SCALED
from qcompiler.graph import Graph, Shape, Tensor
from qcompiler.match import Match, is_float, matches, put, value_of
from qcompiler.pipeline import Effect, Pass

_SWAP = (0, 1, 3, 2)


@dataclass(frozen=True)
class FuseAttention(Pass):
    """``Softmax(Q K^T scale + mask) V -> Attention(Q, K, V, mask)``, from opset 23 on."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"

    def run(self, graph: Graph) -> int:
        """Replace every attention whose shapes prove that the op means the same."""
        if graph.opset < 23:
            return 0
        return sum(_fuse(graph, found) for found in matches(graph, PATTERN))


def _fuse(graph: Graph, found: Match) -> bool:
    scale = _scale(graph, found)
    perm = None if "flat" in found.tensors else _permutation(graph, found["turned"])
    shapes = _shapes(found, perm)
    if scale is None or perm is None or shapes is None or not found.keeps_shape("scores"):
        return False
    query, key, value = shapes
    mask = found.tensors.get("bias", found.tensors.get("keep"))
    soft = graph.producer(found["soft"])
    last = soft is not None and soft.attrs.get("axis", -1) in (-1, 3)
    fits = mask is None or _mask_fits(mask, [*query[:3], key[2]])
    if not last or not fits or not _agree(query, key, value):
        return False
    inputs = [found["query"], _key(graph, found, perm, key), found["value"]]
    put(graph, found, "Attention", [*inputs, mask] if mask else inputs, {"scale": scale})
    return True


def _scale(graph: Graph, found: Match) -> float | None:
    """The product of all scales; the op needs a positive one, for it takes its root."""
    scale = 1.0
    for place in SCALED:
        for name, power in ((f"{place}_times", 1), (f"{place}_over", -1)):
            if name in found.tensors:
                scale *= (value_of(graph, found[name]) or math.nan) ** power
    return scale if 0 < scale < math.inf else None


def _permutation(graph: Graph, turned: Tensor) -> tuple[int, ...] | None:
    """How the key must be transposed for the op: as it is now, but with the last axes in order."""
    node = graph.producer(turned)
    perm = None if node is None else node.attrs.get("perm")
    if not isinstance(perm, Sequence) or len(perm) != 4:
        return None
    return tuple(int(perm[i]) for i in _SWAP)


def _shapes(found: Match, perm: tuple[int, ...] | None) -> tuple[Shape, Shape, Shape] | None:
    """Shapes of query, key (as the op sees it) and value, all of rank 4."""
    query, key, value = (found[n].shape for n in (*SCALED[:2], "value"))
    if query is None or key is None or value is None or perm is None:
        return None
    if not len(query) == len(key) == len(value) == 4 or not is_float(found["query"]):
        return None
    return query, [key[i] for i in perm], value


def _agree(query: Shape, key: Shape, value: Shape) -> bool:
    static = isinstance(query[1], int) and isinstance(query[3], int) and isinstance(value[3], int)
    heads = query[1] == key[1] == value[1]
    batch = _same(query[0], key[0]) and _same(query[0], value[0])
    return static and heads and batch and query[3] == key[3] and _same(key[2], value[2])


def _same(a: int | str | None, b: int | str | None) -> bool:
    return a is not None and a == b


def _mask_fits(mask: Tensor, scores: Shape) -> bool:
    """Whether a mask has the scores' last two axes, and broadcasts to the first two."""
    shape = mask.shape
    if shape is None or not 2 <= len(shape) <= 4:
        return False
    pairs = list(zip(shape[::-1], scores[::-1], strict=False))
    whole = all(_same(m, s) for m, s in pairs[:2])
    return whole and all(m == 1 or _same(m, s) for m, s in pairs[2:])


def _key(graph: Graph, found: Match, perm: tuple[int, ...], shape: Shape) -> Tensor:
    key = found["key"]
    if perm == (0, 1, 2, 3):
        return key
    return graph.add(
        "Transpose",
        [key],
        output=f"{key.name}_heads",
        dtype=key.dtype,
        shape=shape,
        attrs={"perm": list(perm)},
    )
