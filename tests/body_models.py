"""Random models with nested ``If``, ``Loop`` and ``Scan``; siblings use the same names inside."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import strategies as st
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

SIZE = 3
_OPS = ("Tanh", "Neg", "Identity", "Add", "Mul", "Scale", "Number", "Cast")


class _Scope:
    """One graph under way: names begin with its depth, so those of siblings are equal."""

    def __init__(self, draw: st.DrawFn, depth: int, visible: Sequence[str]) -> None:
        self.draw = draw
        self.depth = depth
        self.visible = list(visible)
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._count = 0

    def name(self) -> str:
        self._count += 1
        return f"t{self.depth}_{self._count}"

    def pick(self) -> str:
        return self.draw(st.sampled_from(self.visible))

    def fill(self, steps: int) -> None:
        for _ in range(steps):
            nested = self.depth < 2 and self.draw(st.integers(0, 2)) == 0
            made = _nest(self) if nested else [_plain(self)]
            self.visible += made

    def constant(self, values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> str:
        name = self.name()
        if self.draw(st.booleans()):
            self.constants.append(numpy_helper.from_array(values, name))
        else:
            value = numpy_helper.from_array(values)
            self.nodes.append(helper.make_node("Constant", [], [name], value=value))
        return name

    def graph(self, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> GraphProto:
        """The graph, with ``flag`` and ``step`` of type bool and int64 and all else float32."""
        declared = [_declare(i) for i in inputs], [_declare(o) for o in outputs]
        return helper.make_graph(self.nodes, name, *declared, self.constants)


def _declare(name: str) -> ValueInfoProto:
    kinds = {"f": TensorProto.BOOL, "s": TensorProto.INT64}
    shape = [] if name[0] in kinds else [None, SIZE] if name[0] == "l" else [SIZE]
    return helper.make_tensor_value_info(name, kinds.get(name[0], TensorProto.FLOAT), shape)


def _plain(scope: _Scope) -> str:
    op = scope.draw(st.sampled_from(_OPS))
    if op == "Number":
        return scope.constant(np.array([0.5, -1.0, 2.0], np.float32))
    inputs = [scope.pick()]
    if op in ("Add", "Mul"):
        inputs.append(scope.pick())
    if op == "Scale":
        inputs.append(scope.constant(np.array([0.25], np.float32)))
        op = "Mul"
    out = scope.name()
    kind: dict[str, Any] = {"to": TensorProto.FLOAT} if op == "Cast" else {}
    scope.nodes.append(helper.make_node(op, inputs, [out], **kind))
    return out


def _result(inner: _Scope) -> str:
    """Something that a body computes itself, within [-1, 1], or a number."""
    if inner.draw(st.integers(0, 5)) == 0:
        return inner.constant(np.array([0.5, -1.0, 1.0], np.float32))
    out = inner.name()
    inner.nodes.append(helper.make_node("Tanh", [inner.pick()], [out]))
    return out


def _nest(scope: _Scope) -> list[str]:
    kind = scope.draw(st.sampled_from(("If", "Loop", "Scan")))
    return {"If": _if, "Loop": _loop, "Scan": _scan}[kind](scope)


def _if(scope: _Scope) -> list[str]:
    outs, branches = [scope.name(), scope.name()], {}
    for key in ("then_branch", "else_branch"):
        inner = _Scope(scope.draw, scope.depth + 1, scope.visible)
        inner.fill(scope.draw(st.integers(1, 3)))
        branches[key] = inner.graph(key, [], [_result(inner), _result(inner)])
    scope.nodes.append(helper.make_node("If", ["flag"], outs, **branches))
    return outs


def _loop(scope: _Scope) -> list[str]:
    depth = scope.depth + 1
    inner = _Scope(scope.draw, depth, [*scope.visible, f"carried{depth}"])
    inner.fill(scope.draw(st.integers(1, 3)))
    following, listed = inner.pick() if scope.draw(st.booleans()) else "", _result(inner)
    if following not in {o for n in inner.nodes for o in n.output}:
        following = _result(inner)
    inner.nodes.append(helper.make_node("Identity", [f"f{depth}"], [f"f{depth}_on"]))
    body = inner.graph(
        "body", [f"s{depth}", f"f{depth}", f"carried{depth}"], [f"f{depth}_on", following, listed]
    )
    outs = [scope.name(), f"l{scope.name()}"]
    scope.nodes.append(helper.make_node("Loop", ["step", "go", scope.pick()], outs, body=body))
    return [outs[0], _last(scope, outs[1])]


def _scan(scope: _Scope) -> list[str]:
    depth = scope.depth + 1
    inner = _Scope(scope.draw, depth, [*scope.visible, f"carried{depth}", f"x{depth}"])
    inner.fill(scope.draw(st.integers(1, 3)))
    inputs = [f"carried{depth}", f"x{depth}"]
    body = inner.graph("body", inputs, [_result(inner), _result(inner)])
    outs = [scope.name(), f"l{scope.name()}"]
    scope.nodes.append(
        helper.make_node("Scan", [scope.pick(), "list"], outs, body=body, num_scan_inputs=1)
    )
    return [outs[0], _last(scope, outs[1])]


def _last(scope: _Scope, listed: str) -> str:
    """The greatest entries of a list of tensors; zero of none."""
    out = scope.name()
    scope.nodes.append(helper.make_node("Concat", [listed, "zero"], [f"l{out}"], axis=0))
    scope.nodes.append(helper.make_node("ReduceMax", [f"l{out}", "axes"], [out], keepdims=0))
    return out


@st.composite
def models(draw: st.DrawFn) -> ModelProto:
    """A model ``(x [3], list [2, 3], flag, step) -> y``; every loop takes ``step`` iterations."""
    scope = _Scope(draw, 0, ["x"])
    scope.visible += _nest(scope)
    scope.fill(draw(st.integers(0, 2)))
    scope.nodes.append(helper.make_node("Identity", [scope.visible[-1]], ["y"]))
    scope.constants += [
        numpy_helper.from_array(np.zeros((1, SIZE), np.float32), "zero"),
        numpy_helper.from_array(np.array([0], np.int64), "axes"),
        numpy_helper.from_array(np.array(True), "go"),
    ]
    graph = scope.graph("g", ["x", "list", "flag", "step"], ["y"])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def feeds(model: ModelProto) -> list[dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]]:
    """Feeds that take both branches, and loops of no and of two iterations."""
    known = {i.name for i in model.graph.input}
    return [
        {
            name: values
            for name, values in {
                "x": np.array([0.3, -0.7, 1.1], np.float32),
                "list": np.array([[0.1, 0.2, 0.3], [-1.0, 0.0, 1.0]], np.float32),
                "flag": np.array(flag),
                "step": np.array(step),
            }.items()
            if name in known
        }
        for flag in (True, False)
        for step in (0, 2)
    ]
