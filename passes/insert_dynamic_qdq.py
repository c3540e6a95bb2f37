"""Put the activation pairs of the plan whose scales are computed at run time into the graph.

One scale for each row of K ("token"; FP8 row-wise)::

    before:  y = MatMul(x, W)                     or Gemm(x, W, c)

    after:   u = Max(ReduceMax(|x|, last axis) / 1.75, 256 s_min)           [..., M, 1]
             y = MatMul(DequantizeLinear(QuantizeLinear(x / u, 2^-8), 2^-8), W) * u   (+ c)

The scale of a row does not depend on k, so it can be taken out of the sum and applied to the
result.  With ``s = max(amax / 448, s_min)`` and ``u = 256 s`` the codes are those of
``QuantizeLinear(x, s)``, bit for bit in float32, since a power of two rounds nothing; and Q and DQ
have a constant scalar.  That is what TensorRT has an FP8 kernel for: with ``s`` as a run-time scale
of Q and DQ (``axis = -1, block_size = K``) TensorRT for RTX 1.7.1 refuses to build, and with ``s``
on ``axis = 0`` it multiplies in 16 bits.  Dequantized values end at 1.75, which keeps the product
clear of float16's end.

One scale for each block of a row (1 x 128; DeepSeek-V3)::

    after:   s = Max(ReduceMax(|Reshape(x, [..., K / 128, 128])|, last axis) / 448, s_min)
             y = MatMul(DequantizeLinear(QuantizeLinear(x, s), s), W)  axis = -1, block_size = 128

Such a scale belongs to a part of the sum and stays inside it (rule C19); it is ONNX's own form, of
opset 21, which ONNX Runtime runs exactly and TensorRT refuses.

One tensor is quantized once, whoever reads it; its readers that are not planned keep ``x``.
Source: TensorRT-LLM, FP8_PER_CHANNEL_PER_TOKEN and FP8_BLOCK_SCALES.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import ArrayLike

from qcompiler import ops
from qcompiler.behind import OUTSIDE, scale_result
from qcompiler.errors import InputError
from qcompiler.graph import Graph, Node, Tensor
from qcompiler.passes.insert_qdq import nodes_by_label, rewire, tensor_of
from qcompiler.pipeline import Effect, Pass
from qcompiler.plan import Decision, QuantPlan, Slot


@dataclass(frozen=True)
class InsertDynamicQdq(Pass):
    """``MatMul(x, W) -> MatMul(DQ(Q(x / u)), W) * u``, ``u`` by the largest ``|x|`` of each row."""

    plan: QuantPlan

    effect: ClassVar[Effect] = Effect.LOSSY
    phase: ClassVar[str] = "apply"
    after: ClassVar[tuple[str, ...]] = ("insert-qdq",)

    def run(self, graph: Graph) -> int:
        """Insert every pair that the plan leaves to run time.

        Raises:
            InputError: The plan names a tensor or node that the graph lacks, a node that is no
                product of rows, or blocks that do not fill a row.
        """
        nodes = nodes_by_label(graph)
        constants = _Constants(graph)
        done = 0
        for decision in self.plan.activations:
            slots = self.plan.slots(decision)
            if not slots or not decision.storage.dynamic:
                continue
            tensor = tensor_of(graph, decision)
            lengths = {_row_length(nodes, slot, decision) for slot in slots}
            work = _Quantizer(graph, decision, tensor, constants)
            if decision.storage.behind:
                factor = work.factor()
                rewire(graph, nodes, slots, tensor, work.pair_of_rows(factor))
                for slot in slots:
                    scale_result(graph, nodes[slot.node], factor)
            else:
                rewire(graph, nodes, slots, tensor, work.pair_of_blocks(max(lengths)))
            done += 1
        return done


def _row_length(nodes: dict[str, Node], slot: Slot, decision: Decision) -> int:
    """K of one reader.

    Raises:
        InputError: It is no product of rows, or the plan's blocks do not fill one.
    """
    node, block = nodes.get(slot.node), decision.storage.block
    shape = () if node is None or len(node.inputs) < 2 else ops.constant_shape(node.inputs[1])
    if node is None or node.op not in ("MatMul", "Gemm") or slot.index or len(shape) < 2:
        raise InputError(
            f"input {slot.index} of node {slot.node!r} is no row of a product with a constant",
            where=decision.tensor,
            hint="the plan belongs to another model; make it again",
        )
    length = ops.reduction_length(node, 1, shape)
    if not block or length % block or (decision.storage.behind and length != block):
        raise InputError(
            f"the plan has blocks of {block} elements for rows of {length}",
            where=decision.tensor,
            hint="as many as a row has; or, where no scale stands behind, a divisor of it",
        )
    return length


class _Constants:
    """Small constants, one for each value and type."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[str, str], Tensor] = {}

    def get(self, name: str, values: ArrayLike, dtype: np.dtype[np.generic]) -> Tensor:
        array = np.array(values, dtype)
        key = (str(dtype), repr(array.tolist()))
        if key not in self._made:
            self._made[key] = self._graph.const(f"run_time_{name}", array)
        return self._made[key]


class _Quantizer:
    """The nodes that quantize one tensor."""

    def __init__(
        self, graph: Graph, decision: Decision, tensor: Tensor, constants: _Constants
    ) -> None:
        self._graph = graph
        self._tensor = tensor
        self._constants = constants
        self._float = np.dtype(decision.dtype)
        self._element = decision.storage.spec().element
        self._block = decision.storage.block or 1
        if isinstance(decision.scale, tuple):
            raise InputError(
                "the plan has a list of scales for an activation that is scaled at run time",
                where=decision.tensor,
                hint="give one number, the least scale",
            )
        decision.qparams()  # refuses what is not positive and finite
        self._least = decision.scale

    def factor(self) -> Tensor:
        """``u`` of every row, ``[..., 1]``."""
        largest = self._largest(self._tensor, keep=True)
        return self._scale(largest, self._element.max / OUTSIDE, self._least * OUTSIDE)

    def pair_of_rows(self, factor: Tensor) -> Tensor:
        """``DQ(Q(x / u, 2^-8), 2^-8)``."""
        one = self._number("unit", 1 / OUTSIDE)
        zero = self._constants.get("zero_point", 0, self._element.dtype)
        small = self._add("Div", [self._tensor, factor], "normalized", self._tensor)
        codes = self._add("QuantizeLinear", [small, one, zero], "q", self._tensor)
        codes.dtype = self._element.dtype
        return self._add("DequantizeLinear", [codes, one], "dq", self._tensor)

    def pair_of_blocks(self, length: int) -> Tensor:
        """``DQ(Q(x, s), s)`` with a scale ``s`` for each block of a row: ``[..., K / block]``."""
        rank = len(self._tensor.shape or ())
        shape = [0] * (rank - 1) + [length // self._block, self._block]
        split = self._constants.get("blocks", shape, np.dtype(np.int64))
        blocks = self._add("Reshape", [self._tensor, split], "blocks", None)
        largest = self._largest(blocks, keep=False)
        scale = self._scale(largest, self._element.max, self._least)
        attrs = {"axis": rank - 1, "block_size": self._block}
        stored = {**attrs, "output_dtype": self._element.onnx_type}
        codes = self._add("QuantizeLinear", [self._tensor, scale], "q", self._tensor, stored)
        codes.dtype = self._element.dtype
        return self._add("DequantizeLinear", [codes, scale], "dq", self._tensor, attrs)

    def _largest(self, data: Tensor, *, keep: bool) -> Tensor:
        axes = self._constants.get("axes", [-1], np.dtype(np.int64))
        magnitude = self._add("Abs", [data], "abs", data)
        return self._add("ReduceMax", [magnitude, axes], "amax", None, {"keepdims": int(keep)})

    def _scale(self, largest: Tensor, divisor: float, least: float) -> Tensor:
        quotient = self._add("Div", [largest, self._number("range", divisor)], "quotient", None)
        return self._add("Max", [quotient, self._number("least", least)], "scale", None)

    def _number(self, name: str, value: float) -> Tensor:
        return self._constants.get(name, value, self._float)

    def _add(
        self,
        op: str,
        inputs: list[Tensor],
        name: str,
        like: Tensor | None,
        attrs: dict[str, int] | None = None,
    ) -> Tensor:
        """A node whose result has the shape of ``like``, if that is known."""
        return self._graph.add(
            op,
            inputs,
            output=f"{self._tensor.name}_{name}",
            dtype=self._float,
            shape=None if like is None else like.shape,
            attrs=attrs,
        )
