"""Which operands of a graph can be 16 bits wide, and which nodes must stay in 32; no edits.

What an operator accepts is asked of its ONNX schema at the graph's opset, never of a list: an
operand may become narrow where the type constraint of its formal parameter names
``tensor(float16)``, or ``tensor(bfloat16)``.  So ``Resize`` takes a 16-bit image beside 32-bit
scales, the mean that ``LayerNormalization`` can return stays in 32 bits, and ``Range`` stays as it
is.

Some nodes stay in float32 as a whole:

* those of other domains, with a tensor of unknown type (a sequence), or with sub-graphs other than
  those of ``If``, ``Loop`` and ``Scan``, which are looked at flat (``qcompiler/bodies.py``);
* those of ``keep``;
* those that carry a running sum through a loop (``qcompiler/carried.py``);
* those that would read a constant which the narrow type cannot hold: a finite value beyond its
  largest (unless it stands for infinity, see ``stands_for_infinity``), or one whose every element
  would become zero.  Of such an epsilon, the square root and the quotient that follow stay too:
  ``x / sqrt(v + 1e-12)`` is no number if ``v + 1e-12`` is rounded to 0 in between;
* arithmetic on lengths (``Shape -> Cast -> Mul``) and on the number of an iteration, and the angles
  that sines and cosines take of positions (``Cast -> Mul -> Cos``): float16 skips every other
  integer above 2048, bfloat16 above 256;
* readers of a ``DequantizeLinear`` that cannot write float16 (before opset 19), and pairs of which
  every reader stays: a Cast behind a DQ costs the fusion (rules B11, B24, G04);
* what only passes numbers from float32 to float32: two Casts around it would gain nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx

from qcompiler import carried
from qcompiler.bodies import is_link
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.narrow import FLOAT, FLOAT16, Narrow
from qcompiler.ops import is_standard, moves_data
from qcompiler.weights import Array

# Operators whose result has a type of its own, which the cast can rewrite.
_SETS_TYPE = frozenset({"Cast", "ConstantOfShape", "DequantizeLinear"})
# Here a huge number means "no limit" or "masked out", and 65504 says the same.
_TAKES_INFINITY = frozenset(
    {
        "Where", "Clip", "Min", "Max", "Pad", "Add", "Sub", "Concat", "Trilu",
        "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal",
    }
)  # fmt: skip
# These read any type and give the same: no Cast is made for their sake.
READS_ANY = frozenset({"Cast", "Shape", "Size"})
_QDQ = frozenset({"QuantizeLinear", "DequantizeLinear"})
# From a guarded variance or norm to the quotient it is for.
_ROOTS = frozenset({"Sqrt", "Reciprocal", "Pow"})
# Position times frequency, as exporters write it.
_ANGLE = frozenset({"Mul", "Div", "MatMul", "Einsum", "Concat", "Cast"})
# What gains nothing from 16 bits between neighbours in float32, besides what moves data.
_PASSES = frozenset({"Cast", "Concat", "ConstantOfShape"})
_QUOTIENTS = frozenset({"Div", "Mul"})


@dataclass(frozen=True)
class Slots:
    """Which inputs and outputs of one node are narrow."""

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]

    def __bool__(self) -> bool:
        return any(self.inputs) or any(self.outputs)


def is_float(tensor: Tensor) -> bool:
    """Whether a tensor is known to be float32."""
    return bool(tensor.name) and tensor.dtype is not None and tensor.dtype == FLOAT


def is_scale(node: Node, index: int) -> bool:
    """Whether a slot is the scale of a Q or DQ."""
    return is_standard(node) and node.op in _QDQ and index == 1


def is_given(graph: Graph, tensor: Tensor) -> bool:
    """Whether a tensor is an initializer or the output of a ``Constant`` node."""
    producer = graph.producer(tensor)
    return graph.is_constant(tensor) or (
        producer is not None and producer.op == "Constant" and is_standard(producer)
    )


def constant_values(graph: Graph, tensor: Tensor) -> Array | None:
    """The float32 values of an initializer or of a ``Constant`` node that is not lifted yet."""
    if graph.is_constant(tensor):
        return graph.values(tensor)
    producer = graph.producer(tensor)
    if producer is None or not is_given(graph, tensor):
        return None
    for name in ("value_float", "value_floats"):
        if name in producer.attrs:
            return np.asarray(producer.attrs[name], np.float32)
    return graph.attribute(producer, "value") if "value" in producer.attrs else None


def narrow_slots(
    graph: Graph, keep: Collection[str] = (), low: Narrow = FLOAT16
) -> dict[int, Slots]:
    """For every node (by identity) that computes in the narrow type, the slots that do.

    Args:
        graph: A flat graph; types must have been inferred.
        keep: Labels of nodes that stay in float32.
        low: The narrow type.
    """
    return _Decision(graph, keep, low).half


class _Decision:
    """Starts from what the schemas allow and takes nodes away."""

    def __init__(self, graph: Graph, keep: Collection[str], low: Narrow) -> None:
        self._graph = graph
        self._low = low
        self.half = {id(n): s for n in graph.nodes if (s := _allowed(graph, n, low))}
        self._lengths: set[int] = set()
        for node in carried.sums(graph).values():
            self._keep(node)
        for node in graph.nodes:
            if self._counts_elements(node) or label(node) in keep:
                self._keep(node)
            for kept in _angles(graph, node):
                self._keep(kept)
        for node in graph.nodes:
            self._behind_old_dequantize(node)
            self._unfit_constants(node)
        self._pairs()
        self._passages()

    def _keep(self, node: Node) -> None:
        self.half.pop(id(node), None)

    def _writes_half(self, node: Node | None, tensor: Tensor) -> bool:
        slots = None if node is None else self.half.get(id(node))
        if node is None or slots is None:
            return False
        return any(t is tensor and s for t, s in zip(node.outputs, slots.outputs, strict=True))

    def _reads_half(self, node: Node, index: int) -> bool:
        slots = self.half.get(id(node))
        return slots is not None and slots.inputs[index]

    def _counts_elements(self, node: Node) -> bool:
        """A float made from lengths, or computed from such floats and constants alone."""
        if not any(is_float(t) for t in node.outputs):
            return False
        floats = [t for t in node.inputs if is_float(t)]
        if node.op == "Cast" and not floats:
            counts = _is_length(self._graph, node.inputs[0])
        else:
            made = [t for t in floats if not is_given(self._graph, t)]
            producers = [self._graph.producer(t) for t in made]
            counts = bool(made) and all(id(p) in self._lengths for p in producers)
        if counts:
            self._lengths.add(id(node))
        return counts

    def _behind_old_dequantize(self, node: Node) -> None:
        for tensor in node.inputs:
            producer = self._graph.producer(tensor)
            if producer is None or producer.op != "DequantizeLinear" or not is_float(tensor):
                continue
            if not _allowed(self._graph, producer, self._low):
                self._keep(node)

    def _unfit_constants(self, node: Node) -> None:
        slots = self.half.get(id(node))
        if slots is None:
            return
        for index, tensor in enumerate(node.inputs):
            if not slots.inputs[index] or not is_float(tensor):
                continue
            values = constant_values(self._graph, tensor)
            if values is None:
                continue
            low = self._low
            overflows = low.overflows(values) and not stands_for_infinity(self._graph, node, index)
            if overflows or (low.vanishes(values) and not is_scale(node, index)):
                for kept in (node, *_up_to_quotient(self._graph, node)):
                    self._keep(kept)

    def _pairs(self) -> None:
        """A pair whose every reader stays in float32 stays with them, so that no Cast follows."""
        for node in self._graph.nodes:
            if node.op != "QuantizeLinear" and not self._is_weight_dequantize(node):
                continue
            ends = [node]
            if node.op == "QuantizeLinear":
                ends = [u for u, _ in self._graph.users(node.outputs[0]) if u.op in _QDQ]
            readers = [u for e in ends for u in self._graph.users(e.outputs[0])]
            if readers and not any(self._reads_half(user, index) for user, index in readers):
                for kept in (node, *ends):
                    self._keep(kept)

    def _is_weight_dequantize(self, node: Node) -> bool:
        return node.op == "DequantizeLinear" and self._graph.is_constant(node.inputs[0])

    def _passages(self) -> None:
        """The largest set of data movers and Casts whose whole surroundings are float32."""
        inside = {id(n): n for n in self._graph.nodes if id(n) in self.half and _passes_on(n)}
        changed = True
        while changed:
            outside = [k for k, n in inside.items() if self._touches_half(n, inside)]
            for key in outside:
                del inside[key]
            changed = bool(outside)
        for node in inside.values():
            self._keep(node)

    def _touches_half(self, node: Node, inside: Collection[int]) -> bool:
        if node.op != "Cast":
            producers = [(self._graph.producer(t), t) for t in node.inputs]
            if any(id(p) not in inside and self._writes_half(p, t) for p, t in producers):
                return True
        return any(
            id(user) not in inside and user.op not in READS_ANY and self._reads_half(user, index)
            for tensor in node.outputs
            if is_float(tensor)
            for user, index in self._graph.users(tensor)
        )


def _passes_on(node: Node) -> bool:
    return moves_data(node) or is_link(node) or (is_standard(node) and node.op in _PASSES)


def _allowed(graph: Graph, node: Node, low: Narrow) -> Slots | None:
    """What the schema allows; None if it is nothing."""
    tensors = [*node.inputs, *node.outputs]
    if not any(is_float(t) for t in tensors) or any(t.name and t.dtype is None for t in tensors):
        return None
    if is_link(node):
        return Slots(
            tuple(is_float(t) for t in node.inputs), tuple(is_float(t) for t in node.outputs)
        )
    if not is_standard(node) or graph.has_body(node):
        return None
    try:
        schema = onnx.defs.get_schema(node.op, graph.opset, "")
    except onnx.defs.SchemaError:
        return None
    ins = [_formal(schema.inputs, i) for i in range(len(node.inputs))]
    outs = [_formal(schema.outputs, i) for i in range(len(node.outputs))]
    if not all(f.is_homogeneous for f in (*ins, *outs)):
        return None
    named = {f.type_str for f, t in zip(ins, node.inputs, strict=True) if t.name}
    slots = Slots(
        tuple(
            is_float(t) and low.constraint in f.types for f, t in zip(ins, node.inputs, strict=True)
        ),
        tuple(
            is_float(t)
            and low.constraint in f.types
            and (f.type_str in named or node.op in _SETS_TYPE)
            for f, t in zip(outs, node.outputs, strict=True)
        ),
    )
    return slots or None


_Formal = onnx.defs.OpSchema.FormalParameter


def _formal(formals: Collection[_Formal], index: int) -> _Formal:
    """The parameter of a slot; the last one stands for all that follow."""
    return list(formals)[min(index, len(formals) - 1)]


def stands_for_infinity(graph: Graph, node: Node, index: int) -> bool:
    """Whether a huge constant in this slot is a mask or a limit, for which 65504 does as well.

    Limits (``Clip``, ``Min``, ``Pad`` …), operands of comparisons, the branches of a ``Where``,
    what is added to scores, and what a flag of zeros and ones is multiplied by:
    ``Mul(Sub(1, Cast(mask)), -3.4e38)``.
    """
    if not is_standard(node):
        return False
    if node.op in _TAKES_INFINITY or moves_data(node):
        return True
    if node.op != "Mul":
        return False
    return any(_is_flag(graph, t) for i, t in enumerate(node.inputs) if i != index)


def _is_flag(graph: Graph, tensor: Tensor) -> bool:
    """Made of integers or booleans by moving data and by subtracting from a constant."""
    producer = graph.producer(tensor)
    for _ in range(8):
        if producer is None or not is_standard(producer):
            return False
        if _from_integers(producer):
            return True
        made = [t for t in producer.inputs if is_float(t) and not is_given(graph, t)]
        if len(made) != 1 or not (moves_data(producer) or producer.op in ("Sub", "Cast")):
            return False
        producer = graph.producer(made[0])
    return False


def _from_integers(node: Node) -> bool:
    """Whether a node is a Cast of integers or booleans."""
    source = node.inputs[0].dtype if node.op == "Cast" else None
    return source is not None and source.kind in "iub"


def _is_length(graph: Graph, tensor: Tensor) -> bool:
    """Whether integers come from ``Shape``, ``Size`` or the number of an iteration."""
    seen: set[int] = set()
    stack: list[Tensor] = [tensor]
    found = False
    while stack:
        current = stack.pop()
        if not current.name or id(current) in seen or graph.is_constant(current):
            continue
        seen.add(id(current))
        node = graph.producer(current)
        if current.dtype is None or current.dtype.kind not in "iu":
            return False
        if node is None:
            if any(t is current for t in graph.inputs):
                return False
            found = True
        elif node.op in ("Shape", "Size"):
            found = True
        elif node.op != "Constant":
            stack += node.inputs
    return found


def _angles(graph: Graph, node: Node) -> list[Node]:
    """A sine or cosine with all that its argument is computed by, if that begins with integers."""
    if not is_standard(node) or node.op not in ("Sin", "Cos"):
        return []
    found: dict[int, Node] = {}
    stack = [node]
    while stack:
        current = stack.pop()
        if id(current) in found:
            continue
        found[id(current)] = current
        if _from_integers(current):
            continue
        if not (current is node or moves_data(current) or current.op in _ANGLE):
            return []
        for tensor in (t for t in current.inputs if is_float(t) and not is_given(graph, t)):
            producer = graph.producer(tensor)
            if producer is None:
                return []
            stack.append(producer)
    return list(found.values())


def _up_to_quotient(graph: Graph, node: Node) -> Iterator[Node]:
    """The roots behind a guarded or scaled value, and the quotient they end in."""
    stack, seen = [node], {id(node)}
    while stack:
        for user, _ in graph.users(stack.pop().outputs[0]):
            goes_on = user.op in _ROOTS or moves_data(user) or is_link(user)
            if id(user) in seen or not (is_standard(user) or is_link(user)):
                continue
            seen.add(id(user))
            if goes_on:
                stack.append(user)
            if goes_on or user.op in _QUOTIENTS:
                yield user
