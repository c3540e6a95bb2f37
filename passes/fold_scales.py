"""Fold a constant Mul, Div, Add or Sub beside a linear op into its weight and bias.

A linear op computes ``y = W x + b``.  With constants that vary along the output channels only::

    after    (W x + b) * s + t   =   (s W) x + (s b + t)

and with constants that vary along the input channels only::

    before   W (x * s + t) + b   =   (W s) x + (W t + b)

Linear ops are Conv, ConvTranspose, Gemm and MatMul by a constant matrix on the right; a MatMul
counts its following ``Add(constant)`` as its bias, which therefore stays (TensorRT fuses it).
``alpha`` and ``beta`` of a Gemm are folded too and become 1.

Where it stops:

* the tensor between is a graph output, captured by a body, or read by another node (``Shape``
  aside: folding does not change shapes);
* padding: ``x * s`` commutes with zero padding, ``x + t`` does not, so ``t`` before a Conv needs
  pads of 0; before a ConvTranspose it never folds (at the borders fewer products are summed);
* the weight must be a constant: nothing is folded through Q/DQ;
* a weight or bias that another node reads is copied first, never changed under it;
* the new weight must be finite in its type: FP16 ends at 65504.

A scalar factor also commutes with data movement, so it is carried through chains of Reshape,
Transpose, Squeeze, Unsqueeze and Flatten: the ``1 / sqrt(d)`` of attention, split over query and
key behind the heads' Reshape and Transpose, ends in the projections.

Where the opset has no op for an RMS norm, its weight counts as a constant like any other, and goes
into the next linear layer if that is its only reader.  That is the "gamma migration" of Outlier
Suppression (https://arxiv.org/abs/2209.13325), reported to leave smaller outliers to quantize.

Exporters: normalization of images before the first Conv, TorchScript's scaled attention, LayerScale
and Keras ``Rescaling`` through tf2onnx.  Arithmetic is FP64, stored in the weight's type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qcompiler.graph import Graph, Node, Tensor
from qcompiler.match import is_float
from qcompiler.pipeline import Effect, Pass
from qcompiler.weights import Array

F64: TypeAlias = NDArray[np.float64]

_CONVOLUTIONS = ("Conv", "ConvTranspose")
_MOVES = ("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten")
_BLIND = ("Shape", "Size")


@dataclass(frozen=True)
class FoldScales(Pass):
    """``(W x + b) * s + t -> (s W) x + (s b + t)`` and ``W (x * s + t) + b`` alike."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"
    # A norm's gamma, a GELU's 0.5 belong to their ops as long as these can take them.
    after: ClassVar[tuple[str, ...]] = (
        "fold-constants",
        "fold-batch-norm",
        "fuse-layer-norm",
        "fuse-rms-norm",
        "fuse-gelu",
        "fuse-hard-swish",
        "fuse-attention",
    )

    def run(self, graph: Graph) -> int:
        """Fold until nothing is left to fold."""
        count = sum(_fold_gemm(graph, n) for n in graph.nodes)
        while True:
            # Downwards for what follows a linear op, upwards for what precedes one, so that a
            # chain collapses in one sweep.
            folded = sum(_fold_after(graph, n) for n in graph.nodes)
            folded += sum(_fold_before(graph, n) for n in reversed(graph.nodes))
            if not folded:
                return count
            count += folded


# ---------------------------------------------------------------- what a node does to its data


@dataclass(frozen=True, eq=False)
class _Affine:
    """``data * scale + shift`` with constants as stored; None for 1 and 0."""

    data: Tensor
    constant_slot: int
    scale: F64 | None
    shift: F64 | None

    @property
    def is_scalar_factor(self) -> bool:
        return self.shift is None and self.scale is not None and self.scale.size == 1

    @property
    def rank(self) -> int:
        """Rank of the data; 0 if unknown, which lets only 0-D constants pass."""
        return 0 if self.data.shape is None else len(self.data.shape)


def _affine(graph: Graph, node: Node) -> _Affine | None:
    """An element-wise node with one floating-point constant operand, as scale and shift."""
    if node.op not in ("Mul", "Div", "Add", "Sub") or node.domain or len(node.inputs) != 2:
        return None
    slots = [i for i, t in enumerate(node.inputs) if graph.is_constant(t)]
    if len(slots) != 1 or not is_float(node.inputs[slots[0]], double=True):
        return None
    slot = slots[0]
    c = np.asarray(graph.values(node.inputs[slot]), np.float64)
    pair = _scale_and_shift(node.op, c, constant_first=slot == 0)
    if pair is None or not all(v is None or np.isfinite(v).all() for v in pair):
        return None
    return _Affine(node.inputs[1 - slot], slot, *pair)


def _scale_and_shift(
    op: str, c: F64, *, constant_first: bool
) -> tuple[F64 | None, F64 | None] | None:
    if op == "Mul":
        return c, None
    if op == "Add":
        return None, c
    if op == "Sub":
        return (np.full((), -1.0), c) if constant_first else (None, -c)
    return None if constant_first or (c == 0).any() else (1 / c, None)


def _channels(c: F64 | None, rank: int, axis: int, count: int) -> F64 | None:
    """A constant as a vector of 1 or ``count`` elements; None if it varies along other axes.

    Args:
        c: The constant as stored, broadcast against data of that rank.
        rank: Rank of the data.
        axis: Channel axis of the data; negative counts from the end.
        count: Number of channels.
    """
    if c is None or c.ndim > rank or c.size not in (1, count):
        return None
    shape = (1,) * (rank - c.ndim) + c.shape
    return c.reshape(-1) if c.size == 1 or shape[axis] == count else None


def _sole_reader(graph: Graph, tensor: Tensor) -> tuple[Node, int] | None:
    """The one (node, slot) that reads a tensor's values; None if there are more or it is pinned."""
    users = [(n, i) for n, i in graph.users(tensor) if n.op not in _BLIND or n.domain]
    return users[0] if len(users) == 1 and not graph.is_pinned(tensor) else None


# ---------------------------------------------------------------- linear ops


@dataclass(frozen=True, eq=False)
class _Linear:
    """A linear op with a constant weight; for a MatMul together with the Add of its bias.

    Attributes:
        node: The op; its slot 0 is the data, slot 1 the weight.
        bias: (node, slot) that holds the bias, or None without one.
        result: What it computes, bias included.
    """

    node: Node
    bias: tuple[Node, int] | None
    result: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the weight."""
        return tuple(int(n or 0) for n in self.node.inputs[1].shape or ())

    @property
    def groups(self) -> int:
        return int(self.node.attrs.get("group", 1))

    @property
    def is_convolution(self) -> bool:
        return self.node.op in _CONVOLUTIONS

    def weight_axis(self, side: int) -> int:
        """The weight's output (side 0) or input (side 1) axis, within a group."""
        turned = self.node.op == "Conv" or bool(self.node.attrs.get("transB", 0))
        return side if turned else 1 - side

    def channels(self, side: int) -> int:
        """Number of output or input channels: axis 1 of a convolution's weight is per group."""
        axis = self.weight_axis(side)
        return self.shape[axis] * (self.groups if self.is_convolution and axis == 1 else 1)

    def data_axis(self, side: int) -> int:
        """Channel axis of the result or the data."""
        if self.is_convolution:
            return 1
        return 0 if side and self.node.attrs.get("transA", 0) else -1

    def result_rank(self) -> int:
        """Rank of the result; 1, which is true of a row of it, if unknown."""
        if self.node.op != "MatMul":
            return len(self.shape)
        return 1 if self.result.shape is None else len(self.result.shape)

    def sums_everywhere(self) -> bool:
        """Whether every output element sums over the whole weight: no padding, no stride gaps."""
        if not self.is_convolution:
            return True
        attrs = self.node.attrs
        unpadded = attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID")
        return self.node.op == "Conv" and unpadded and not any(attrs.get("pads", ()))

    def grouped(self, values: F64) -> F64:
        """The weight as ``[groups, axis 0 of a group, axis 1, ...]``."""
        return values.reshape(self.groups, values.shape[0] // self.groups, *values.shape[1:])

    def along(self, vector: F64, side: int) -> F64:
        """A vector over channels, shaped to broadcast against ``grouped``."""
        shape = [1] * (len(self.shape) + 1)
        if vector.size > 1:
            shape[0], shape[1 + self.weight_axis(side)] = self.groups, -1
        return vector.reshape(shape)

    def response(self, values: F64, vector: F64) -> F64:
        """``W t``: the output, by channel, to an input that is constant in each channel."""
        product = self.grouped(values) * self.along(vector, 1)
        kept = (0, 1 + self.weight_axis(0))
        total: F64 = product.sum(axis=tuple(i for i in range(product.ndim) if i not in kept))
        return total.reshape(-1)


def _linear(graph: Graph, node: Node) -> _Linear | None:
    """The linear op that a node is, if its weight is a constant."""
    if node.domain or node.op not in (*_CONVOLUTIONS, "Gemm", "MatMul"):
        return None
    weight = node.inputs[1]
    if not graph.is_constant(weight) or not is_float(weight, double=True):
        return None
    rank = len(weight.shape or ())
    if rank < 3 if node.op in _CONVOLUTIONS else rank != 2:
        return None
    if node.op == "MatMul":
        return _with_bias(graph, _Linear(node, None, node.outputs[0]))
    has_bias = len(node.inputs) > 2 and bool(node.inputs[2].name)
    return _Linear(node, (node, 2) if has_bias else None, node.outputs[0])


def _with_bias(graph: Graph, matmul: _Linear) -> _Linear:
    reader = _sole_reader(graph, matmul.result)
    step = None if reader is None or reader[0].op != "Add" else _affine(graph, reader[0])
    if reader is None or step is None:
        return matmul
    if _channels(step.shift, matmul.result_rank(), -1, matmul.channels(0)) is None:
        return matmul
    add = reader[0]
    return _Linear(matmul.node, (add, step.constant_slot), add.outputs[0])


def _linear_of(graph: Graph, result: Tensor) -> _Linear | None:
    """The linear op that computes a tensor, bias included."""
    node = graph.producer(result)
    if node is not None and node.op == "Add":
        step = _affine(graph, node)
        node = None if step is None else graph.producer(step.data)
    linear = None if node is None else _linear(graph, node)
    return linear if linear is not None and linear.result is result else None


def _is_plain(linear: _Linear) -> bool:
    attrs = linear.node.attrs
    return {attrs.get("alpha", 1.0), attrs.get("beta", 1.0)} == {1.0}


# ---------------------------------------------------------------- folding


def _fold_after(graph: Graph, node: Node) -> bool:
    step = _affine(graph, node)
    if step is None or _sole_reader(graph, step.data) is None:
        return False
    source = _upstream(graph, step.data) if step.is_scalar_factor else step.data
    linear = None if source is None else _linear_of(graph, source)
    if linear is None or not _is_plain(linear):
        return False
    rank = max(step.rank, linear.result_rank()) if linear.result is step.data else step.rank
    axis, count = linear.data_axis(0), linear.channels(0)
    scale = _channels(step.scale, rank, axis, count)
    shift = _channels(step.shift, rank, axis, count)
    whole = (scale is None, shift is None) == (step.scale is None, step.shift is None)
    if not whole or not _apply(graph, linear, 0, scale, shift):
        return False
    graph.replace(node.outputs[0], step.data)
    return True


def _upstream(graph: Graph, tensor: Tensor) -> Tensor | None:
    """Where the data come from, through data movement that nobody else looks into."""
    while True:
        if _sole_reader(graph, tensor) is None:
            return None
        node = graph.producer(tensor)
        if node is None or node.op not in _MOVES or node.domain:
            return tensor
        tensor = node.inputs[0]


def _fold_before(graph: Graph, node: Node) -> bool:
    step = _affine(graph, node)
    reader = None if step is None else _sole_reader(graph, node.outputs[0])
    while step is not None and step.is_scalar_factor and reader is not None:
        if reader[0].op not in _MOVES or reader[0].domain or reader[1] != 0:
            break
        reader = _sole_reader(graph, reader[0].outputs[0])
    linear = None if reader is None or reader[1] != 0 else _linear(graph, reader[0])
    if step is None or linear is None or not _is_plain(linear):
        return False
    axis, count = linear.data_axis(1), linear.channels(1)
    scale = _channels(step.scale, step.rank, axis, count)
    shift = _channels(step.shift, step.rank, axis, count)
    whole = (scale is None, shift is None) == (step.scale is None, step.shift is None)
    if not whole or (shift is not None and not linear.sums_everywhere()):
        return False
    # The data may not be broadcast by the constant: x [1, 1, H, W] * c [3, 1, 1] has 3 channels.
    vectors = [v for v in (scale, shift) if v is not None and v.size > 1]
    if vectors and (step.data.shape or [])[axis] != count:
        return False
    if not _apply(graph, linear, 1, scale, shift):
        return False
    for user, slot in graph.users(node.outputs[0]):
        graph.set_input(user, slot, step.data)
    graph.set_inputs(node, [])
    return True


def _fold_gemm(graph: Graph, node: Node) -> bool:
    """``alpha A B + beta C -> A (alpha B) + (beta C)``."""
    linear = _linear(graph, node) if node.op == "Gemm" else None
    if linear is None or _is_plain(linear):
        return False
    alpha, beta = (np.full((), float(node.attrs.get(k, 1.0))) for k in ("alpha", "beta"))
    weight = _rounded(graph, node.inputs[1], alpha)
    bias = None if linear.bias is None else _rounded(graph, node.inputs[2], beta)
    if weight is None or (linear.bias is not None and bias is None):
        return False
    _write(graph, node, 1, weight)
    if bias is not None:
        _write(graph, node, 2, bias)
    for name in ("alpha", "beta"):
        node.attrs.pop(name, None)
    return True


def _apply(graph: Graph, linear: _Linear, side: int, scale: F64 | None, shift: F64 | None) -> bool:
    """Change weight and bias; False, and nothing changed, if they cannot hold the result.

    Args:
        graph: The graph.
        linear: The op.
        side: 0 for ``(W x + b) * scale + shift``, 1 for ``W (x * scale + shift) + b``.
        scale: Per channel of that side, or one element; None for 1.
        shift: The same; None for 0.
    """
    weight = linear.node.inputs[1]
    values = graph.values(weight).astype(np.float64)
    new = values if scale is None else linear.grouped(values) * linear.along(scale, side)
    rounded = _as(new.reshape(values.shape), weight)
    factor = scale if side == 0 else None
    extra = linear.response(values, shift) if side and shift is not None else shift
    bias = _new_bias(graph, linear, factor, extra)
    if rounded is None or bias is None:
        return False
    if scale is not None:
        _write(graph, linear.node, 1, rounded)
    if bias.size:
        _write_bias(graph, linear, bias)
    return True


def _new_bias(graph: Graph, linear: _Linear, factor: F64 | None, extra: F64 | None) -> Array | None:
    """``b * factor + extra`` in its type; empty if it does not change, None if it cannot be."""
    unchanged: Array = np.empty(0)
    if factor is None and extra is None:
        return unchanged
    if linear.bias is None:
        if extra is None:
            return unchanged
        fresh = np.broadcast_to(extra, (linear.channels(0),))
        return None if linear.node.op == "MatMul" else _as(fresh, linear.node.inputs[1])
    node, slot = linear.bias
    old = node.inputs[slot]
    if not graph.is_constant(old):
        return None
    values = graph.values(old).astype(np.float64)
    values = values if factor is None else values * factor
    return _as(values if extra is None else values + extra, old)


def _write_bias(graph: Graph, linear: _Linear, values: Array) -> None:
    if linear.bias is not None:
        _write(graph, *linear.bias, values)
        return
    node = linear.node
    bias = graph.const(f"{node.name or node.outputs[0].name}_bias", values)
    graph.set_inputs(node, [*node.inputs[:2], bias])


def _write(graph: Graph, node: Node, slot: int, values: Array) -> None:
    """Give a slot new values: under the old name if nobody else reads that constant."""
    old = node.inputs[slot]
    if len(graph.users(old)) == 1 and not graph.is_pinned(old):
        graph.make_constant(old, values)
    else:
        graph.set_input(node, slot, graph.const(old.name, values))


def _rounded(graph: Graph, constant: Tensor, factor: F64) -> Array | None:
    """A constant times a factor in its own type; None if it is none, or becomes infinite."""
    if not graph.is_constant(constant):
        return None
    return _as(graph.values(constant).astype(np.float64) * factor, constant)


def _as(values: F64, like: Tensor) -> Array | None:
    """Values rounded to a tensor's type; None if they overflow it."""
    with np.errstate(over="ignore"):
        rounded = values.astype(like.dtype)
    return rounded if np.isfinite(rounded.astype(np.float64)).all() else None
