"""Which roundings to 16 bits spoil the outputs?  Measured, one half of the graph after the other.

Ranges do not show everything: a convolution that subtracts two large numbers loses what its small
result was made of, though every value fits.  So the float model is run once more with a switch at
every place where casting would round (a tensor, or a constant)::

    x' = If(flag_i, float(half(x)), x)

and ``noise(S) = |y(S) - y|^2 / |y|^2`` is the error of the worst output with the flags of S on.
Roundings are independent of each other, so ``noise(S)`` is about the sum over S of what each
does, and the largest are found by halving: the half with more noise is halved again.

Nothing is done where the noise of all roundings together is below 45 dB (for float16; 18 dB more
for bfloat16), and nothing if the worst ones together are not at least half of it: then it is the
plain noise of the format.  Roundings in bodies of ``If``, ``Loop`` and ``Scan`` have switches too;
one that is in a loop rounds in every iteration or in none.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from qcompiler import ops
from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.bodies import flatten, is_link
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.narrow import FLOAT16, Narrow
from qcompiler.precision import Slots, is_float, is_given, narrow_slots

Array = NDArray[Any]
Feeds = Mapping[str, Array]

TARGET_DB = 45.0
"""Noise of float16 that is left alone."""

SPREAD = 1 / 32
"""Share of all noise under which a rounding is one of many."""

RUNS = 48
"""How often the model is run at most."""

MOST = 16
"""How many roundings are spared at most."""

_FLAGS = "qcompiler.flags"


@dataclass(frozen=True)
class Site:
    """One place where casting rounds.

    Attributes:
        tensor: What is rounded there.
        nodes: Nodes that must stay in float32, all of them, to spare it.
    """

    tensor: str
    nodes: tuple[str, ...]


def needed(
    graph: Graph,
    low: Narrow,
    keep: Collection[str],
    feeds: Feeds,
    *,
    custom_ops: Sequence[Any] = (),
) -> dict[str, str]:
    """Node -> why it stays in float32 besides those of ``keep``.

    Args:
        graph: The prepared graph; small enough for one proto.
        low: The narrow type.
        keep: Nodes that stay in float32 anyway.
        feeds: One sample.
        custom_ops: Libraries for ONNX Runtime.

    Raises:
        UnsupportedError: ONNX Runtime cannot load the model with its switches.
        BackendError: A run failed.
    """
    proto, sites = switched(graph, low, keep)
    if not sites:
        return {}
    target = 10.0 ** (-TARGET_DB / 10) * (low.unit / FLOAT16.unit) ** 2
    with OrtSession(proto, level="basic", custom_ops=custom_ops) as session:
        measure = _Measure(session, feeds, len(sites))
        total = measure.noise(range(len(sites)))
        if total <= target:
            return {}
        worst = _worst(measure, len(sites), total, target)
        rest = measure.noise(sorted(set(range(len(sites))) - set(worst)))
    if not rest <= total / 2:
        return {}
    found: dict[str, str] = {}
    for site, noise in worst.items():
        why = f"rounding {sites[site].tensor!r} alone leaves {_decibels(noise)} of the outputs"
        for node in sites[site].nodes:
            found.setdefault(node, why)
    return {label(n): found[label(n)] for n in flatten(graph).graph.nodes if label(n) in found}


def _decibels(noise: float) -> str:
    return f"{-10 * math.log10(noise):.0f} dB" if math.isfinite(noise) else "nothing"


def _worst(measure: _Measure, count: int, total: float, target: float) -> dict[int, float]:
    """The sites with the most noise, until what is left fits the target or is spread out."""
    heap = [(-total, 0, count)]
    worst: dict[int, float] = {}
    while heap and len(worst) < MOST and sum(-n for n, _, _ in heap) > target:
        noise, first, end = heapq.heappop(heap)
        if -noise < total * SPREAD or measure.runs > RUNS:
            break
        if end - first == 1:
            worst[first] = -noise
            continue
        middle = (first + end) // 2
        left = measure.noise(range(first, middle))
        # The difference of two sums is good enough unless it is small.
        right = -noise - left if left < -noise / 2 else measure.noise(range(middle, end))
        heapq.heappush(heap, (-left, first, middle))
        heapq.heappush(heap, (-right, middle, end))
    return worst


class _Measure:
    """Runs the switched model; counts the runs."""

    def __init__(self, session: OrtSession, feeds: Feeds, sites: int) -> None:
        self._session = session
        self._feeds = feeds
        self._sites = sites
        self.runs = 0
        self._expected = self._run(())

    def _run(self, on: Collection[int]) -> dict[str, Array]:
        flags = np.zeros(self._sites, np.bool_)
        flags[list(on)] = True
        self.runs += 1
        return self._session.run({**self._feeds, _FLAGS: flags})

    def noise(self, on: Collection[int]) -> float:
        """Error power over signal power of the worst float output; inf if something is no number.

        Args:
            on: Sites that round.
        """
        return max(
            (_ratio(self._expected[k], v) for k, v in self._run(on).items() if v.dtype.kind == "f"),
            default=0.0,
        )


def _ratio(expected: Array, found: Array) -> float:
    y = expected.astype(np.float64)
    usable = np.isfinite(y)
    error = np.where(usable, found, 0.0) - np.where(usable, y, 0.0)
    noise = float(np.square(error).sum())
    signal = float(np.square(y[usable]).sum())
    if not math.isfinite(noise):
        return math.inf
    return noise / signal if signal else 0.0


# ---------------------------------------------------------------------- the switched model


def switched(graph: Graph, low: Narrow, keep: Collection[str]) -> tuple[ModelProto, list[Site]]:
    """The float model with a switch at every place where casting rounds, and those places.

    Args:
        graph: The prepared graph; not changed.
        low: The narrow type.
        keep: Nodes that stay in float32.
    """
    flat = flatten(graph)
    proto = flat.graph.proto()
    slots = narrow_slots(flat.graph, flat.labels(keep), low)
    build = _Switches(flat.graph, low, slots)
    nodes: list[NodeProto] = []
    for tensor in flat.graph.inputs:
        nodes += build.read(tensor)
    for node, written in zip(flat.graph.nodes, proto.graph.node, strict=True):
        for tensor in node.inputs:
            if is_given(flat.graph, tensor) and flat.graph.is_constant(tensor):
                nodes += build.constant(tensor)
        nodes += build.node(node, written)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.extend(build.numbers)
    flags = helper.make_tensor_value_info(_FLAGS, TensorProto.BOOL, [len(build.sites)])
    proto.graph.input.append(flags)
    del proto.graph.value_info[:]
    return flat.fold(proto), build.sites


class _Switches:
    def __init__(self, graph: Graph, low: Narrow, slots: Mapping[int, Slots]) -> None:
        self._graph = graph
        self._low = low
        self._slots = slots
        self._made: dict[int, str] = {}
        self.sites: list[Site] = []
        self.numbers: list[TensorProto] = []

    def node(self, node: Node, written: NodeProto) -> list[NodeProto]:
        """A node with its inputs and outputs rounded where they would be."""
        proto = NodeProto()
        proto.CopyFrom(written)
        slots = self._slots.get(id(node))
        if slots is None:
            return [proto, *(n for t in node.outputs for n in self.read(t))]
        for index, (tensor, narrow) in enumerate(zip(node.inputs, slots.inputs, strict=True)):
            if narrow and id(tensor) in self._made:
                proto.input[index] = self._made[id(tensor)]
        out = [proto]
        for index, (tensor, narrow) in enumerate(zip(node.outputs, slots.outputs, strict=True)):
            if narrow and not _passes_on(node):
                proto.output[index] = f"{tensor.name}.qcompiler.raw"
                out += self._switch(proto.output[index], tensor, tensor.name, self._around(tensor))
            elif not narrow:
                out += self.read(tensor)
        return out

    def read(self, tensor: Tensor) -> list[NodeProto]:
        """What narrow nodes read of a float32 tensor that is not narrow itself."""
        readers = [u for u, i in self._graph.users(tensor) if self._is_narrow(u, i)]
        if not is_float(tensor) or not readers:
            return []
        self._made[id(tensor)] = f"{tensor.name}.qcompiler.read"
        nodes = tuple(label(u) for u in readers)
        return self._switch(tensor.name, tensor, self._made[id(tensor)], nodes)

    def constant(self, tensor: Tensor) -> list[NodeProto]:
        """A constant, rounded for its narrow readers."""
        readers = [u for u, i in self._graph.users(tensor) if self._is_narrow(u, i)]
        if id(tensor) in self._made or not is_float(tensor) or not readers:
            return []
        values = self._graph.values(tensor)
        rounded = self._low.narrow(values).astype(np.float32)
        if np.array_equal(values, rounded):
            return []
        name, wide = f"{tensor.name}.qcompiler.narrow", f"{tensor.name}.qcompiler.wide"
        self.numbers.append(numpy_helper.from_array(rounded, name))
        self._made[id(tensor)] = f"{tensor.name}.qcompiler.read"
        rounding = [helper.make_node("Identity", [name], [wide])]
        site = Site(tensor.name, tuple(label(u) for u in readers))
        return self._choose(rounding, tensor.name, self._made[id(tensor)], site)

    def _is_narrow(self, node: Node, index: int) -> bool:
        slots = self._slots.get(id(node))
        return slots is not None and slots.inputs[index]

    def _around(self, tensor: Tensor) -> tuple[str, ...]:
        """The node that writes a tensor and all that read it, past what only moves it."""
        producer = self._graph.producer(tensor)
        found = [] if producer is None else [label(producer)]
        stack = [tensor]
        while stack:
            for user, index in self._graph.users(stack.pop()):
                if label(user) not in found and self._is_narrow(user, index):
                    found.append(label(user))
                    if _passes_on(user):
                        stack += user.outputs
        return tuple(found)

    def _switch(
        self, source: str, tensor: Tensor, target: str, nodes: tuple[str, ...]
    ) -> list[NodeProto]:
        narrow, wide = f"{target}.qcompiler.narrow", f"{target}.qcompiler.wide"
        rounding = [
            helper.make_node("Cast", [source], [narrow], to=self._low.element),
            helper.make_node("Cast", [narrow], [wide], to=TensorProto.FLOAT),
        ]
        return self._choose(rounding, source, target, Site(tensor.name, nodes))

    def _choose(
        self, rounding: list[NodeProto], plain: str, target: str, site: Site
    ) -> list[NodeProto]:
        """An ``If``: its bodies read the names of the graph, and one of them runs."""
        number, flag, same = (f"{target}.qcompiler.{w}" for w in ("number", "flag", "same"))
        self.numbers.append(numpy_helper.from_array(np.array(len(self.sites), np.int64), number))
        self.sites.append(site)
        return [
            helper.make_node("Gather", [_FLAGS, number], [flag], axis=0),
            helper.make_node(
                "If",
                [flag],
                [target],
                then_branch=_body(rounding),
                else_branch=_body([helper.make_node("Identity", [plain], [same])]),
            ),
        ]


def _passes_on(node: Node) -> bool:
    """Whether what a node gives is rounded already where it comes from."""
    return ops.moves_data(node) or is_link(node)


def _body(nodes: list[NodeProto]) -> GraphProto:
    result = nodes[-1].output[0]
    declared = helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
    return helper.make_graph(nodes, "body", [], [declared])
