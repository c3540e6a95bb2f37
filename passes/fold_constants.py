"""Compute once what does not depend on the input.

A node all of whose inputs are constants always gives the same result; it becomes that result::

    before:  t = Transpose(W)     y = MatMul(x, t)          after:   y = MatMul(x, t),  t constant
    before:  s = Shape(x)         x : float[1, 3, 8, 8]     after:   s = [1, 3, 8, 8]
    before:  d = Gather(Shape(x), 1)                        after:   d = 3, even if the batch varies

The second and third line are what exporters write around every ``Reshape``; without them the shape
of a graph is invisible to TensorRT's fusions, and a weight behind a ``Transpose`` is no weight.

Never folded:

* ``QuantizeLinear`` and ``DequantizeLinear``: a constant behind one *is* the quantized weight, and
  folding it would store the float again;
* random operators, operators of other domains, nodes with bodies, anything with strings;
* a result larger than twice its inputs (from 4 KiB on): ``Expand`` and ``ConstantOfShape`` are a
  few bytes in the file and megabytes as constants;
* a node that fails when computed: perhaps no input ever reaches it.

All foldable nodes of a round run in one ONNX Runtime session without optimizations, so the
constants are, bit for bit, what the model would have computed; ``onnx.reference`` steps in for
operators and types that ONNX Runtime lacks.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.pipeline import Effect, Pass
from qcompiler.weights import Array

_LOG = logging.getLogger(__name__)
_NEVER = frozenset(
    {
        "Bernoulli",
        "Dropout",
        "DequantizeLinear",
        "DynamicQuantizeLinear",
        "Multinomial",
        "QuantizeLinear",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
# A result may be this large, or twice its inputs if that is more.
_SMALL_BYTES = 4 * 1024
_GROWTH = 2
# Constants up to this size are initializers of the session: shape inference reads them.
_INLINE_BYTES = 4096
# Results are computed in sessions of about this many bytes, so that memory stays bounded.
_BATCH_BYTES = 256 * 1024 * 1024
# Types that numpy and ONNX Runtime's Python interface both know.
_NATIVE = frozenset(
    np.dtype(code) for code in ("?", "b", "h", "i", "q", "B", "H", "I", "Q", "e", "f", "d")
)

# An index into a vector of lengths.
Pick = NDArray[np.int64] | slice | EllipsisType


@dataclass(frozen=True)
class FoldConstants(Pass):
    """``f(constants) -> constant``; ``Shape(x) -> constant`` where the shape of ``x`` is static."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"
    after: ClassVar[tuple[str, ...]] = ("lift-constants",)

    def run(self, graph: Graph) -> int:
        """Fold until nothing is left to fold; count the nodes that became constants."""
        total = 0
        failed: set[str] = set()
        while True:
            trusted = graph.infer() == ""
            count = sum(_fold_shape(graph, n, trusted=trusted) for n in graph.nodes)
            count += _fold_round(graph, failed)
            graph.sweep()
            if not count:
                return total
            total += count


# ---------------------------------------------------------------------- shapes


def _fold_shape(graph: Graph, node: Node, *, trusted: bool) -> bool:
    """Replace ``Shape``, ``Size``, ``Gather`` or ``Slice`` of a ``Shape`` by what they give.

    Args:
        graph: The graph.
        node: Any node.
        trusted: Whether shape inference found the model consistent; if not, only the declared
            shapes of graph inputs are believed.
    """
    if node.domain or not node.outputs[0].name:
        return False
    source: Node = node
    pick: Pick | None = ...
    if node.op not in ("Shape", "Size"):
        producer = graph.producer(node.inputs[0]) if node.inputs else None
        if producer is None or producer.op != "Shape" or producer.domain:
            return False
        source, pick = producer, _pick(graph, node)
    lengths = _lengths(graph, source, trusted=trusted)
    if lengths is None or pick is None:
        return False
    chosen = np.array(lengths, dtype=object)[pick]
    if not all(isinstance(length, int) for length in np.asarray(chosen, object).flat):
        return False
    array = np.array(chosen, dtype=np.int64)
    result = np.asarray(array.prod(), np.int64) if node.op == "Size" else array
    graph.make_constant(node.outputs[0], result)
    return True


def _lengths(graph: Graph, node: Node, *, trusted: bool) -> list[Any] | None:
    """What a ``Shape`` or ``Size`` node looks at: lengths, or names of dynamic axes."""
    tensor = node.inputs[0]
    if tensor.shape is None or not (trusted or any(tensor is t for t in graph.inputs)):
        return None
    return list(tensor.shape)[node.attrs.get("start", 0) : node.attrs.get("end")]


def _pick(graph: Graph, node: Node) -> Pick | None:
    """The index that a ``Gather`` or ``Slice`` of a vector means; None for other nodes."""
    if node.op == "Gather" and graph.is_constant(node.inputs[1]):
        return graph.values(node.inputs[1]).astype(np.int64)
    if node.op != "Slice":
        return None
    if len(node.inputs) == 1:
        bounds: list[Any] = [node.attrs["starts"], node.attrs["ends"], [0], [1]]
    else:
        tensors = [t if t.name else None for t in node.inputs[1:]]
        if not all(t is None or graph.is_constant(t) for t in tensors):
            return None
        given = [None if t is None else graph.values(t).tolist() for t in tensors]
        bounds = [*given, *[None] * (4 - len(given))]
    start, stop, _, step = bounds
    return slice(start[0], stop[0], step[0] if step else 1)


# ---------------------------------------------------------------------- values


@dataclass(frozen=True)
class _Candidates:
    """Nodes that can be folded, in order, and the results that the rest of the graph reads."""

    nodes: tuple[Node, ...]
    results: tuple[Tensor, ...]


def _fold_round(graph: Graph, failed: set[str]) -> int:
    found = _candidates(graph, [n for n in graph.nodes if _may_fold(graph, n, failed)])
    before = len(graph.nodes)
    for group in _groups(found.results):
        for tensor, value in zip(group, _compute(graph, found.nodes, group), strict=True):
            if value is None:
                failed.update(t.name for t in tensor.inputs[0].outputs)
            else:
                graph.make_constant(tensor, value)
    graph.sweep()
    return before - len(graph.nodes)


def _may_fold(graph: Graph, node: Node, failed: set[str]) -> bool:
    if node.domain or node.op in _NEVER or not node.inputs or graph.has_body(node):
        return False
    return not any(t.name in failed for t in node.outputs)


def _candidates(graph: Graph, allowed: Sequence[Node]) -> _Candidates:
    """Grow the foldable set from the constants, then let sizes, as inference sees them, cut it."""
    grown = _grow(graph, allowed)
    sizes = _sizes(graph, grown)
    kept = _grow(graph, [n for n in grown if _is_small(graph, n, sizes)])
    inside = {id(n) for n in kept}
    results = [
        t
        for n in kept
        for t in n.outputs
        if t.name and not _is_alias(graph, n) and _is_read(graph, t, inside)
    ]
    return _Candidates(tuple(kept), tuple(results))


def _grow(graph: Graph, allowed: Sequence[Node]) -> list[Node]:
    known: set[int] = set()
    out = []
    for node in allowed:
        if all(not t.name or id(t) in known or _is_number(graph, t) for t in node.inputs):
            known.update(id(t) for t in node.outputs)
            out.append(node)
    return out


def _is_number(graph: Graph, tensor: Tensor) -> bool:
    return graph.is_constant(tensor) and np.dtype(tensor.dtype).kind not in "OSU"


def _is_alias(graph: Graph, node: Node) -> bool:
    """``Identity`` of a constant: a second copy would be no gain, ``drop-identity`` shares it."""
    return node.op == "Identity" and graph.is_constant(node.inputs[0])


def _is_read(graph: Graph, tensor: Tensor, inside: set[int]) -> bool:
    return graph.is_pinned(tensor) or any(id(n) not in inside for n, _ in graph.users(tensor))


def _sizes(graph: Graph, nodes: Sequence[Node]) -> dict[str, int]:
    """Bytes of every result whose type and shape inference finds without computing it."""
    if not nodes:
        return {}
    model, _ = _model(graph, nodes, ())
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception as error:  # noqa: BLE001  (raises several unrelated types)
        _LOG.debug("shape inference of the foldable nodes failed: %s", error)
        return {}
    out: dict[str, int] = {}
    for value in inferred.graph.value_info:
        declared = value.type.tensor_type
        if not declared.elem_type or declared.elem_type == TensorProto.STRING:
            continue
        lengths = [d.dim_value if d.HasField("dim_value") else -1 for d in declared.shape.dim]
        if declared.HasField("shape") and all(length >= 0 for length in lengths):
            itemsize = onnx.helper.tensor_dtype_to_np_dtype(declared.elem_type).itemsize
            out[value.name] = math.prod(lengths) * itemsize
    return out


def _is_small(graph: Graph, node: Node, sizes: dict[str, int]) -> bool:
    outputs = [sizes.get(t.name) for t in node.outputs if t.name]
    if any(size is None for size in outputs):
        return False
    inputs = sum(
        graph.constant_bytes(t) if graph.is_constant(t) else sizes.get(t.name, 0)
        for t in node.inputs
        if t.name
    )
    return sum(size or 0 for size in outputs) <= max(_SMALL_BYTES, _GROWTH * inputs)


def _groups(results: Sequence[Tensor]) -> list[list[Tensor]]:
    groups: list[list[Tensor]] = []
    filled = _BATCH_BYTES
    for tensor in results:
        size = math.prod(s for s in tensor.shape or () if isinstance(s, int)) * 8
        if filled + size > _BATCH_BYTES:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += size
    return groups


# ---------------------------------------------------------------------- running


def _compute(graph: Graph, nodes: Sequence[Node], results: Sequence[Tensor]) -> list[Array | None]:
    """The values of ``results``, None for each that could not be computed."""
    model, feeds = _model(graph, _needed(nodes, results), results)
    try:
        return [*_run(model, feeds, results)]
    except Exception as error:  # noqa: BLE001  (ONNX Runtime's errors have no common base)
        if len(results) > 1:
            _LOG.debug("folding %d results at once failed: %s", len(results), error)
            return [v for t in results for v in _compute(graph, nodes, [t])]
    try:
        values = ReferenceEvaluator(model).run(None, feeds)
        return [_checked(v, t) for v, t in zip(values, results, strict=True)]
    except Exception as error:  # noqa: BLE001  (an operator may raise anything)
        _LOG.debug("%s is left as it is: %s", label(results[0].inputs[0]), error)
        return [None]


def _run(model: ModelProto, feeds: dict[str, Array], results: Sequence[Tensor]) -> Iterable[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    values = session.run([t.name for t in results], feeds)
    return [_checked(v, t) for v, t in zip(values, results, strict=True)]


def _checked(value: Array, tensor: Tensor) -> Array:
    if tensor.dtype is not None and value.dtype != tensor.dtype:
        raise TypeError(f"{tensor.name} is {value.dtype}, expected {tensor.dtype}")
    return np.asarray(value)


def _needed(nodes: Sequence[Node], results: Sequence[Tensor]) -> list[Node]:
    wanted: set[int] = set()
    stack = [n for t in results for n in t.inputs]
    while stack:
        node = stack.pop()
        if id(node) not in wanted:
            wanted.add(id(node))
            stack += [p for t in node.inputs for p in t.inputs]
    return [n for n in nodes if id(n) in wanted]


def _model(
    graph: Graph, nodes: Sequence[Node], results: Sequence[Tensor]
) -> tuple[ModelProto, dict[str, Array]]:
    """Nodes as a model in which large constants are inputs, read only if ``results`` are asked."""
    protos: list[NodeProto] = [graph.node_proto(n) for n in nodes]
    body = GraphProto(name="fold", node=protos)
    feeds: dict[str, Array] = {}
    seen: set[str] = set()
    for tensor in (t for n in nodes for t in n.inputs if t.name and graph.is_constant(t)):
        if tensor.name in seen:
            continue
        seen.add(tensor.name)
        native = tensor.dtype in _NATIVE
        if graph.constant_bytes(tensor) <= _INLINE_BYTES or (results and not native):
            body.initializer.append(numpy_helper.from_array(graph.values(tensor), tensor.name))
            continue
        _declare(body.input.add(), tensor)
        if results:
            feeds[tensor.name] = graph.values(tensor)
    for tensor in results:
        body.output.add(name=tensor.name)
    model = ModelProto(ir_version=min(onnx.IR_VERSION, 11), graph=body)
    model.opset_import.add(domain="", version=graph.opset)
    return model, feeds


def _declare(value: onnx.ValueInfoProto, tensor: Tensor) -> None:
    value.name = tensor.name
    declared = value.type.tensor_type
    declared.elem_type = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
    declared.shape.SetInParent()
    for length in tensor.shape or ():
        declared.shape.dim.add(dim_value=int(length or 0))
