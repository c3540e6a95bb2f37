"""Which layers of a language model are not worth their bytes?  Measured, layer by layer.

Quantizing costs a language model perplexity: ``exp(KL)`` times as much, for a Kullback-Leibler
divergence of KL nats a token between the distributions of the float and the quantized model
(``qcompiler/compare.py``).  No labels are needed to measure it.  If it is more than the recipe
allows (``budget``, 0.01 nats: one percent of perplexity), layers are left in 16 bits.

For that the float model gets a switch in front of every operand that the plan quantizes::

    x' = Where(flag_layer, DQ(Q(x)), x)

and runs with the flags of one layer after the other.  Errors of different layers are independent of
each other, so what a set costs is about the sum of what its layers cost, and a knapsack remains:
reach the budget and give away as few multiplications as possible.  It is packed greedily, by nats
per multiplication; what it comes to is measured again, and more is left out if it is too much.

Layers that need each other, as both products of an attention, are one; one that needs another is
left out with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.compare import Tokens
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.load import load
from qcompiler.passes.insert_qdq import InsertQdq
from qcompiler.passes.quantize_weights import QuantizeWeights
from qcompiler.pipeline import Pipeline
from qcompiler.plan import QuantPlan
from qcompiler.report import macs_of
from qcompiler.taps import fix_inputs
from qcompiler.verify import DEQUANTIZE

SAMPLES = 4
"""How many samples sets of layers are measured on; single layers on one."""

ROUNDS = 4
"""How often the layers left out are measured together, and more are left out."""

_FLAGS = "qcompiler.flags"
Feeds = Mapping[str, NDArray[Any]]
Layer = frozenset[str]


@dataclass(frozen=True)
class Cost:
    """What one layer costs and saves.

    Attributes:
        nats: A token, if it alone is quantized.
        macs: Multiply-accumulates that it does in low precision.
    """

    nats: float
    macs: int


def spared(
    graph: Graph,
    plan: QuantPlan,
    needs: Mapping[str, Sequence[str]],
    samples: Sequence[Feeds],
    logits: Collection[str],
    budget: float,
    *,
    custom_ops: Sequence[Path] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, str]:
    """Linear node -> why it is left in float; nothing if the plan keeps to the budget.

    Args:
        graph: The prepared graph, small enough for one proto; not changed.
        plan: One without scales that are computed at run time.
        needs: Node -> nodes without which it is not quantized.
        samples: Feeds, at least one, of which the first ``SAMPLES`` are used.
        logits: Outputs of the graph.
        budget: The largest divergence, in nats a token.
        custom_ops: Libraries for ONNX Runtime.
        progress: Called with runs done and at most to do.

    Raises:
        UnsupportedError: ONNX Runtime cannot load the model with its switches.
        BackendError: A run failed.
    """
    layers = _layers(graph, plan, needs)
    if not layers:
        return {}
    with OrtSession(_switched(graph, plan, layers), custom_ops=custom_ops) as session:
        names, most = tuple(sorted(logits)), len(layers) + 2 + ROUNDS
        measure = _Measure(session, samples, names, layers, most, progress)
        total = measure.nats(layers)
        if not math.isfinite(total) or total <= budget:
            return {}
        work = _work(graph, samples[0])
        costs = {
            layer: Cost(measure.nats([layer], 1), sum(work[n] for n in layer)) for layer in layers
        }
        left = _choose(measure, costs, needs, total, budget)
    return {n: _why(layer, costs[layer], total, budget) for layer in left for n in sorted(layer)}


def _work(graph: Graph, sample: Feeds) -> dict[str, int]:
    """Node -> multiply-accumulates for one sample."""
    proto = graph.proto()
    fix_inputs(proto, {name: np.shape(value) for name, value in sample.items()})
    sized = load(proto, strict=False)
    sized.infer()
    return {label(n): macs_of(sized, n) for n in sized.nodes}


def _why(layer: Layer, cost: Cost, total: float, budget: float) -> str:
    whole = "these products" if len(layer) > 1 else "it"
    return (
        f"quantizing {whole} alone costs {cost.nats:.2g} nats a token; all would be {total:.2g}, "
        f"and {budget:.2g} are allowed"
    )


# ---------------------------------------------------------------------- layers


def _layers(graph: Graph, plan: QuantPlan, needs: Mapping[str, Sequence[str]]) -> tuple[Layer, ...]:
    """Quantized linear nodes in graph order, those that need each other together."""
    nodes = plan.quantized_nodes()
    found: dict[str, Layer] = {}
    for node in (label(n) for n in graph.nodes):
        if node in nodes:
            mutual = {n for n in needs.get(node, ()) if node in needs.get(n, ()) and n in nodes}
            found[node] = frozenset({node, *mutual})
    return tuple(dict.fromkeys(found.values()))


def _dependents(
    layer: Layer, layers: Collection[Layer], needs: Mapping[str, Sequence[str]]
) -> set[Layer]:
    """A layer, and what cannot be quantized without it."""
    found = {layer}
    while True:
        nodes = set().union(*found)
        more = {a for a in layers if any(nodes.intersection(needs.get(n, ())) for n in a)}
        if more <= found:
            return found
        found |= more


def _choose(
    measure: _Measure,
    costs: Mapping[Layer, Cost],
    needs: Mapping[str, Sequence[str]],
    total: float,
    budget: float,
) -> list[Layer]:
    """The layers to leave out, in graph order."""
    inside = set(costs)
    for _ in range(ROUNDS):
        # Costs add up to a little more or less than the whole.
        scale = total / max(sum(costs[a].nats for a in inside), math.ulp(0.0))
        while inside and scale * sum(costs[a].nats for a in inside) > budget:
            inside -= _worst(inside, costs, needs)
        total = measure.nats(inside)
        if total <= budget:
            break
    return [a for a in costs if a not in inside]


def _worst(
    inside: Collection[Layer], costs: Mapping[Layer, Cost], needs: Mapping[str, Sequence[str]]
) -> set[Layer]:
    """A layer with all that needs it, of the most nats per multiplication."""
    sets = [_dependents(a, inside, needs) for a in costs if a in inside]
    return max(
        sets, key=lambda s: sum(costs[a].nats for a in s) / max(sum(costs[a].macs for a in s), 1)
    )


# ---------------------------------------------------------------------- measuring


@dataclass
class _Measure:
    session: OrtSession
    samples: Sequence[Feeds]
    logits: tuple[str, ...]
    layers: tuple[Layer, ...]
    most: int
    progress: Callable[[int, int], None]
    done: int = 0
    reference: list[dict[str, NDArray[Any]]] | None = None

    def nats(self, on: Collection[Layer], samples: int = SAMPLES) -> float:
        """The divergence with some layers quantized, on the first few samples."""
        if self.reference is None:
            self.reference = self._run((), SAMPLES)
        tokens = Tokens()
        for expected, found in zip(self.reference, self._run(on, samples), strict=False):
            for name in self.logits:
                tokens.add(expected[name], found[name])
        return tokens.mean()

    def _run(self, on: Collection[Layer], count: int) -> list[dict[str, NDArray[Any]]]:
        flags, feeds = np.array([layer in on for layer in self.layers]), self.samples[:count]
        found = [self.session.run({**s, _FLAGS: flags}, self.logits) for s in feeds]
        self.done += 1
        self.progress(min(self.done, self.most), self.most)
        return found


def _switched(graph: Graph, plan: QuantPlan, layers: Sequence[Layer]) -> ModelProto:
    """The float model with a switch in front of every quantized operand of every layer."""
    work = load(graph.proto(), strict=False)
    work.infer()
    plain = msgspec.structs.replace(plan, base="float32", keep={}, io="keep")
    Pipeline((InsertQdq(plan=plain), QuantizeWeights(plan=plain))).run(work)
    flags = work.const(_FLAGS, np.zeros(len(layers), np.bool_))
    number = {node: i for i, layer in enumerate(layers) for node in layer}
    originals = {label(n): n for n in graph.nodes}
    for node in work.nodes:
        if label(node) in number:
            _switch(work, node, flags, number[label(node)], graph, originals[label(node)])
    work.sweep()
    return _as_input(work.proto(), _FLAGS)


def _switch(
    work: Graph, node: Node, flags: Tensor, index: int, graph: Graph, original: Node
) -> None:
    flag: Tensor | None = None
    for slot, tensor in enumerate(node.inputs):
        made = work.producer(tensor)
        if made is None or made.op != DEQUANTIZE:
            continue
        if flag is None:
            place = work.const(f"{_FLAGS}.at", np.array(index, np.int64))
            flag = work.add("Gather", [flags, place], output=f"{_FLAGS}.flag", attrs={"axis": 0})
        quantizer = work.producer(made.inputs[0])
        if quantizer is not None:
            plain = quantizer.inputs[0]
        else:
            weight = original.inputs[slot]
            plain = work.const(f"{weight.name}.float", graph.values(weight))
        chosen = work.add("Where", [flag, tensor, plain], output=f"{_FLAGS}.chosen")
        work.set_input(node, slot, chosen)


def _as_input(proto: ModelProto, name: str) -> ModelProto:
    """The model with a constant as an input of the same type."""
    (at,) = (i for i, t in enumerate(proto.graph.initializer) if t.name == name)
    tensor = proto.graph.initializer[at]
    declared = helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims))
    del proto.graph.initializer[at]
    proto.graph.input.append(declared)
    return proto
