"""Take query, key and value apart between their Reshape and their Transpose.

One projection gives query, key and value side by side, ``y [..., 3 H D]``.  Exporters cut it up in
three ways, and this pass writes all of them as a fourth::

    permute first    q, k, v = Squeeze(Split<axis = 0>(Transpose<2 0 3 1 4>(Reshape(y))))
    unbind first     q = Transpose<0 2 1 3>(Squeeze(Split<axis = 2>(Reshape(y))[0])), k, v alike
    chunk first      q = Transpose<0 2 1 3>(Reshape(Split<axis = -1>(y)[0])), k and v alike

    after            h = Reshape(y, [B, S, 3, H, D])
                     q = Squeeze(Transpose<2 0 3 1 4>(Split<axis = 2>(h)[0])), k and v alike
             (and a last Transpose of the part that another order was asked for: K^T)

The columns of ``y`` are numbered ``(3, H, D)``, the last fastest, so part i is the columns from
``i H D`` on, wherever it is cut off; and a Transpose of parts of a tensor gives parts of its
Transpose.  Nothing is computed, so the results are equal to the bit.

Why.  TensorRT pushes a ``Split`` of equal parts that it meets in the three other forms back
through the projection.  If it can, it then joins the three products again, but their bias, Reshape
and Transpose are three kernels instead of one; where it cannot join them (FP8 on compute capability
12.0) three products remain; and with a weight scale for each channel they run in float on
dequantized weights (rule D06; lint TRT063).  In this form the ``Split`` stays where it is: two
kernels less an attention in every format, four on 12.0 in FP8 (seen in builds of tensorrt-rtx
1.7.1).

Legality: the lengths behind the cut are known, and their product is the width of a part; where the
chunks are cut first, all are reshaped alike; what reads the uncut tensor takes single parts, by
``Split`` or by ``Gather`` with one constant index; and no tensor in between is a graph output,
captured by a body, or read by anything else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.cut import cut, squeeze
from qcompiler.graph import Graph, Node, Tensor
from qcompiler.heads import Perm, heads_of, perm_of, sole, tail_of
from qcompiler.match import value_of
from qcompiler.ops import is_standard
from qcompiler.pipeline import Effect, Pass


@dataclass(frozen=True)
class SplitHeads(Pass):
    """``Split(Transpose(h)) -> Transpose(Split(h))`` with ``h = Reshape(y)``, part by part."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"
    after: ClassVar[tuple[str, ...]] = (
        "lift-constants",
        "fold-constants",
        "convert-opset",
        "fold-scales",
        "merge-siblings",
    )

    def run(self, graph: Graph) -> int:
        """Rewrite every packed projection; count the projections."""
        count = 0
        for node in graph.nodes:
            if not is_standard(node) or node.op not in ("Reshape", "Split"):
                continue
            if node.op == "Split":
                found = _chunked(graph, node)
            else:
                found = _permuted(graph, node) or _unbound(graph, node)
            if found is not None:
                _rewrite(graph, found)
                count += 1
        return count


@dataclass(frozen=True, eq=False)
class _Part:
    """One part: its number, how it is transposed without the packed axis, and what it becomes."""

    number: int
    perm: Perm
    result: Tensor


@dataclass(frozen=True, eq=False)
class _Packed:
    """A tensor with one axis for the parts, ``[..., P, T...]``.

    Attributes:
        tensor: The packed tensor; of a projection that is cut first, the uncut ``[..., P T]``.
        axis: Of P.
        count: P.
        parts: What is made of it.
        reshape: The Reshape of a chunk, if chunks are cut first.
    """

    tensor: Tensor
    axis: int
    count: int
    parts: tuple[_Part, ...]
    reshape: Node | None = None


# ---------------------------------------------------------------------- forms


def _permuted(graph: Graph, reshape: Node) -> _Packed | None:
    """Reshape, Transpose, then single parts."""
    packed = reshape.outputs[0]
    axis, turn = _packed_axis(reshape), sole(graph, packed, "Transpose")
    if axis is None or turn is None or not packed.shape:
        return None
    perm = perm_of(turn)
    taken = _taken(graph, turn.outputs[0], perm.index(axis))
    count = packed.shape[axis]
    if not taken or not isinstance(count, int):
        return None
    rest = tuple(p - (p > axis) for p in perm if p != axis)
    parts = tuple(_Part(number, rest, result) for number, result in taken)
    return _Packed(packed, axis, count, parts)


def _unbound(graph: Graph, reshape: Node) -> _Packed | None:
    """Reshape, single parts, then a Transpose of each."""
    packed, axis = reshape.outputs[0], _packed_axis(reshape)
    taken = None if axis is None else _taken(graph, packed, axis)
    if axis is None or not taken or not packed.shape:
        return None
    parts = []
    for number, part in taken:
        turn = sole(graph, part, "Transpose")
        if turn is None:
            return None
        parts.append(_Part(number, perm_of(turn), turn.outputs[0]))
    count = packed.shape[axis]
    return _Packed(packed, axis, count, tuple(parts)) if isinstance(count, int) else None


def _chunked(graph: Graph, split: Node) -> _Packed | None:
    """Chunks of the last axis, then a Reshape and a Transpose of each."""
    source = split.inputs[0]
    rank = len(source.shape or ())
    if len(split.outputs) < 2 or split.attrs.get("axis", 0) not in (-1, rank - 1):
        return None
    heads = heads_of(graph, split.outputs)
    if heads is None:
        return None
    parts = tuple(_Part(i, perm_of(t), t.outputs[0]) for i, (_, t) in enumerate(heads))
    return _Packed(source, rank - 1, len(parts), parts, heads[0][0])


def _packed_axis(reshape: Node) -> int | None:
    """The first axis that a Reshape makes of the last one, if it makes several and no others."""
    before, tail = reshape.inputs[0].shape, tail_of(reshape)
    return len(before) - 1 if before and len(tail) > 1 and tail[0] > 1 else None


def _taken(graph: Graph, packed: Tensor, axis: int) -> list[tuple[int, Tensor]] | None:
    """The parts that the readers of a tensor take; None if one reads something else."""
    found: list[tuple[int, Tensor]] = []
    for user, slot in graph.users(packed):
        fits = slot == 0 and is_standard(user) and not graph.is_pinned(packed)
        taken = _taken_by(graph, user, axis) if fits else None
        if taken is None:
            return None
        found += taken
    return found


def _taken_by(graph: Graph, user: Node, axis: int) -> list[tuple[int, Tensor]] | None:
    shape = user.inputs[0].shape or ()
    length = shape[axis] if axis < len(shape) else None
    if not isinstance(length, int) or user.attrs.get("axis", 0) % len(shape) != axis:
        return None
    if user.op == "Gather":
        index = value_of(graph, user.inputs[1])
        single = index is not None and user.inputs[1].shape == []
        return [(int(index or 0) % length, user.outputs[0])] if single else None
    return _squeezed(graph, user, axis) if user.op == "Split" else None


def _squeezed(graph: Graph, split: Node, axis: int) -> list[tuple[int, Tensor]] | None:
    """The results of a Split into ones whose only readers squeeze the axis away."""
    found: list[tuple[int, Tensor]] = []
    for number, part in enumerate(split.outputs):
        drop = sole(graph, part, "Squeeze")
        if drop is None or not part.shape or part.shape[axis] != 1:
            return None
        axes: Sequence[int] = drop.attrs.get("axes", ())
        if len(drop.inputs) > 1 and graph.is_constant(drop.inputs[1]):
            axes = graph.values(drop.inputs[1]).reshape(-1).tolist()
        if [a % len(part.shape) for a in axes] != [axis]:
            return None
        found.append((number, drop.outputs[0]))
    return found


# ---------------------------------------------------------------------- rewriting


def _rewrite(graph: Graph, found: _Packed) -> None:
    packed = _pack(graph, found) if found.reshape is not None else found.tensor
    names = {p.number: p.result.name for p in found.parts}
    widths = [(1, f"{names.get(i, packed.name)}_part") for i in range(found.count)]
    cuts = cut(graph, packed, found.axis, widths)
    perm = Counter(p.perm for p in found.parts).most_common(1)[0][0]
    for part in found.parts:
        heads = _heads(graph, cuts[part.number], found.axis, perm, part.result)
        if part.perm != perm:
            order = tuple(perm.index(p) for p in part.perm)
            heads = _transposed(graph, heads, order, part.result.name)
        graph.replace(part.result, heads)


def _heads(graph: Graph, part: Tensor, axis: int, perm: Perm, result: Tensor) -> Tensor:
    """Transpose a part, its packed axis to the front, and drop that axis only then."""
    whole = (axis, *(p + (p >= axis) for p in perm))
    moved = _transposed(graph, part, whole, f"{result.name}_moved")
    return squeeze(graph, moved, 0, f"{result.name}_heads")


def _transposed(graph: Graph, source: Tensor, perm: Perm, name: str) -> Tensor:
    shape = source.shape
    return graph.add(
        "Transpose",
        [source],
        output=name,
        dtype=source.dtype,
        shape=None if shape is None else [shape[p] for p in perm],
        attrs={"perm": list(perm)},
    )


def _pack(graph: Graph, found: _Packed) -> Tensor:
    """Reshape the uncut projection as its chunks were reshaped, with an axis for their number."""
    reshape = found.reshape
    assert reshape is not None
    wanted, after = reshape.inputs[1], reshape.outputs[0].shape or []
    tail = np.array([found.count, *tail_of(reshape)], np.int64)
    name = f"{wanted.name}_packed"
    if graph.is_constant(wanted):
        shape = graph.const(name, np.concatenate([graph.values(wanted)[: found.axis], tail]))
    else:
        lead = graph.const(f"{name}_lead", np.arange(found.axis, dtype=np.int64))
        kept = graph.add("Gather", [wanted, lead], output=f"{name}_lead_of", dtype=tail.dtype)
        ends = [kept, graph.const(f"{name}_tail", tail)]
        shape = graph.add("Concat", ends, output=name, dtype=tail.dtype, attrs={"axis": 0})
    return graph.add(
        "Reshape",
        [found.tensor, shape],
        output=f"{found.tensor.name}_packed",
        dtype=found.tensor.dtype,
        shape=[*after[: found.axis], *tail.tolist()],
        attrs=reshape.attrs,
    )
