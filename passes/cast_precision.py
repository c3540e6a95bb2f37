"""Compute in 16 bits: every float32 tensor of a model becomes float16 or bfloat16.

TensorRT reads precision from the graph alone (rule G01), and an INT8 model whose remaining
operators stayed in float32 can be slower than plain float16 (rule G02)::

    before:  y = Add(Conv(x, W), b)                        W, b : float32
    after:   y = Cast(Add(Conv(Cast(x), W'), b'))          W' = half(W), b' = half(b)

Each value is rounded to 11 significant bits: ``half(v) = v (1 + d)`` with ``|d| <= u = 2^-11``
for ``2^-14 <= |v| <= 65504``; below, the error is absolute, at most ``2^-25``; above, there is
infinity. A value that went through n roundings is off by about ``sqrt(n) u`` of its size: the
floor of this pass is 35 dB (n = 1,300) where values stay in range. Ranges are not looked at here;
whoever has measured them (``qcompiler/islands.py``) names the nodes to spare in ``keep``. With
``to = bfloat16`` the same holds with ``u = 2^-8``, and nothing overflows (``qcompiler/narrow.py``).

* Inputs and outputs of the graph keep their types: one Cast behind an input that floats read, one
  in front of an output, and none within. A ``Cast(to = float)`` becomes ``Cast(to = float16)``, and
  goes if nothing is left of it.
* Constants are stored in float16, scalars too: an FP32 epsilon beside an FP16 tensor is refused
  (rule G07). Finite values beyond 65504 that stand for infinity, as in masks, become 65504 of
  their sign: finite, so that a row masked out whole is no 0 / 0 unless its scores are below -16.
* Scales of Q and DQ become float16 with the tensors, so the result of a DQ has its reader's type
  and no Cast stands between them (rules B11, B24, G04). Below 2^-14 float16 has steps of 2^-24:
  such a scale is rounded up, and a weight's codes are computed anew for it,
  ``W_q' = round(W_q s / s')``. Channels that are dead have scales like 1e-30 and become zero.
* Bodies of ``If``, ``Loop`` and ``Scan`` are no border (``qcompiler/bodies.py``): what they capture
  is cast once, where it is defined, and what they give is of the type that is computed.  A running
  sum that a loop carries stays in float32 (``qcompiler/carried.py``).
* What must stay in float32, ``qcompiler/precision.py`` says and why; Casts stand around it, none
  inside. They cost nothing where their neighbours are pointwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from onnx import AttributeProto, NodeProto, TensorProto, numpy_helper

from qcompiler import formats
from qcompiler.bodies import flatten
from qcompiler.errors import UsageError, VerifyError
from qcompiler.graph import Graph, Node, Tensor
from qcompiler.narrow import FLOAT, NARROW, Narrow
from qcompiler.pipeline import Effect, Pass
from qcompiler.precision import (
    READS_ANY,
    Slots,
    constant_values,
    is_float,
    is_given,
    is_scale,
    narrow_slots,
)

# Of the codes that a narrow scale may need anew.
_FORMATS = {str(f.dtype): f for f in (formats.get("int8"), formats.get("fp8_e4m3"))}
# A scale that is off by more makes every weight of its channel wrong by as much.
_RECODED = 2.0**-10
# Attributes that name the element type of a result.
_TYPE_ATTRIBUTES = ("to", "output_dtype")


@dataclass(frozen=True)
class CastPrecision(Pass):
    """``f(x) -> Cast(f16(Cast(x)))``: float32 tensors and constants become 16 bits wide.

    Attributes:
        to: The narrow type: ``float16`` or ``bfloat16``.
        keep: Labels of nodes that stay in float32; as text, separated by commas.
    """

    effect: ClassVar[Effect] = Effect.LOSSY
    phase: ClassVar[str] = "apply"
    after: ClassVar[tuple[str, ...]] = ("insert-qdq", "quantize-weights")

    to: str = "float16"
    keep: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.to not in NARROW:
            raise UsageError(f"cannot cast to {self.to!r}", hint=f"to={' or '.join(NARROW)}")
        if not isinstance(self.keep, tuple):
            object.__setattr__(self, "keep", tuple(str(self.keep).split(",")))

    def run(self, graph: Graph) -> int:
        """Cast the graph.

        Returns:
            Tensors that became narrow, plus constants converted and Casts added.

        Raises:
            InputError: ``keep`` names a node that the graph lacks.
        """
        flat, low = flatten(graph), NARROW[self.to]
        slots = narrow_slots(flat.graph, flat.labels(self.keep), low)
        count = _Rewrite(flat.graph, slots, low, flat.inner).run()
        if count and flat.graph is not graph:
            graph.adopt(flat.fold(flat.graph.proto()))
        return count


@dataclass(frozen=True)
class _Read:
    """One slot that reads a float32 tensor, and whether it wants 16 bits."""

    node: Node
    index: int
    tensor: Tensor
    half: bool


class _Rewrite:
    """One run; what reads what is written down before anything changes."""

    def __init__(
        self, graph: Graph, slots: Mapping[int, Slots], low: Narrow, inner: Collection[str]
    ) -> None:
        self._graph = graph
        self._low = low
        self._inner = inner
        self._slots = slots
        self._count = 0
        self._nodes = graph.nodes
        self._reads = [r for n in self._nodes for r in self._reads_of(n)]
        self._readers: dict[int, list[_Read]] = defaultdict(list)
        for read in self._reads:
            self._readers[id(read.tensor)].append(read)
        # Tensor -> what carries its value in 16 bits: itself, or a twin if its name is pinned.
        self._half: dict[int, Tensor] = {}
        self._made: dict[tuple[int, str], Tensor] = {}
        self._moved: dict[int, Node] = {}

    def _reads_of(self, node: Node) -> list[_Read]:
        half = self._slots[id(node)].inputs if id(node) in self._slots else ()
        body = self._graph.has_body(node)
        return [
            _Read(node, i, t, bool(half) and half[i])
            for i, t in enumerate(node.inputs)
            if is_float(t) and not (body and self._is_captured(node, i, t))
        ]

    def _is_captured(self, node: Node, index: int, tensor: Tensor) -> bool:
        return not any(u is node and i == index for u, i in self._graph.users(tensor))

    def run(self) -> int:
        """Edit the graph; returns how much there was to do."""
        for node in self._nodes:
            if id(node) in self._slots:
                self._write_half(node, self._slots[id(node)])
        for read in self._reads:
            if read.half and is_scale(read.node, read.index):
                self._recode(self._moved.get(id(read.node), read.node), read.tensor)
        for read in self._reads:
            source = self._source(read)
            if source is not read.tensor:
                self._graph.set_input(self._moved.get(id(read.node), read.node), read.index, source)
        self._drop_idle_casts()
        return self._count

    def _drop_idle_casts(self) -> None:
        """Casts that read or wrote float32 before this run, and now change no type."""
        touched = {id(r.node) for r in self._reads} | set(self._slots)
        for old in self._nodes:
            node = self._moved.get(id(old), old)
            if old.op != "Cast" or id(old) not in touched:
                continue
            if not node.inputs[0].dtype == node.outputs[0].dtype == self._low.dtype:
                continue
            if node.outputs[0].name in self._inner:
                # What a body captures keeps its name.
                for user, index in self._graph.users(node.outputs[0]):
                    self._graph.set_input(user, index, node.inputs[0])
            else:
                self._graph.replace(node.outputs[0], node.inputs[0])

    # ------------------------------------------------------------------ what nodes write

    def _write_half(self, node: Node, slots: Slots) -> None:
        written = [t for t, half in zip(node.outputs, slots.outputs, strict=True) if half]
        if not written:
            return
        self._count += len(written)
        for key in _TYPE_ATTRIBUTES:
            if node.attrs.get(key) == TensorProto.FLOAT:
                node.attrs[key] = self._low.element
        twins = {t.name: self._graph.fresh(self._twin(t)) for t in written if self._pinned(t)}
        if twins or node.op == "ConstantOfShape":
            self._rebuild(node, twins)
        for tensor in written:
            if tensor.name in twins:
                self._half[id(tensor)] = self._behind_cast(tensor, twins[tensor.name])
            else:
                self._graph.retype(tensor, self._low.dtype)
                self._half[id(tensor)] = tensor

    def _twin(self, tensor: Tensor) -> str:
        return f"{tensor.name}_{self._low.suffix}"

    def _pinned(self, tensor: Tensor) -> bool:
        return self._graph.is_pinned(tensor)

    def _rebuild(self, node: Node, names: Mapping[str, str]) -> None:
        """Write a node anew, with other outputs; the facade cannot rename what is pinned."""
        proto = self._graph.node_proto(node)
        for index, name in enumerate(proto.output):
            proto.output[index] = names.get(name, name)
        if node.op == "ConstantOfShape":
            _narrow_value(proto, self._low)
        self._graph.drop(node)
        self._graph.add_proto(proto)
        self._moved[id(node)] = self._graph.nodes[-1]

    def _behind_cast(self, tensor: Tensor, name: str) -> Tensor:
        """Let a pinned tensor be the Cast of its narrow twin."""
        twin = self._named(name)
        twin.dtype, twin.shape = self._low.dtype, tensor.shape
        self._graph.replace(tensor, self._cast(twin, tensor.name, FLOAT))
        return twin

    # ------------------------------------------------------------------ what nodes read

    def _source(self, read: _Read) -> Tensor:
        """The tensor that a slot must read now."""
        tensor, half = read.tensor, self._half.get(id(read.tensor))
        if read.node.op in READS_ANY:
            return tensor if half is None else half
        if not read.half:
            return tensor if half is not tensor else self._once(tensor, FLOAT)
        if half is not None:
            return half
        if is_given(self._graph, tensor):
            return self._constant(read)
        return self._once(tensor, self._low.dtype)

    def _once(self, tensor: Tensor, dtype: np.dtype[Any]) -> Tensor:
        """The Cast of a tensor, shared by all who want it."""
        key = (id(tensor), str(dtype))
        if key not in self._made:
            name = f"{tensor.name}_float" if dtype == FLOAT else self._twin(tensor)
            self._made[key] = self._cast(tensor, name, dtype)
        return self._made[key]

    def _cast(self, tensor: Tensor, output: str, dtype: np.dtype[Any]) -> Tensor:
        self._count += 1
        to = TensorProto.FLOAT if dtype == FLOAT else self._low.element
        return self._graph.add(
            "Cast",
            [tensor],
            output=output,
            dtype=dtype,
            shape=tensor.shape,
            attrs={"to": to},
        )

    def _constant(self, read: _Read) -> Tensor:
        """A constant in 16 bits: under its own name if nobody needs it in float32."""
        tensor, scale = read.tensor, is_scale(read.node, read.index)
        key = (id(tensor), "scale" if scale else "constant")
        if key not in self._made:
            values = constant_values(self._graph, tensor)
            if values is None:
                return self._once(tensor, self._low.dtype)
            self._count += 1
            narrowed = self._low.narrow(values, scale=scale)
            if self._is_free(tensor, scale):
                self._graph.make_constant(tensor, narrowed)
                self._made[key] = self._named(tensor.name)
            else:
                self._made[key] = self._graph.const(self._twin(tensor), narrowed)
        return self._made[key]

    def _recode(self, node: Node, scale: Tensor) -> None:
        """Make up in the codes of a weight for what its scale loses in 16 bits."""
        codes = node.inputs[0]
        element = _FORMATS.get(str(codes.dtype))
        if node.op != "DequantizeLinear" or element is None or node.attrs.get("block_size"):
            return
        if not (self._graph.is_constant(codes) and self._graph.is_constant(scale)):
            return
        if len(node.inputs) > 2 and node.inputs[2].name and not self._is_zero(node.inputs[2]):
            return
        old = self._graph.values(scale)
        ratio = old.astype(np.float64) / self._low.narrow(old, scale=True).astype(np.float64)
        # A code of 4 bits stays what it is if it moves by less than half a step.
        if (np.abs(ratio - 1) < (2.0**-5 if element.is_float else _RECODED)).all():
            return
        values = self._graph.values(codes)
        if ratio.ndim:
            axis = int(node.attrs.get("axis", 1)) % values.ndim
            ratio = ratio.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        new = element.encode(element.decode(values) * ratio)
        if self._graph.sole_user(codes) is node:
            self._graph.make_constant(codes, new)
        else:
            self._graph.set_input(node, 0, self._graph.const(self._twin(codes), new))

    def _is_zero(self, tensor: Tensor) -> bool:
        return self._graph.is_constant(tensor) and not self._graph.values(tensor).any()

    def _is_free(self, tensor: Tensor, scale: bool) -> bool:
        if not self._graph.is_constant(tensor) or self._graph.is_pinned(tensor):
            return False
        return all(
            r.half and r.node.op not in READS_ANY and is_scale(r.node, r.index) == scale
            for r in self._readers[id(tensor)]
        )

    def _named(self, name: str) -> Tensor:
        found = self._graph.tensor(name)
        if found is None:
            raise VerifyError("a tensor that was just made is missing", where=name)
        return found


def _narrow_value(proto: NodeProto, low: Narrow) -> None:
    """Let a ``ConstantOfShape`` fill with a narrow value (its default is a float32 zero)."""
    value = next((a for a in proto.attribute if a.name == "value"), None)
    filled = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value.t)
    if value is None:
        value = proto.attribute.add(name="value", type=AttributeProto.TENSOR)
    value.t.CopyFrom(numpy_helper.from_array(low.narrow(filled)))
