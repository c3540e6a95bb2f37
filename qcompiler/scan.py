"""Graph + recipe + target -> points: which tensors may be quantized, and which must share a scale.

Placement is what TensorRT fuses and what transformers survive:

* both operands of Conv, ConvTranspose, Gemm and MatMul, or neither (rule D01); the activation's
  pair sits at the input of the operator, behind data movement, so nothing stands between a
  convolution and its activation function (rules D20, D21);
* of a residual Add in a convolutional network the skip branch only: the other operand is the
  convolution that the Add fuses into (rules E04-E06); an Add that no convolution feeds (a
  transformer's residual stream, an attention mask) is never touched (rule F07);
* both products of an attention where the target has one kernel for it, else none: query, key,
  value, probabilities, and the result in front of its projection (rules F02, F18);
* nothing inside norms, activations, softmax or squeeze-excite gates (rules E09, E13, F14): those
  operators have no weight slot, and gates are recognised by their structure;
* one tensor, one scale, whoever reads it (rule E15); tensors that are the same values moved about,
  and all inputs of a Concat with its output, share one (rules E01, E07).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qcompiler import ops, roles, run_time
from qcompiler.attention import Attention, attentions
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.groups import shared_scales
from qcompiler.plan import Point, Points, Slot, Storage
from qcompiler.recipe import Recipe
from qcompiler.residual import skips
from qcompiler.targets.base import Layer, Target

_RESIDUAL = Layer("Add", "residual", 0, 0)
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


def scan(
    graph: Graph, recipe: Recipe, target: Target, leave: Mapping[str, str] | None = None
) -> Points:
    """Propose what to quantize; the graph is not changed.

    Args:
        graph: Prepared graph with inferred shapes.
        recipe: What the user wants.
        target: What the machine can do.
        leave: Nodes that stay in float whatever the target can do, and why.

    Returns:
        Points in graph order, and a reason for every linear operator left in float.
    """
    found = _Found(left=leave or {})
    for node in graph.nodes:
        reason = _propose(graph, node, recipe, target, found)
        if reason:
            found.skipped[label(node)] = reason
    _propose_attentions(graph, recipe, target, found)
    if target.allows(_RESIDUAL, recipe.rows, recipe.format, recipe.scales).ok:
        for tensor, slot in skips(graph, found.nodes):
            found.activations.setdefault(tensor, []).append(slot)
    found.activations = _in_graph_order(graph, found.activations)
    groups = shared_scales(graph, list(found.activations))
    activation = (
        Storage(target.activation_format, None, target.symmetric)
        if recipe.format == "int8"
        else Storage(recipe.format)
    )
    activations = tuple(
        Point(
            t,
            tuple(slots),
            found.dynamic.get(t, activation),
            groups[t],
            _dtype(graph, t),
            found.fixed.get(t),
        )
        for t, slots in found.activations.items()
    )
    weights = tuple(
        Point(
            w.tensor,
            tuple(w.slots),
            w.storage,
            w.tensor,
            _dtype(graph, w.tensor),
        )
        for w in found.weights.values()
    )
    return Points(
        model_digest(graph),
        target.name,
        recipe.name,
        activations,
        weights,
        found.skipped,
        found.needs,
    )


@dataclass
class _Weight:
    tensor: str
    storage: Storage
    slots: list[Slot] = field(default_factory=list)


@dataclass
class _Found:
    activations: dict[str, list[Slot]] = field(default_factory=dict)
    weights: dict[tuple[str, Storage], _Weight] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    nodes: set[str] = field(default_factory=set)
    needs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    left: Mapping[str, str] = field(default_factory=dict)
    fixed: dict[str, float] = field(default_factory=dict)
    dynamic: dict[str, Storage] = field(default_factory=dict)


def _in_graph_order(graph: Graph, slots: dict[str, list[Slot]]) -> dict[str, list[Slot]]:
    """Tensors by their first reader, readers by their place; skips were found after the rest."""
    place = {label(node): i for i, node in enumerate(graph.nodes)}
    for readers in slots.values():
        readers.sort(key=lambda slot: (place[slot.node], slot.index))
    return dict(sorted(slots.items(), key=lambda item: place[item[1][0].node]))


def _propose(graph: Graph, node: Node, recipe: Recipe, target: Target, found: _Found) -> str:
    """Add the operands of one node to the points, or say why not; empty if there is no question."""
    if graph.has_body(node):
        return "what is in a sub-graph is not quantized"
    if ops.is_standard(node) and node.op in _RECURRENT:
        return "recurrent operators have no Q/DQ form"
    if not ops.is_weighted(node):
        return ""
    slot = ops.weight_slot(graph, node)
    if slot is None:
        return _both_computed(graph, node)
    data = node.inputs[1 - slot if node.op == "MatMul" else 0]
    weight = node.inputs[slot]
    reason = _operands_reason(graph, data, weight) or _excluded(graph, node, recipe, found.left)
    if not reason and not recipe.heads:
        reason = roles.kept(graph, node, slot)
    reason = reason or run_time.objection(graph, node, slot, recipe)
    if reason:
        return reason
    layer = _layer(graph, node, slot, data)
    verdict = target.allows(layer, recipe.rows, recipe.format, recipe.scales)
    if not verdict.ok or verdict.row is None:
        return verdict.why
    storage = run_time.weight_storage(node, slot, recipe, verdict.row.granularity)
    found.weights.setdefault((weight.name, storage), _Weight(weight.name, storage)).slots.append(
        Slot(label(node), slot, "weight")
    )
    dynamic = run_time.activation_storage(node, slot, recipe)
    if dynamic is not None:
        found.dynamic[data.name] = dynamic
    index = 1 - slot if node.op == "MatMul" else 0
    found.activations.setdefault(data.name, []).append(Slot(label(node), index, "activation"))
    found.nodes.add(label(node))
    return ""


def _excluded(graph: Graph, node: Node, recipe: Recipe, left: Mapping[str, str]) -> str:
    if not recipe.quantize:
        return f"the recipe {recipe.name} quantizes nothing"
    glob = recipe.skips(label(node))
    if glob:
        return f"excluded by {glob!r}"
    if ops.in_gate(graph, node):
        return "inside a squeeze-excite gate [rule E09]"
    return left.get(label(node), "")


def _both_computed(graph: Graph, node: Node) -> str:
    weight = node.inputs[ops.WEIGHTED[node.op].weight]
    producer = graph.producer(weight)
    if producer is not None and producer.op == "DequantizeLinear":
        return "already quantized"
    if node.op == "MatMul":
        return (
            "both operands are computed: attention is quantized entirely or not at all [rule F18]"
        )
    return "its weight is computed at run time"


def _operands_reason(graph: Graph, data: Tensor, weight: Tensor) -> str:
    shape = ops.constant_shape(weight)
    producer = graph.producer(data)
    if weight.dtype is None or weight.dtype not in (np.float32, np.float16):
        return f"its weight is {weight.dtype}; QuantizeLinear takes float32 and float16 here"
    if data.dtype != weight.dtype:
        return f"its activation is {data.dtype} and its weight {weight.dtype}"
    if graph.is_constant(data):
        return "both operands are constant"
    if producer is not None and producer.op == "DequantizeLinear":
        return "its activation is already quantized"
    if len(shape) < 2 or 0 in shape:
        return f"its weight has shape {list(shape)}: no output channels to scale"
    if graph.is_pinned(weight) and graph.is_output(weight):
        return "its weight is an output of the graph"
    if not np.isfinite(graph.values(weight)).all():
        return "its weight holds NaN or infinity"
    return ""


def _layer(graph: Graph, node: Node, slot: int, data: Tensor) -> Layer:
    shape = ops.constant_shape(node.inputs[slot])
    axis = ops.weight_axis(node, slot, len(shape))
    kernel = shape[2:] if node.op in ("Conv", "ConvTranspose") else ()
    kind = "merged" if not kernel and ops.splits_evenly(graph, node) else "dense"
    if kernel and ops.groups(node) > 1:
        per_group = shape[1] if node.op == "Conv" else shape[0] // ops.groups(node)
        kind = "depthwise" if per_group == 1 else "grouped"
    return Layer(
        node.op,
        kind,
        ops.reduction_length(node, slot, shape) // math.prod(kernel),
        shape[axis],
        kernel,
        _rows(node, slot, data),
    )


def _rows(node: Node, slot: int, data: Tensor) -> int | None:
    """M: how many vectors meet the weight, if the shapes say so."""
    if node.op not in ("MatMul", "Gemm") or data.shape is None:
        return None
    if len(data.shape) < 2:
        return 1
    if node.op == "Gemm":
        keep = [data.shape[1 if node.attrs.get("transA", 0) else 0]]
    else:
        keep = list(data.shape[:-1]) if slot == 1 else [*data.shape[:-2], data.shape[-1]]
    fixed = [d for d in keep if isinstance(d, int)]
    return int(np.prod(fixed)) if len(fixed) == len(keep) else None


# ---------------------------------------------------------------------- attention


def _propose_attentions(graph: Graph, recipe: Recipe, target: Target, found: _Found) -> None:
    """Both products of an attention, entirely or not at all, and with what projects its result."""
    for attention in attentions(graph):
        reason = _attention_reason(graph, attention, recipe, target, found)
        names = [label(n) for n in attention.nodes]
        if reason:
            found.skipped.update(dict.fromkeys(names, reason))
            continue
        for node in attention.nodes:
            for index, tensor in enumerate(node.inputs):
                slot = Slot(label(node), index, "activation")
                found.activations.setdefault(tensor.name, []).append(slot)
            found.skipped.pop(label(node), None)
        if recipe.format != "int8":  # probabilities end at 1; what little they use is rounded well
            found.fixed[attention.result.inputs[0].name] = 1.0
        scores, result = names
        found.needs[scores] = (result,)
        found.needs[result] = (scores, *_projections(graph, attention.result))
        found.nodes.update(names)


def _attention_reason(
    graph: Graph, attention: Attention, recipe: Recipe, target: Target, found: _Found
) -> str:
    reasons = (_excluded(graph, n, recipe, found.left) for n in attention.nodes)
    excluded = next((r for r in reasons if r), "")
    if excluded:
        return excluded
    head, keys = attention.head or 0, attention.keys or 0
    verdict = target.allows(
        Layer("Attention", "dense", head, keys, (), attention.queries),
        recipe.rows,
        recipe.format,
        recipe.scales,
    )
    if verdict.row is None:  # nothing is known: as any product of two computed tensors
        return _both_computed(graph, attention.scores)
    if not verdict.ok:
        return verdict.why
    projections = _projections(graph, attention.result)
    if not projections or not found.nodes.issuperset(projections):
        return "what reads its result stays in float: attention is quantized entirely [rule F02]"
    return ""


def _projections(graph: Graph, node: Node) -> tuple[str, ...]:
    """Linear operators that read a result past data movement; none if anything else does."""
    found: list[str] = []
    stack = [node.outputs[0]]
    while stack:
        tensor = stack.pop()
        if graph.is_output(tensor):
            return ()
        for user, index in graph.users(tensor):
            if index == 0 and ops.is_weighted(user):
                found.append(label(user))
            elif index == 0 and ops.moves_data(user):
                stack += user.outputs
            elif not (ops.is_standard(user) and user.op in ("Shape", "Size")):
                return ()
    return tuple(sorted(set(found)))


def _dtype(graph: Graph, name: str) -> str:
    tensor = graph.tensor(name)
    return str(tensor.dtype) if tensor is not None else "float32"


def model_digest(graph: Graph) -> str:
    """SHA-256 over the graph's nodes, declarations and weights; metadata do not count.

    Of a model with external data each weight enters with the first and last 4 KiB of its bytes
    only, so that a model of any size is identified in milliseconds.
    """
    skeleton = graph.proto(skeleton=True)
    del skeleton.metadata_props[:]
    skeleton.ClearField("producer_name")
    skeleton.ClearField("producer_version")
    skeleton.ClearField("doc_string")
    for node in skeleton.graph.node:
        del node.metadata_props[:]
        node.ClearField("doc_string")
    del skeleton.graph.value_info[:]
    del skeleton.graph.initializer[:]
    digest = hashlib.sha256(skeleton.SerializeToString(deterministic=True))
    large = graph.is_large
    for tensor in graph.constants():
        digest.update(f"{tensor.name} {tensor.dtype} {tensor.shape}".encode())
        if tensor.dtype is not None and tensor.dtype.kind in "OSU":
            continue
        if graph.is_constant(tensor):
            flat = graph.values(tensor).reshape(-1)
            edge = 4096 // flat.itemsize if large else flat.size
            digest.update(np.ascontiguousarray(flat[:edge]).tobytes())
            digest.update(np.ascontiguousarray(flat[-edge:]).tobytes() if large else b"")
    return digest.hexdigest()
