"""Looking at tensors inside the bodies of a running graph.

A tensor in a body cannot be fetched.  So each body that holds some of interest gives one vector
more: their maxima and their negated minima, of which the larger is always kept::

    If      the branch that runs gives its extremes and -inf for those of the other one
    Loop    the vector is carried through the iterations, and begins with -inf:  v' = max (v, now)
    Scan    likewise

and the main graph takes it apart.  What was never run has a maximum of -inf and a minimum of inf.
A body in a body hands its vector to the outer one.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from qcompiler import protos

_PREFIX = "qcompiler.inside."


class _Vector(NamedTuple):
    """A float32 tensor ``[n]``, and which extreme of which tensor each entry is."""

    name: str
    keys: tuple[tuple[str, str], ...]


def inside(graph: GraphProto) -> set[str]:
    """Names of all tensors in bodies that ``add_extremes`` can look at."""
    found: set[str] = set()
    for node in graph.node:
        for _, body in protos.control_bodies(node):
            found.update(protos.defined(body), inside(body))
    return found


def add_extremes(graph: GraphProto, wanted: Collection[str]) -> dict[str, tuple[str, str]]:
    """Compute the extremes of float32 tensors in bodies, in place.

    Args:
        graph: A main graph in which every tensor has a name of its own.
        wanted: Tensors in its bodies.

    Returns:
        Tensor -> tensors of the main graph with its maximum and its minimum (float32 scalars).
    """
    found: dict[tuple[str, str], str] = {}
    for vector in _Builder(frozenset(wanted)).vectors(graph):
        for index, key in enumerate(vector.keys):
            place, picked, result = (f"{vector.name}.{index}.{w}" for w in ("at", "larger", "is"))
            sign = "Neg" if key[1] == "min" else "Identity"
            graph.node.extend(
                [
                    _constant(place, np.array(index, np.int64)),
                    helper.make_node("Gather", [vector.name, place], [picked], axis=0),
                    helper.make_node(sign, [picked], [result]),
                ]
            )
            found[key] = result
    return {t: (found[t, "max"], found[t, "min"]) for t, _ in found}


class _Builder:
    def __init__(self, wanted: frozenset[str]) -> None:
        self._wanted = wanted
        self._count = 0

    def vectors(self, graph: GraphProto) -> list[_Vector]:
        """Let the nodes with bodies of a graph give vectors, where there is something to see."""
        found: list[_Vector] = []
        starts: list[NodeProto] = []
        for node in graph.node:
            bodies = [body for _, body in protos.control_bodies(node)]
            seen = [self._body(body) for body in bodies]
            if not any(v.keys for v in seen):
                continue
            if node.op_type == "If":
                found.append(self._branches(node, bodies, seen))
            else:
                starts.append(_nothing(self._name("start"), len(seen[0].keys)))
                found.append(self._loop(node, bodies[0], seen[0], starts[-1].output[0]))
        for start in starts:
            graph.node.insert(0, start)
        return found

    def _name(self, what: str) -> str:
        self._count += 1
        return f"{_PREFIX}{self._count}.{what}"

    def _body(self, body: GraphProto) -> _Vector:
        """The extremes of all that is wanted in a body, and in those inside of it."""
        parts = self.vectors(body)
        tensors = [n for n in protos.defined(body) if n in self._wanted]
        shape = self._name("shape")
        if tensors:
            body.node.insert(0, _constant(shape, np.array([1], np.int64)))
        for tensor in tensors:
            base = self._name("seen")
            high, least, low = (f"{base}.{w}" for w in ("max", "least", "min"))
            body.node.extend(
                [
                    helper.make_node("ReduceMax", [tensor], [high], keepdims=0),
                    helper.make_node("ReduceMin", [tensor], [least], keepdims=0),
                    helper.make_node("Neg", [least], [low]),
                ]
            )
            for scalar, what in ((high, "max"), (low, "min")):
                body.node.append(helper.make_node("Reshape", [scalar, shape], [f"{scalar}.1"]))
                parts.append(_Vector(f"{scalar}.1", ((tensor, what),)))
        return self._joined(body, parts)

    def _joined(self, graph: GraphProto, parts: Sequence[_Vector]) -> _Vector:
        if not parts:
            return _Vector("", ())
        name = self._name("all")
        graph.node.append(helper.make_node("Concat", [p.name for p in parts], [name], axis=0))
        return _Vector(name, tuple(key for p in parts for key in p.keys))

    def _branches(
        self, node: NodeProto, bodies: Sequence[GraphProto], seen: Sequence[_Vector]
    ) -> _Vector:
        """Each branch says nothing of what is in the other one."""
        for body, own in zip(bodies, seen, strict=True):
            parts = []
            for other in (v for v in seen if v.keys):
                parts.append(other)
                if other is not own:
                    parts[-1] = _Vector(self._name("none"), other.keys)
                    body.node.append(_nothing(parts[-1].name, len(other.keys)))
            joined = self._joined(body, parts)
            body.output.append(_declared(joined))
        node.output.append(self._name("given"))
        return _Vector(node.output[-1], joined.keys)

    def _loop(self, node: NodeProto, body: GraphProto, seen: _Vector, start: str) -> _Vector:
        """The vector is one more carried value, the last of them."""
        first, before = (2, 1) if node.op_type == "Loop" else (0, 0)
        slices = next((a.i for a in node.attribute if a.name == "num_scan_inputs"), 0)
        carried = len(body.input) - first - slices
        last = _Vector(self._name("last"), seen.keys)
        now = _Vector(self._name("now"), seen.keys)
        body.node.append(helper.make_node("Max", [last.name, seen.name], [now.name]))
        node.input.extend([""] * (first + carried + slices - len(node.input)))
        node.output.extend([""] * (carried - len(node.output)))
        body.input.insert(first + carried, _declared(last))
        body.output.insert(before + carried, _declared(now))
        result = self._name("given")
        node.input.insert(first + carried, start)
        node.output.insert(carried, result)
        return _Vector(result, seen.keys)


def _constant(name: str, values: np.ndarray[Any, Any]) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(values))


def _nothing(name: str, count: int) -> NodeProto:
    """Extremes of nothing at all."""
    return _constant(name, np.full(count, -np.inf, np.float32))


def _declared(vector: _Vector) -> ValueInfoProto:
    return helper.make_tensor_value_info(vector.name, TensorProto.FLOAT, [len(vector.keys)])
