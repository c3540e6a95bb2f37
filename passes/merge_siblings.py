"""Let linear layers that read the same tensor be one layer, with a ``Split`` behind it.

::

    before   q = x W_q + b_q      k = x W_k + b_k      v = x W_v + b_v
    after    q, k, v = Split(x [W_q | W_k | W_v] + [b_q | b_k | b_v])

Every column of a product depends on its own column of the weight only, so the parts hold the same
numbers.  ``x`` is read once instead of three times, one wide product fills a GPU better than three
narrow ones, and what follows the product (scale, bias, the transposes of the heads) is one kernel
instead of three.  Query, key and value of an attention are such siblings, gate and up of a gated
MLP are others (TensorRT-LLM's ``fuse_qkv`` and ``fuse_gate_mlp``).  TensorRT joins siblings itself
in most formats, but not what follows them; FP8 on compute capability 12.0 it does not join at all.

Quantized, a merged weight has one scale for each output channel, as its parts had: the scales are
joined like the columns, and nothing is lost.  With one scale for the whole weight FP8 loses next to
nothing, for a float format has its digits at any magnitude; but INT8 rounds the narrow part with
the step of the wide one (a ratio of 4 between their ranges triples the error).  ``keeps_accuracy``
says so; whoever runs the pass for a target that has only such scales asks it.  For TensorRT this
means that the ``Split`` must stay where it is, because with a scale for each channel a ``Split``
that is pushed back through the product leaves it in float (rule D06; lint TRT063).  It stays if the
parts

* differ in width (grouped queries), or
* are computed with as they are (gate and up), or
* are reshaped alike and transposed (the heads of an attention): ``split-heads``, which runs next,
  brings these into the one form that stays.

Legality: MatMul by a constant matrix on the right, with or without the Add of a constant bias, or
Gemm with ``alpha = beta = 1`` and a bias along the columns; the same kind, element type and K; and

* no weight that something else reads, for the merge would store it twice;
* not what decides (a router's or classifier's scores, read by Softmax, TopK or ArgMax, or returned
  by the graph), nor a part of fewer than ``least`` columns: these stay in 16 bits when their
  siblings are quantized;
* not equal parts with anything else behind them than what is said above.

A sibling without a bias gets zeros if another one has some.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.cut import cut
from qcompiler.graph import Graph, Tensor, label
from qcompiler.heads import heads_of
from qcompiler.linear import Linear, linear_of, vector_of
from qcompiler.ops import ELEMENTWISE
from qcompiler.pipeline import Effect, Pass
from qcompiler.weights import Array

_DECIDES = frozenset({"ArgMax", "Hardmax", "LogSoftmax", "Softmax", "TopK"})


@dataclass(frozen=True)
class MergeSiblings(Pass):
    """``x W_1 + b_1, x W_2 + b_2 -> Split(x [W_1 | W_2] + [b_1 | b_2])``.

    Attributes:
        least: Layers with fewer output channels stay alone.
    """

    least: int = 16

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"
    after: ClassVar[tuple[str, ...]] = (
        "fold-constants",
        "fold-batch-norm",
        "fold-scales",
        "split-shared-weights",
    )

    def run(self, graph: Graph) -> int:
        """Merge every group of siblings; count the layers that are gone."""
        groups: dict[Hashable, list[Linear]] = {}
        for node in graph.nodes:
            linear = linear_of(graph, node)
            if linear is not None and self._may_merge(graph, linear):
                groups.setdefault(_kind(linear), []).append(linear)
        siblings = [g for g in groups.values() if len(g) > 1 and _stays(graph, g)]
        for group in siblings:
            _merge(graph, group)
        return sum(len(group) - 1 for group in siblings)

    def _may_merge(self, graph: Graph, linear: Linear) -> bool:
        node, weight = linear.node, linear.node.inputs[1]
        if linear.is_convolution or linear.channels(0) < self.least:
            return False
        if len(graph.users(weight)) > 1 or graph.is_pinned(weight):
            return False
        if {node.attrs.get(a, 1.0) for a in ("alpha", "beta")} != {1.0}:
            return False
        return not _decides(graph, linear.result) and _bias_of(graph, linear) is not None


def keeps_accuracy(storage: str, *, per_channel: bool) -> bool:
    """Whether siblings may share one weight once it is quantized.

    Args:
        storage: Format of the weight: ``int8``, ``fp8_e4m3``.
        per_channel: Whether each output channel has its own scale.
    """
    return per_channel or storage.startswith("fp8")


def _decides(graph: Graph, result: Tensor) -> bool:
    """Whether a result is scores, rather than one more layer's input."""
    return graph.is_output(result) or any(n.op in _DECIDES for n, _ in graph.users(result))


def _stays(graph: Graph, group: Sequence[Linear]) -> bool:
    """Whether compilers leave a Split of these results where it is."""
    results = [m.result for m in group]
    if len({m.channels(0) for m in group}) > 1 or heads_of(graph, results) is not None:
        return True
    return all(n.op in ELEMENTWISE for result in results for n, _ in graph.users(result))


def _kind(linear: Linear) -> Hashable:
    """What siblings have in common."""
    node = linear.node
    turns = tuple(int(node.attrs.get(a, 0)) for a in ("transA", "transB"))
    return id(node.inputs[0]), node.op, turns, str(node.inputs[1].dtype), linear.channels(1)


def _bias_of(graph: Graph, linear: Linear) -> Array | None:
    """The bias of each output channel, zeros without one; None if it is not along the channels."""
    count, dtype = linear.channels(0), linear.node.inputs[1].dtype
    if linear.bias is None:
        return np.zeros(count, dtype)
    node, slot = linear.bias
    constant = node.inputs[slot]
    if not graph.is_constant(constant) or constant.dtype != dtype:
        return None
    values = graph.values(constant)
    vector = vector_of(values, linear.result_rank(), -1, count)
    return None if vector is None else np.broadcast_to(vector, (count,))


def _merge(graph: Graph, group: Sequence[Linear]) -> None:
    first = group[0]
    node, axis = first.node, first.weight_axis(0)
    name = " + ".join(label(m.node) for m in group)
    weights = [graph.values(m.node.inputs[1]) for m in group]
    weight = graph.const(f"{node.inputs[1].name}_merged", np.concatenate(weights, axis=axis))
    bias = _merged_bias(graph, group)
    fused = [bias] if bias is not None and node.op == "Gemm" else []
    result = graph.add(
        node.op,
        [node.inputs[0], weight, *fused],
        output=f"{node.outputs[0].name}_merged",
        name=name,
        dtype=node.outputs[0].dtype,
        attrs=node.attrs,
    )
    if bias is not None and not fused:
        add = next(m.bias[0] for m in group if m.bias is not None)
        result = graph.add(
            "Add",
            [result, bias],
            output=f"{add.outputs[0].name}_merged",
            dtype=result.dtype,
        )
    parts = cut(graph, result, -1, [(m.channels(0), f"{m.result.name}_part") for m in group])
    for member, part in zip(group, parts, strict=True):
        graph.replace(member.result, part)


def _merged_bias(graph: Graph, group: Sequence[Linear]) -> Tensor | None:
    given = [m.bias for m in group if m.bias is not None]
    if not given:
        return None
    node, slot = given[0]
    vectors = [_bias_of(graph, m) for m in group]
    whole = np.concatenate([v for v in vectors if v is not None])
    return graph.const(f"{node.inputs[slot].name}_merged", whole)
