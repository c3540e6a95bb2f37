"""Drop the guard that torch puts behind the softmax of a masked attention.

::

    before   P = Softmax(S + mask)        Y = Where(IsNaN(P), 0, P) @ V
    after    Y = Softmax([S + mask | sink]) @ [V; 0]        S = Q @ [K^T | 0]

A query whose mask hides every key has a softmax of minus infinities, which is NaN, and
``F.scaled_dot_product_attention`` defines its result as zero.  Exporters write the guard.  Its job
is done as well by one more key, zero like its value, that such queries alone may read
(:mod:`qcompiler.attention_mask` has the algebra), or by nothing, where a constant mask leaves every
query something to read.  A Boolean mask that became a bias, ``S + Where(keep, 0, -inf)``, selects
the scores itself, ``Where(keep, S, -inf)``: the same, and no bias is stored.

Why.  With Q/DQ on the probabilities TensorRT fuses attention into one kernel only if the softmax
stands right in front of them (rules F02, F03): three layers under one mask are 28 kernels with the
guard and 20 without, in FP16 17 and 18; TorchScript's bias costs seven kernels more (recorded
builds, tensorrt-rtx 1.7.1).

Legality: four axes; the mask's last axis is that of the keys (one column would be broadcast), and
nothing reads what is between.  Scores that are NaN or infinite themselves give zero before and NaN
after: what makes them is no mask.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.attention import PATTERN
from qcompiler.attention_mask import BOOL, Masks, Writer, beyond, masked
from qcompiler.graph import Graph, Node, Tensor
from qcompiler.match import Match, is_float, match, matches, number, op, put, var
from qcompiler.pipeline import Effect, Pass

_BIAS = op("Where")(var("keep"), number(0.0), number(-math.inf))


@dataclass(frozen=True)
class DropNanGuards(Pass):
    """``Where(IsNaN(P), 0, P) V -> [P | sink] [V; 0]``, the sink for queries without a key."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"
    after: ClassVar[tuple[str, ...]] = ("lift-constants", "fold-constants", "convert-opset")

    def run(self, graph: Graph) -> int:
        """Rewrite every guarded attention whose mask is known to have a column for each key."""
        if graph.opset < 18:  # ReduceMax-18 made an input of its axes.
            return 0
        masks = Masks(graph)
        # All at once: what turns the keys is part of a match, and stays.
        return sum(_drop(graph, found, masks) for found in list(matches(graph, PATTERN)))


def _drop(graph: Graph, found: Match, masks: Masks) -> bool:
    scores, soft = (graph.producer(found[n]) for n in ("scores", "soft"))
    mask = found.tensors.get("bias", found.tensors.get("keep"))
    if scores is None or soft is None or mask is None or found.node.inputs[0] is found["soft"]:
        return False
    mask = _selected(graph, mask)
    if not _fits(found, scores, soft, mask):
        return False
    made = masks.sunk(mask)
    write = Writer(graph, found.result.name, found.result.dtype)
    sides = scores.inputs[1], found["value"]
    if made.sink:
        # The compiler joins the turns; attention is known by the one in front of the product.
        keys = beyond(write, _turned(write, sides[0]), 2)
        sides = _turned(write, keys), beyond(write, sides[1], 2)
    product = write("MatMul", [scores.inputs[0], sides[0]], "scores", name=scores.name)
    for name, kind in (("score_times", "Mul"), ("score_over", "Div")):
        if name in found.tensors:
            product = write(kind, [product, found[name]], "scaled")
    chances = write("Softmax", [masked(write, made, product)], "softmax", {"axis": -1})
    put(graph, found, "MatMul", [chances, sides[1]])
    return True


def _turned(write: Writer, keys: Tensor) -> Tensor:
    shape = keys.shape or []
    swapped = [*shape[:2], *shape[:1:-1]]
    return write("Transpose", [keys], "turned", {"perm": [0, 1, 3, 2]}, shape=swapped)


def _selected(graph: Graph, mask: Tensor) -> Tensor:
    """The Boolean tensor that a bias was made of, or the mask."""
    node = graph.producer(mask)
    made = match(graph, _BIAS, node) if node is not None and node.op == "Where" else None
    return made["keep"] if made and made["keep"].shape == mask.shape else mask


def _fits(found: Match, scores: Node, soft: Node, mask: Tensor) -> bool:
    keys, value = scores.inputs[1].shape, found["value"].shape
    if not keys or not value or len(keys) != 4 or len(value) != 4 or not mask.shape:
        return False
    typed = mask.dtype == BOOL or mask.dtype == found.result.dtype
    whole = keys[3] is not None and mask.shape[-1] == keys[3]
    axis = soft.attrs.get("axis", -1) in (-1, 3)
    return typed and whole and axis and is_float(found.result) and found.keeps_shape("scores")
