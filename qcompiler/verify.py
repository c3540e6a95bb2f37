"""What must hold after every pass: structure, and the rules of quantization.

onnx's checker, strict shape inference and ONNX Runtime's session creation accept most malformed
Q/DQ graphs: a scale of zero, a scale whose length is not the axis, an axis out of range.  The
rules here are ours and complete: each has a model in the tests that only it catches.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto

from qcompiler import protos
from qcompiler.errors import VerifyError
from qcompiler.graph import Graph, Node, Tensor, label

QUANTIZE, DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def check_structure(model: ModelProto) -> None:
    """Every tensor is defined once, and before it is read, in every scope.

    Raises:
        VerifyError: Naming the tensor and the node.
    """
    graph = model.graph
    _check_scope(graph, set())
    defined = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    defined |= {s.values.name for s in graph.sparse_initializer}
    defined |= {o for n in graph.node for o in n.output}
    for output in graph.output:
        if output.name not in defined:
            raise VerifyError("a graph output is computed by no node", where=output.name)


def _check_scope(graph: GraphProto, outer: set[str]) -> None:
    sources = [t.name for t in graph.initializer] + [
        s.values.name for s in graph.sparse_initializer
    ]
    _once(sources, "initializer")
    _once([v.name for v in graph.input], "graph input")
    written = [o for n in graph.node for o in n.output if o]
    _once(written, "tensor")
    clash = set(written) & {*sources, *(v.name for v in graph.input)}
    if clash:
        raise VerifyError("a node writes a graph input or initializer", where=min(clash))
    known = outer | {*sources, *(v.name for v in graph.input)}
    later = set(written)
    for node in graph.node:
        for name in (*node.input, *protos.captures(node)):
            if name and name not in known:
                what = "before it is computed (a cycle, or the nodes are not sorted)"
                missing = "that nothing defines"
                raise VerifyError(
                    f"reads tensor {name!r} {what if name in later else missing}",
                    where=node.name or node.op_type,
                )
        known.update(node.output)
        for attribute in node.attribute:
            for body in protos.graphs_of(attribute):
                _check_scope(body, known)


def _once(names: list[str], kind: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise VerifyError(f"two definitions of the {kind} {name!r}", where=name)
        seen.add(name)


def check_qdq(graph: Graph) -> None:
    """The Q/DQ specification: ONNX's operators page and TensorRT's rules B01-B22.

    * the scale is a constant, positive and finite (B02, B03);
    * per tensor it is a scalar; per axis it is 1-D of the axis' length; per block it has the
      data's rank and divides every dimension (B13-B15, B18);
    * a zero point has the scale's shape and the storage type of the pair (B08, B09);
    * ``DequantizeLinear`` of a ``QuantizeLinear`` agrees on scale, zero point and axis (B30);
    * no ``DequantizeLinear`` reads a float tensor.

    Only nodes that carry quantization are looked at; a model that came with dynamic scales
    (computed, not constant) keeps them.

    Raises:
        VerifyError: Naming the node and what it breaks.
    """
    for node in graph.nodes:
        if node.op in (QUANTIZE, DEQUANTIZE) and not node.domain:
            _check_node(graph, node)


class Finding(NamedTuple):
    """One thing that is wrong with a model.

    Attributes:
        code: ``QC001`` for onnx's own checker, ``QC010`` for the Q/DQ specification.
        where: Node or tensor.
        message: What is wrong.
    """

    code: str
    where: str
    message: str


def findings(graph: Graph) -> list[Finding]:
    """Everything wrong with a model that could be loaded (so its structure is sound)."""
    out: list[Finding] = []
    message = check_onnx(graph)
    if message:
        out.append(Finding("QC001", "model", message))
    for node in graph.nodes:
        if node.op in (QUANTIZE, DEQUANTIZE) and not node.domain:
            try:
                _check_node(graph, node)
            except VerifyError as error:
                out.append(Finding("QC010", error.where, error.message))
    return out


def _check_node(graph: Graph, node: Node) -> None:
    scale = node.inputs[1] if len(node.inputs) > 1 else None
    if scale is None or not scale.name:
        raise VerifyError("has no scale", where=label(node))
    zero = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    source = graph.producer(node.inputs[0])
    if node.op == DEQUANTIZE and source is not None and source.op == QUANTIZE:
        _check_pair(graph, source, node)
    if not graph.is_constant(scale):
        return
    values = graph.values(scale).astype(np.float64)
    if values.size == 0 or not np.isfinite(values).all() or (values <= 0).any():
        raise VerifyError("has a scale that is not positive and finite", where=label(node))
    if zero is not None and zero.shape is not None and list(zero.shape) != list(values.shape):
        raise VerifyError(
            f"has a zero point of shape {list(zero.shape)} for a scale of shape "
            f"{list(values.shape)}",
            where=label(node),
        )
    _check_granularity(node, values.shape)
    data = node.inputs[0]
    if node.op == DEQUANTIZE and data.dtype is not None and _is_wide_float(data.dtype):
        raise VerifyError(f"dequantizes a {data.dtype} tensor", where=label(node))


def _check_granularity(node: Node, scale: tuple[int, ...]) -> None:
    shape = node.inputs[0].shape
    if scale == () or shape is None:
        return
    axis, rank = int(node.attrs.get("axis", 1)), len(shape)
    if not -rank <= axis < rank:
        raise VerifyError(f"has axis {axis} for a tensor of rank {rank}", where=label(node))
    if len(scale) == 1 and not node.attrs.get("block_size"):
        length = shape[axis]
        if isinstance(length, int) and scale[0] not in (length, 1):
            raise VerifyError(
                f"has {scale[0]} scales for {length} channels on axis {axis}", where=label(node)
            )
        return
    if len(scale) != rank:
        raise VerifyError(
            f"has a scale of rank {len(scale)} for a tensor of rank {rank}", where=label(node)
        )
    block = int(node.attrs.get("block_size", 0))
    for i, (size, count) in enumerate(zip(shape, scale, strict=True)):
        if not isinstance(size, int):
            continue
        blocked = i == axis % rank
        if size != count and not (blocked and block and -(-size // block) == count):
            raise VerifyError(
                f"has a scale of shape {list(scale)} for a tensor of shape {list(shape)} and "
                f"blocks of {block}",
                where=label(node),
            )


def _check_pair(graph: Graph, quantize: Node, dequantize: Node) -> None:
    what = pair_fault(graph, quantize, dequantize)
    if what:
        raise VerifyError(
            f"its {what} is not that of its QuantizeLinear {label(quantize)!r}",
            where=label(dequantize),
        )


def pair_fault(graph: Graph, quantize: Node, dequantize: Node) -> str:
    """In what a ``QuantizeLinear`` and a ``DequantizeLinear`` differ; empty if they are a pair.

    Constants are equal if type, shape and bytes are; computed ones if they are one tensor. The axis
    counts only where there is more than one scale.
    """
    scale = _input(dequantize, 1)
    if not _same(graph, _input(quantize, 1), scale):
        return "scale"
    if not _same_zero(graph, _input(quantize, 2), _input(dequantize, 2)):
        return "zero point"
    if scale is not None and scale.shape == []:
        return ""
    if _axis(quantize) != _axis(dequantize):
        return "axis"
    same = quantize.attrs.get("block_size", 0) == dequantize.attrs.get("block_size", 0)
    return "" if same else "block size"


def _axis(node: Node) -> int:
    axis, shape = int(node.attrs.get("axis", 1)), node.inputs[0].shape
    return axis + len(shape) if axis < 0 and shape is not None else axis


def _input(node: Node, index: int) -> Tensor | None:
    return node.inputs[index] if len(node.inputs) > index and node.inputs[index].name else None


def _same(graph: Graph, a: Tensor | None, b: Tensor | None) -> bool:
    if a is b:
        return True
    if a is None or b is None or not (graph.is_constant(a) and graph.is_constant(b)):
        return False
    x, y = graph.values(a), graph.values(b)
    return x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes()


def _same_zero(graph: Graph, a: Tensor | None, b: Tensor | None) -> bool:
    """As ``_same``; an omitted zero point is zero, its type that of the codes."""
    given = [t for t in (a, b) if t is not None]
    if len(given) == 1 and graph.is_constant(given[0]):
        return not graph.values(given[0]).astype(np.float64).any()
    return _same(graph, a, b)


def _is_wide_float(dtype: np.dtype[np.generic]) -> bool:
    return (dtype.kind == "f" and dtype.itemsize >= 2) or str(dtype) == "bfloat16"


def check_onnx(graph: Graph) -> str:
    """The checker of onnx with strict shape inference, on a skeleton; the message if it refuses.

    The skeleton has no weights, so a model of any size takes milliseconds.
    """
    skeleton = graph.proto(skeleton=True)
    try:
        onnx.checker.check_model(skeleton, full_check=True)
    except Exception as error:  # noqa: BLE001  (the checker raises several unrelated types)
        return str(error).strip()
    return ""


def first_node(proto: NodeProto) -> str:
    """How a message calls a proto node."""
    return proto.name or f"node_of_{proto.output[0]}"


def require_valid(graph: Graph, phase: str) -> None:
    """Demand of a graph that was valid before a phase that it is after it.

    Raises:
        VerifyError: The checker or strict shape inference refuses it.
    """
    message = check_onnx(graph)
    if message:
        raise VerifyError(
            f"after {phase} onnx's checker refuses the graph: {message}",
            hint="this is a bug of qcompiler; please report it with the model",
        )
