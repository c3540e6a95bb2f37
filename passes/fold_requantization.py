"""Do not quantize again what has just been dequantized with the same numbers.

Before::

    y = DequantizeLinear(c, s, z)     d = QuantizeLinear(y, s, z)
    y = DequantizeLinear(c, s, z)     t = Transpose(y)     d = QuantizeLinear(t, s, z)

After: ``d`` is ``c``, and in the second case ``d = Transpose(c)``.  Scale, zero point, type of the
codes, axis and block size must be the same.

**Why not a code changes.**  With ``k = c - z`` and ``u`` half the distance from 1 to the next
number of the scale's type, the two roundings give ``fl(fl(k s) / s) = k (1 + e)`` with
``|e| <= 2 u + u^2``, if ``k s`` is neither subnormal nor too large.  That is rounded to ``k`` as
long as ``|k| |e| < 1/2``:

* FP32, ``u = 2^-24``: for every ``|k| < 2^22``, so for all 8-bit codes, ``|k| <= 255``;
* FP16, ``u = 2^-11``: for ``|k| <= 511``, likewise;
* BF16, ``u = 2^-8``: for ``|k| < 64`` only.  It fails for some scales, and not for powers of two;
* FP8 (E4M3) codes: a value moves to the next one if it is off by ``2^-5`` of itself, and ``2 u`` is
  ``2^-7`` at most.  NaN stays NaN.

Where ``k s`` is subnormal or overflows, the bound says nothing.  So the condition is the claim
itself: the 256 codes are tried with every scale and zero point of the pair, with the quotient in
the type of the scale and, since runtimes differ in that, in FP32.  Wider codes stay.

**Through data movement.**  What only moves elements commutes with a function of each of them, if
one scale serves all: per tensor.  INT8 and UINT8 codes are moved, by operators whose every reader
quantizes again with the same numbers, so that nothing is moved twice.  onnxruntime.quantization
writes such a pair behind every Reshape, Transpose and Split; without it the DequantizeLinear stands
directly in front of the product, as TensorRT wants it.

Other readers of ``y`` keep it.  What stays:

* pairs whose numbers differ: these do round;
* Gather, whose INT8 form TensorRT does not document; movement of FP8 codes, which it refuses in
  Slice and Unsqueeze ("not consumed by IDequantizeLayer …"); and of constant codes ("only allowed
  before DQ"; recorded builds, tensorrt-rtx 1.7.1, which took computed INT8 codes in all operators
  below);
* codes that are an input or an output of the graph: DequantizeLinear has to read them directly, and
  QuantizeLinear to write them.

It runs for TensorRT targets only.  TensorRT for RTX makes the same kernels with and without; ONNX
Runtime 1.32 makes a QLinearMatMul only where the DequantizeLinear reads a QuantizeLinear, so that
the attention of a ViT loses 14 of 42 there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from qcompiler.graph import Graph, Node
from qcompiler.pipeline import Effect, Pass
from qcompiler.verify import DEQUANTIZE, QUANTIZE, pair_fault
from qcompiler.weights import Array

_INTEGERS = (np.dtype(np.int8), np.dtype(np.uint8))
_FP8 = np.dtype(ml_dtypes.float8_e4m3fn)
_F32 = np.dtype(np.float32)
_MOVES = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Slice", "Split", "Expand"}
)


@dataclass(frozen=True)
class FoldRequantization(Pass):
    """``QuantizeLinear(DequantizeLinear(c, s, z), s, z) -> c``, also behind data movement."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"

    def run(self, graph: Graph) -> int:
        """Fold in graph order, so that codes go through a chain; count the QuantizeLinear."""
        return sum(_fold(graph, n) for n in graph.nodes if _is_exact(graph, n))


@dataclass
class _Way:
    """Data movement that ends in nothing but equal ``QuantizeLinear``."""

    moves: list[Node]
    ends: list[Node]


def _fold(graph: Graph, dequantize: Node) -> int:
    count = 0
    for user, slot in graph.users(dequantize.outputs[0]):
        way = _Way([], [])
        if slot or not _collect(graph, dequantize, user, way) or not way.ends:
            continue
        codes = dequantize.inputs[0]
        graph.set_input(user, 0, codes)
        for tensor in (t for n in way.moves for t in n.outputs if t.name):
            graph.retype(tensor, np.dtype(codes.dtype))
        for end in way.ends:
            graph.replace(end.outputs[0], end.inputs[0])
        count += len(way.ends)
    return count


def _collect(graph: Graph, dequantize: Node, node: Node, way: _Way) -> bool:
    """Follow values to where they are quantized again; False if anything else reads them."""
    if node.op == QUANTIZE and not node.domain:
        way.ends.append(node)
        return _undoes(graph, dequantize, node)
    if node.op not in _MOVES or node.domain or not _movable(graph, dequantize):
        return False
    way.moves.append(node)
    return all(
        slot == 0 and _collect(graph, dequantize, reader, way)
        for reader, slot in _readers(graph, node)
    )


def _movable(graph: Graph, dequantize: Node) -> bool:
    """Whether codes may be moved: INT8 or UINT8 that a node computes, with one scale."""
    codes = dequantize.inputs[0]
    whole = dequantize.inputs[1].shape == [] and codes.dtype in _INTEGERS
    return whole and graph.producer(codes) is not None


def _readers(graph: Graph, node: Node) -> Iterator[tuple[Node, int]]:
    """Who reads the results of a node; a slot of -1 stands for the world outside."""
    for tensor in (t for t in node.outputs if t.name):
        if graph.is_pinned(tensor):
            yield node, -1
        yield from graph.users(tensor)


def _undoes(graph: Graph, dequantize: Node, quantize: Node) -> bool:
    types = (quantize.outputs[0].dtype, quantize.inputs[0].dtype)
    return (
        types == (dequantize.inputs[0].dtype, dequantize.inputs[1].dtype)
        and not quantize.attrs.get("precision", 0)
        and not graph.is_pinned(quantize.outputs[0])
        and pair_fault(graph, quantize, dequantize) == ""
    )


# ---------------------------------------------------------------------- arithmetic


def _is_exact(graph: Graph, node: Node) -> bool:
    """Whether a node is a ``DequantizeLinear`` that ``QuantizeLinear`` undoes, code by code."""
    if node.op != DEQUANTIZE or node.domain or not graph.users(node.outputs[0]):
        return False
    scale, *rest = (t for t in node.inputs[1:] if t.name)
    codes = node.inputs[0].dtype
    if codes is None or not all(graph.is_constant(t) for t in (scale, *rest)):
        return False
    if scale.dtype != node.outputs[0].dtype:
        return False
    factors = graph.values(scale)
    zeros = graph.values(rest[0]) if rest else np.zeros(factors.shape, codes)
    return returns_every_code(factors, zeros, codes)


def returns_every_code(scale: Array, zero: Array, codes: np.dtype[Any]) -> bool:
    """Whether ``QuantizeLinear(DequantizeLinear(c, s, z), s, z) = c`` for every code ``c``.

    Args:
        scale: Scales of any shape, in FP32, FP16 or BF16.
        zero: Zero points of that shape.
        codes: Type of the codes; the answer is no if it is not INT8, UINT8 or FP8 (E4M3).
    """
    if codes not in (*_INTEGERS, _FP8) or scale.shape != zero.shape:
        return False
    every = np.arange(256, dtype=np.uint8).view(codes)
    every = every[np.isfinite(every.astype(np.float32))]
    factor, offset = scale.reshape(-1, 1), zero.reshape(-1, 1).astype(np.float32)
    with np.errstate(all="ignore"):
        values = (every.astype(np.float32) - offset).astype(scale.dtype) * factor
        return all(
            np.array_equal(_quantized(values.astype(t) / factor.astype(t), offset, codes), want)
            for t in (scale.dtype, _F32)
            for want in [np.broadcast_to(every.astype(np.float32), values.shape)]
        )


def _quantized(quotient: Array, offset: NDArray[np.float32], codes: np.dtype[Any]) -> Array:
    """The codes of quotients, as float32."""
    exact = quotient.astype(np.float32)
    if codes == _FP8:
        return exact.astype(codes).astype(np.float32)
    limits = np.iinfo(codes)
    return np.clip(np.rint(exact) + offset, limits.min, limits.max)
