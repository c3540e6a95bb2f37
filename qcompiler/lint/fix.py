"""Rewriting a quantized model so that TensorRT takes it.

What onnxruntime.quantization writes by default differs from what TensorRT reads in three ways, and
each has a rewrite:

* A bias dequantized from INT32 becomes the float constant it stands for (TRT001), a 0-D
  constant likewise (TRT035)::

      b = DequantizeLinear(b32, s)        ->      b = b32 * s

* An asymmetric pair becomes a symmetric one that covers the same range (TRT002 to TRT005)::

      codes [lo, hi], zero point z, scale s   ->   INT8, zero point 0,
                                                   scale s * max(z - lo, hi - z) / 127

  All values that could be represented still can; the step grows, by at most 2.01 times. Where the
  zero point is the lowest code the old pair cut off what is negative, and ONNX Runtime's quantizer
  relies on that: it removes the Relu in front. So a ``Relu`` is put back, unless the tensor cannot
  be negative.
* Weight codes with a zero point are stored again without one. UINT8 codes around 128 lose 128,
  which is exact; others are quantized anew, on the scale ``max|w| / 127``.

Besides, a scale of one element becomes a scalar (TRT009, TRT010).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from qcompiler import ops
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.lint import reading as r
from qcompiler.verify import DEQUANTIZE, QUANTIZE
from qcompiler.weights import Array

_RANGES = {"int8": (-128, 127), "uint8": (0, 255)}
_KEEP_SIGN = frozenset(
    {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", QUANTIZE, DEQUANTIZE}
)
_MAX = 127  # of symmetric INT8


class Fixed(NamedTuple):
    """One rewrite: the node, and what became of it."""

    where: str
    what: str


def fix(graph: Graph) -> list[Fixed]:
    """Rewrite what can be; a second call rewrites nothing.

    Args:
        graph: The model, with types inferred; edited in place.
    """
    done: list[Fixed] = []
    for node in graph.nodes:
        if node.op == DEQUANTIZE:
            done += _bias(graph, node) or _weight(graph, node)
        elif node.op == QUANTIZE:
            done += _activation(graph, node)
    for node in r.quantizers(graph):
        done += _scalar(graph, node)
    graph.sweep()
    return done


def _parameters(graph: Graph, node: Node) -> tuple[Array, Array] | None:
    """Scale and zero point, in float64 and of one shape; None if either is computed."""
    scale, given = r.scales(graph, node), r.operand(node, 2)
    zero = r.constant(graph, given)
    if scale is None or (given is not None and zero is None):
        return None
    if zero is None:
        return scale, np.zeros(scale.shape)
    return (scale, zero.astype(np.float64)) if zero.size == scale.size else None


def _spread(values: Array, node: Node, rank: int) -> Array | None:
    """Per-tensor or per-axis parameters in a shape that broadcasts over the codes."""
    if values.size == 1:
        return values.reshape(())
    axis = int(node.attrs.get("axis", 1))
    if values.ndim != 1 or not -rank <= axis < rank:
        return None
    shape = [1] * rank
    shape[axis] = values.size
    return values.reshape(shape)


def _real(graph: Graph, node: Node) -> Array | None:
    """What a DQ of constant codes gives, in float64; None if that is not known or per block."""
    codes, given = r.constant(graph, node.inputs[0]), _parameters(graph, node)
    if codes is None or given is None:
        return None
    scale, zero = (_spread(v, node, codes.ndim) for v in given)
    if scale is None or zero is None:
        return None
    if np.broadcast_shapes(scale.shape, codes.shape) != codes.shape:
        return None
    real: Array = (codes.astype(np.float64) - zero) * scale
    return real


def _bias(graph: Graph, node: Node) -> list[Fixed]:
    """An INT32 bias, or a scalar constant."""
    scalar = node.inputs[0].shape is not None and len(node.inputs[0].shape) == 0
    if r.type_name(node.inputs[0]) != "int32" and not scalar:
        return []
    real = _real(graph, node)
    if real is None:
        return []
    dtype = node.inputs[1].dtype or np.dtype(np.float32)
    where = label(node)
    graph.make_constant(node.outputs[0], real.astype(dtype))
    return [Fixed(where, f"{'scalar' if scalar else 'INT32 bias'} stored as float")]


def _weight(graph: Graph, node: Node) -> list[Fixed]:
    kind, given = r.storage(node), _parameters(graph, node)
    if kind not in _RANGES or given is None or (kind == "int8" and not given[1].any()):
        return []
    real, codes = _real(graph, node), r.constant(graph, node.inputs[0])
    if real is None or codes is None:
        return []
    scale, zero = given
    if kind == "uint8" and (zero == 128).all():
        new, what = codes.astype(np.int16) - 128, "UINT8 codes re-centred to INT8 (exact)"
    else:
        axes = None if scale.size == 1 else _others(node, codes.ndim)
        peak = np.abs(real).max(axis=axes)
        scale = np.where(peak > 0, peak / _MAX, 1.0).reshape(scale.shape)
        divisor = _spread(scale, node, codes.ndim)
        assert divisor is not None, "as it was for the old scale"
        new, what = np.rint(real / divisor), f"{kind} codes quantized again, with zero point 0"
    codes_name = f"{node.inputs[0].name}_int8"
    graph.set_input(node, 0, graph.const(codes_name, new.clip(-128, 127).astype(np.int8)))
    _set(graph, node, scale)
    return [Fixed(label(node), what)]


def _others(node: Node, rank: int) -> tuple[int, ...]:
    axis = int(node.attrs.get("axis", 1)) % rank
    return tuple(i for i in range(rank) if i != axis)


def _activation(graph: Graph, node: Node) -> list[Fixed]:
    """A Q and the DQs that read it; nothing if somebody else reads the codes."""
    kind, given = r.storage(node), _parameters(graph, node)
    if kind not in _RANGES or given is None or (kind == "int8" and not given[1].any()):
        return []
    readers = r.readers(graph, node)
    if graph.is_pinned(node.outputs[0]) or any(u.op != DEQUANTIZE for u in readers):
        return []
    scale, zero = given
    low, high = _RANGES[kind]
    scale = scale * np.maximum(zero - low, high - zero) / _MAX
    x = node.inputs[0]
    if (zero == low).all() and not _is_positive(graph, x):
        clipped = graph.add("Relu", [x], output=f"{x.name}_relu", dtype=x.dtype, shape=x.shape)
        graph.set_input(node, 0, clipped)
    node.attrs.pop("output_dtype", None)
    node.outputs[0].dtype = np.dtype(np.int8)
    for one in (node, *readers):
        _set(graph, one, scale)
    return [Fixed(label(node), f"{kind} pair made symmetric INT8 over the same range")]


def _is_positive(graph: Graph, tensor: Tensor) -> bool:
    """Whether no element of a tensor can be negative, by the operators that compute it."""
    for _ in range(8):
        producer = graph.producer(tensor)
        if producer is None:
            return False
        if producer.op in ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Exp", "Abs"):
            return True
        if not (ops.moves_data(producer) or producer.op in _KEEP_SIGN):
            return False
        tensor = producer.inputs[0]
    return False


def _set(graph: Graph, node: Node, scale: Array) -> None:
    """Give a node a scale and INT8 zeros of the same shape, shared with whoever has the same."""
    dtype = node.inputs[1].dtype or np.dtype(np.float32)
    base = node.inputs[1].name.removesuffix("_symmetric")
    values = np.asarray(scale).astype(dtype)
    made = graph.tensor(f"{base}_symmetric")
    if made is None or not np.array_equal(graph.values(made), values):
        made = graph.const(f"{base}_symmetric", values)
    zero = graph.const(f"{made.name}_zero_point", np.zeros(values.shape, np.int8))
    graph.set_inputs(node, [node.inputs[0], made, zero])


def _scalar(graph: Graph, node: Node) -> list[Fixed]:
    scale, given = r.constant(graph, r.operand(node, 1)), r.operand(node, 2)
    zero = r.constant(graph, given)
    if scale is None or scale.size != 1 or scale.ndim == 0 or (given is not None and zero is None):
        return []
    inputs = [node.inputs[0], graph.const(f"{node.inputs[1].name}_scalar", scale.reshape(()))]
    if zero is not None and given is not None:
        inputs.append(graph.const(f"{given.name}_scalar", zero.reshape(-1)[0].reshape(())))
    graph.set_inputs(node, inputs)
    return [Fixed(label(node), f"scale of shape {list(scale.shape)} made a scalar")]
