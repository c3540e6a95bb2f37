"""Write the operator ``Attention`` out.

::

    before   Y = Attention<scale = c>(Q, K, V, mask)
    after    S = (r Q) @ transpose(r K)        r = sqrt(c), without a scale c = 1 / sqrt(D)
             P = Softmax(Where(mask, S, -inf)) or Softmax(S + mask)
             Y = P @ V

with Q ``[B, H, S, D]``, K ``[B, G, T, D]``, V ``[B, G, T, E]``.  What else the op can do is written
out, too, in its own order (ONNX operators, Attention-23 and -24):

* three-dimensional inputs are cut into heads, ``[B, S, H D] -> [B, H, S, D]``, and Y put together;
* ``past_key`` and ``past_value`` are put in front of K and V, which gives ``present_*``;
* grouped queries, ``H = n G``: each head of K and V is repeated n times, by Unsqueeze, Expand and
  Reshape (with a Tile instead, or the scale behind it, TensorRT copies more);
* ``softcap``: ``a tanh(S / a)`` before the mask; ``softmax_precision``: Casts around the softmax;
* ``is_causal``, ``nonpad_kv_seqlen``, short masks, and queries that may read nothing, which the op
  defines as zero: :mod:`qcompiler.attention_mask`.

Why.  TensorRT has one kernel for either form, but it quantizes, and lets emit INT8 or FP8, only the
one that is written out (rules F02, F03, F09); the op ignores Q/DQ on its inputs, costs a kernel or
two of layout even in FP16, and does not build in FP32 (rule F11), nor with a past, a softcap or a
second output.  :mod:`qcompiler.attention` says what the written form looks like, and
``fuse-attention`` is the way back, for other runtimes: a pipeline runs one of the two at most.

Left alone: a node whose ``qk_matmul_output`` is read (nobody but a debugger does); types or ranks
that are not known; numbers of heads or their sizes that are not fixed; a V or float mask of another
type than Q; a scale that is not positive; what the specification forbids.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from onnx import helper

from qcompiler.attention_mask import BOOL, Masks, Reads, Writer, beyond, masked
from qcompiler.graph import Graph, Node, Tensor
from qcompiler.match import is_float
from qcompiler.ops import is_standard
from qcompiler.pipeline import Effect, Pass

_TURN = {"perm": [0, 2, 1, 3]}


@dataclass(frozen=True)
class ExpandAttention(Pass):
    """``Attention(Q, K, V, mask) -> Softmax(Q K^T scale + mask) V``, at opset 23 and 24."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"
    after: ClassVar[tuple[str, ...]] = ("lift-constants", "fold-constants", "convert-opset")

    def run(self, graph: Graph) -> int:
        """Write out every Attention of which enough is known; count them."""
        if graph.opset not in (23, 24):
            return 0
        masks, count = Masks(graph), 0
        for node in graph.nodes:
            found = _operator(node) if node.op == "Attention" and is_standard(node) else None
            if found is not None:
                _expand(graph, found, masks)
                count += 1
        return count


@dataclass(frozen=True, eq=False)
class _Operator:
    """One Attention.

    Attributes:
        node: The node.
        inputs: Its seven inputs, None for an omitted one.
        heads: H of the queries, G of the keys, G of the values.
        sizes: D of a query, D of a key, E of a value.
    """

    node: Node
    inputs: tuple[Tensor | None, ...]
    heads: tuple[int, int, int]
    sizes: tuple[int, int, int]

    def data(self, index: int) -> Tensor:
        """Query, key or value."""
        tensor = self.inputs[index]
        assert tensor is not None
        return tensor

    @property
    def flat(self) -> bool:
        """Whether the heads are side by side in one axis."""
        return len(self.data(0).shape or ()) == 3

    @property
    def repeats(self) -> int:
        """Query heads that share one key head."""
        return self.heads[0] // self.heads[1]

    @property
    def root(self) -> float:
        """Of the scale: what queries and keys are multiplied by; NaN if there is none."""
        scale = float(self.node.attrs.get("scale", 1 / math.sqrt(self.sizes[0])))
        return math.sqrt(scale) if 0 < scale < math.inf else math.nan


# ---------------------------------------------------------------------- legality


def _operator(node: Node) -> _Operator | None:
    """What a node is, if all that must be known is known, and as the specification wants it."""
    given = [t if t.name else None for t in node.inputs]
    inputs = (*given, *[None] * (7 - len(given)))
    debugged = len(node.outputs) > 3 and bool(node.outputs[3].name)
    data = [t for t in inputs[:3] if t is not None and is_float(t, double=True)]
    if debugged or len(data) < 3 or len({t.dtype for t in data}) > 1:
        return None
    ranks = {len(t.shape or ()) for t in data}
    found = None
    if ranks == {4}:
        found = _of_four(node, inputs, data)
    elif ranks == {3}:
        found = _of_three(node, inputs, data)
    return found if found is not None and _fits(found) else None


def _of_four(node: Node, inputs: tuple[Tensor | None, ...], data: list[Tensor]) -> _Operator | None:
    shapes = [t.shape or [] for t in data]
    heads = [s[1] for s in shapes if isinstance(s[1], int)]
    sizes = [s[3] for s in shapes if isinstance(s[3], int)]
    said = [node.attrs.get(f"{n}_num_heads", 0) for n in ("q", "kv", "kv")]
    if len(heads) < 3 or len(sizes) < 3:
        return None
    if any(a not in (0, b) for a, b in zip(said, heads, strict=True)):
        return None
    return _Operator(node, inputs, (heads[0], heads[1], heads[2]), (sizes[0], sizes[1], sizes[2]))


def _of_three(
    node: Node, inputs: tuple[Tensor | None, ...], data: list[Tensor]
) -> _Operator | None:
    query, key = (int(node.attrs.get(f"{n}_num_heads", 0)) for n in ("q", "kv"))
    widths = [s for t in data if isinstance(s := (t.shape or [None])[-1], int)]
    if query < 1 or key < 1 or len(widths) < 3:
        return None
    heads = (query, key, key)
    if any(w % h for w, h in zip(widths, heads, strict=True)):
        return None
    return _Operator(node, inputs, heads, (widths[0] // query, widths[1] // key, widths[2] // key))


def _fits(found: _Operator) -> bool:
    query, key, value = found.heads
    grouped = key == value and min(found.heads) > 0 and query % key == 0
    sized = found.sizes[0] == found.sizes[1] and min(found.sizes) > 0
    return grouped and sized and found.root > 0 and _past_fits(found) and _mask_fits(found)


def _past_fits(found: _Operator) -> bool:
    past = [t for t in found.inputs[4:6] if t is not None]
    alike = all(t.dtype == found.data(0).dtype and len(t.shape or ()) == 4 for t in past)
    filled = found.inputs[6]
    return alike and len(past) in (0, 2) and (filled is None or not past)


def _mask_fits(found: _Operator) -> bool:
    mask = found.inputs[3]
    if mask is None:
        return True
    typed = mask.dtype is not None and mask.dtype in (BOOL, found.data(0).dtype)
    return typed and 2 <= len(mask.shape or ()) <= 4 and 0 not in (mask.shape or ())


# ---------------------------------------------------------------------- rewriting


def _expand(graph: Graph, found: _Operator, masks: Masks) -> None:
    node = found.node
    result = node.outputs[0]
    write = Writer(graph, node.name or result.name, found.data(0).dtype)
    query, key, value = (_heads(write, found, i) for i in range(3))
    presents = [_joined(write, found.inputs[4 + i], t) for i, t in enumerate((key, value))]
    causal = bool(node.attrs.get("is_causal", 0))
    said = Reads(query, key, presents[0], found.inputs[3], causal, found.inputs[4], found.inputs[6])
    mask = masks.of(said)
    keys, values = _scaled(write, found, presents[0], "key"), presents[1]
    if mask is not None and mask.sink:
        keys, values = beyond(write, keys, 2), beyond(write, values, 2)
    keys, values = _repeated(write, found, keys, 1), _repeated(write, found, values, 2)
    scores = _scores(write, found, query, keys)
    if mask is not None:
        scores = masked(write, mask, scores)
    attended = graph.add(
        "MatMul",
        [_softmax(write, node, scores), values],
        output=result.name,
        name=node.name or result.name,
        dtype=result.dtype,
        shape=[*(query.shape or [])[:3], found.sizes[2]],
    )
    for old, new in zip(node.outputs[1:3], presents, strict=False):
        if old.name:
            graph.replace(old, new)
    graph.replace(result, _together(write, found, attended) if found.flat else attended)


def _heads(write: Writer, found: _Operator, index: int) -> Tensor:
    """``[B, S, H D] -> [B, H, S, D]``; what has heads already stays."""
    source = found.data(index)
    if not found.flat:
        return source
    name = ("query", "key", "value")[index]
    tail = [found.heads[index], found.sizes[index]]
    lead = (source.shape or [])[:2]
    wanted = write.const(f"{name}_split", [0, 0, *tail])
    split = write("Reshape", [source, wanted], f"{name}_apart", shape=[*lead, *tail])
    shape = [lead[0], tail[0], lead[1], tail[1]]
    return write("Transpose", [split], name, _TURN, shape=shape)


def _together(write: Writer, found: _Operator, attended: Tensor) -> Tensor:
    """``[B, H, S, E] -> [B, S, H E]``."""
    turned = write("Transpose", [attended], "turned", _TURN)
    wanted = write.const("joined", [0, 0, found.heads[0] * found.sizes[2]])
    shape = found.node.outputs[0].shape
    return write("Reshape", [turned, wanted], "together", shape=shape)


def _joined(write: Writer, past: Tensor | None, new: Tensor) -> Tensor:
    """What came before, and what is new."""
    if past is None:
        return new
    parts = [s[2] if (s := t.shape) else None for t in (past, new)]
    known = [n for n in parts if isinstance(n, int)]
    shape = [*(new.shape or [])]
    shape[2] = sum(known) if len(known) == len(parts) else None
    return write("Concat", [past, new], "present", {"axis": 2}, shape=shape)


def _scaled(write: Writer, found: _Operator, source: Tensor, name: str) -> Tensor:
    if found.root == 1:
        return source
    root = write.const(f"{name}_root", found.root, write.dtype)
    return write("Mul", [source, root], f"{name}_scaled", shape=source.shape)


def _repeated(write: Writer, found: _Operator, source: Tensor, index: int) -> Tensor:
    """``[B, G, T, D] -> [B, H, T, D]``, each head n times."""
    if found.repeats == 1:
        return source
    shape = source.shape or []
    length = shape[2] if isinstance(shape[2], int) else -1
    apart = write("Unsqueeze", [source, write.const("axes", [2])], "apart")
    often = write("Expand", [apart, write.const("often", [1, 1, found.repeats, 1, 1])], "often")
    wanted = write.const("heads", [0, found.heads[0], length, found.sizes[index]])
    return write(
        "Reshape", [often, wanted], "repeated", shape=[shape[0], found.heads[0], *shape[2:]]
    )


def _scores(write: Writer, found: _Operator, query: Tensor, key: Tensor) -> Tensor:
    turned = write("Transpose", [key], "key_turned", {"perm": [0, 1, 3, 2]})
    scores = write("MatMul", [_scaled(write, found, query, "query"), turned], "scores")
    cap = float(found.node.attrs.get("softcap", 0.0))
    if cap <= 0:
        return scores
    limit = write.const("cap", cap, write.dtype)
    bounded = write("Tanh", [write("Div", [scores, limit], "capped")], "bounded")
    return write("Mul", [bounded, limit], "softcap")


def _softmax(write: Writer, node: Node, scores: Tensor) -> Tensor:
    wanted = _precision(node, scores)
    if wanted is not None:
        number = helper.np_dtype_to_tensor_dtype(wanted)
        scores = write("Cast", [scores], "precise", {"to": number}, dtype=wanted)
    chances = write("Softmax", [scores], "softmax", {"axis": -1}, dtype=scores.dtype)
    if wanted is None:
        return chances
    back = helper.np_dtype_to_tensor_dtype(np.dtype(write.dtype))
    return write("Cast", [chances], "probabilities", {"to": back})


def _precision(node: Node, scores: Tensor) -> np.dtype[Any] | None:
    """The type of the softmax, if it is not that of the scores."""
    number = int(node.attrs.get("softmax_precision", 0))
    wanted = helper.tensor_dtype_to_np_dtype(number) if number else scores.dtype
    return None if wanted == scores.dtype else wanted
