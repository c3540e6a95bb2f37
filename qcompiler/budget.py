"""Which layers are not worth what they cost?  Measured, layer by layer.

Quantizing may cost a model only so much, and the recipe says how much:

* ``budget``: of a language model, nats a token between the distributions of the float and of the
  quantized model (:mod:`qcompiler.compare`); perplexity becomes ``exp(KL)`` times as large;
* ``noise``: of any other, ``|y' - y|^2 / |y|^2`` of its worst output.

Neither needs labels.  If everything together costs more, layers are left in float.  For that the
float model gets a switch in front of every operand that the plan quantizes::

    x' = Where(flag_layer, DQ(Q(x)), x)

and runs with the flags of one layer after the other.  Errors of different layers are independent of
each other, so what a set costs is about the sum of what its layers cost, and a knapsack remains:
keep to the budget and give away as few multiplications as possible.  It is packed greedily, by cost
per multiplication; what it comes to is measured again, and more is left out if it is too much.

Layers that need each other, as both products of an attention, are one; one that needs another is
left out with it.  Outputs that jump (boxes sorted by score, indices) are far off whatever is left
out: where ``noise`` would take more than half of the multiplications, nothing is left out.
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

from qcompiler import roles
from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.compare import Sums, Tokens
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.load import load
from qcompiler.passes.insert_qdq import InsertQdq
from qcompiler.passes.quantize_weights import QuantizeWeights
from qcompiler.pipeline import Pipeline
from qcompiler.plan import QuantPlan
from qcompiler.precision import is_float
from qcompiler.recipe import Recipe
from qcompiler.report import macs_of
from qcompiler.taps import fix_inputs
from qcompiler.verify import DEQUANTIZE

SAMPLES = 4
"""How many samples sets of layers are measured on; single layers on one."""

ROUNDS = 4
"""How often what is left is measured, and more is left out."""

MOST = 0.5
"""Share of the multiplications that noise may take."""

_FLAGS = "qcompiler.flags"
Feeds = Mapping[str, NDArray[Any]]
Outputs = Mapping[str, NDArray[Any]]
Layer = frozenset[str]


@dataclass(frozen=True)
class Limit:
    """What a model may lose.

    Attributes:
        outputs: Those it is judged by: logits, or all floats.
        most: Nats a token, or noise power over signal power.
        tokens: Whether the outputs are logits.
    """

    outputs: tuple[str, ...]
    most: float
    tokens: bool

    def cost(self, expected: Sequence[Outputs], found: Sequence[Outputs]) -> float:
        """Of the worst output, over all samples; infinite if it is not finite."""
        return max(self._cost(name, expected, found) for name in self.outputs)

    def _cost(self, name: str, expected: Sequence[Outputs], found: Sequence[Outputs]) -> float:
        tokens, sums = Tokens(), Sums()
        for y, z in zip(expected, found, strict=True):
            if self.tokens:
                tokens.add(y[name], z[name])
            else:
                sums.add(y[name], z[name])
        return tokens.mean() if self.tokens else 10.0 ** (-sums.sqnr_db() / 10)

    def why(self, layer: Layer, cost: float, total: float) -> str:
        """Why a layer is left in float.

        Args:
            layer: Its nodes.
            cost: Of the layer alone.
            total: Of all layers.
        """
        what = "these products" if len(layer) > 1 else "it"
        if self.tokens:
            return (
                f"quantizing {what} alone costs {cost:.2g} nats a token; all would be "
                f"{total:.2g}, and {self.most:.2g} are allowed"
            )
        alone, whole, least = (f"{-10 * math.log10(c):.0f}" for c in (cost, total, self.most))
        return (
            f"quantizing {what} alone leaves {alone} dB of the outputs; all would leave {whole}, "
            f"and {least} are asked for"
        )


def limit(graph: Graph, recipe: Recipe) -> Limit | None:
    """What a model may lose; None if there is nothing to judge it by.

    Args:
        graph: The prepared graph, with types inferred.
        recipe: Says how much.
    """
    logits = tuple(sorted(roles.logits(graph)))
    if logits:
        return Limit(logits, recipe.budget, tokens=True)
    floats = tuple(t.name for t in graph.outputs if is_float(t))
    return Limit(floats, recipe.noise, tokens=False) if floats else None


def spared(
    graph: Graph,
    plan: QuantPlan,
    needs: Mapping[str, Sequence[str]],
    samples: Sequence[Feeds],
    allowed: Limit,
    *,
    custom_ops: Sequence[Path] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, str]:
    """Linear node -> why it is left in float; nothing if the plan keeps to the limit.

    Args:
        graph: The prepared graph, small enough for one proto; not changed.
        plan: One without scales that are computed at run time.
        needs: Node -> nodes without which it is not quantized.
        samples: Feeds, at least one, of which the first ``SAMPLES`` are used.
        allowed: What the model may lose.
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
        most = len(layers) + 3 + ROUNDS
        measure = _Measure(session, samples[:SAMPLES], allowed, layers, most, progress)
        total = measure.together(layers)
        if not math.isfinite(total) or total <= allowed.most:
            return {}
        work = _work(graph, samples[0])
        macs = {layer: sum(work[n] for n in layer) for layer in layers}
        costs = {layer: measure.alone(layer) for layer in layers}
        left = _Choice(measure, costs, macs, needs).run(total, allowed.most)
    if not allowed.tokens and sum(macs[a] for a in left) > MOST * sum(macs.values()):
        return {}
    return {n: allowed.why(a, costs[a], total) for a in left for n in sorted(a)}


def _work(graph: Graph, sample: Feeds) -> dict[str, int]:
    """Node -> multiply-accumulates for one sample."""
    proto = graph.proto()
    fix_inputs(proto, {name: np.shape(value) for name, value in sample.items()})
    sized = load(proto, strict=False)
    sized.infer()
    return {label(n): macs_of(sized, n) for n in sized.nodes}


def _layers(graph: Graph, plan: QuantPlan, needs: Mapping[str, Sequence[str]]) -> tuple[Layer, ...]:
    """Quantized linear nodes in graph order, those that need each other together."""
    nodes = plan.quantized_nodes()
    found: dict[str, Layer] = {}
    for node in (label(n) for n in graph.nodes):
        if node in nodes:
            mutual = {n for n in needs.get(node, ()) if node in needs.get(n, ()) and n in nodes}
            found[node] = frozenset({node, *mutual})
    return tuple(dict.fromkeys(found.values()))


@dataclass(frozen=True)
class _Choice:
    """The knapsack."""

    measure: _Measure
    costs: Mapping[Layer, float]
    macs: Mapping[Layer, int]
    needs: Mapping[str, Sequence[str]]

    def run(self, total: float, most: float) -> list[Layer]:
        """The layers to leave out, in graph order."""
        inside = set(self.costs)
        for _ in range(ROUNDS):
            # Costs add up to a little more or less than the whole.
            scale = total / max(self._cost(inside), math.ulp(0.0))
            while inside and scale * self._cost(inside) > most:
                inside -= self._worst(inside)
            total = self.measure.together(inside)
            if total <= most:
                break
        return [a for a in self.costs if a not in inside]

    def _cost(self, layers: Collection[Layer]) -> float:
        return sum(self.costs[a] for a in layers)

    def _worst(self, inside: Collection[Layer]) -> set[Layer]:
        """A layer with all that needs it, of the highest cost per multiplication."""
        sets = [self._dependents(a, inside) for a in self.costs if a in inside]
        return max(sets, key=lambda s: self._cost(s) / max(sum(self.macs[a] for a in s), 1))

    def _dependents(self, layer: Layer, layers: Collection[Layer]) -> set[Layer]:
        """A layer, and what cannot be quantized without it."""
        found = {layer}
        while True:
            nodes = set().union(*found)
            more = {a for a in layers if any(nodes.intersection(self.needs.get(n, ())) for n in a)}
            if more <= found:
                return found
            found |= more


# ---------------------------------------------------------------------- measuring


@dataclass
class _Measure:
    session: OrtSession
    samples: Sequence[Feeds]
    allowed: Limit
    layers: tuple[Layer, ...]
    most: int
    progress: Callable[[int, int], None]
    done: int = 0
    reference: list[dict[str, NDArray[Any]]] | None = None

    def together(self, layers: Collection[Layer]) -> float:
        """The cost of some layers and of all that is quantized besides, on all samples."""
        return self._cost([a in layers for a in self.layers], others=True, count=SAMPLES)

    def alone(self, layer: Layer) -> float:
        """The cost of one layer and nothing else, on one sample."""
        return self._cost([a is layer for a in self.layers], others=False, count=1)

    def _cost(self, flags: list[bool], *, others: bool, count: int) -> float:
        if self.reference is None:
            self.reference = self._run([False] * (len(flags) + 1), SAMPLES)
        return self.allowed.cost(self.reference[:count], self._run([*flags, others], count))

    def _run(self, flags: list[bool], count: int) -> list[dict[str, NDArray[Any]]]:
        given, names = np.array(flags), self.allowed.outputs
        found = [self.session.run({**s, _FLAGS: given}, names) for s in self.samples[:count]]
        self.done += 1
        self.progress(min(self.done, self.most), self.most)
        return found


def _switched(graph: Graph, plan: QuantPlan, layers: Sequence[Layer]) -> ModelProto:
    """The float model with a switch in front of every quantized operand.

    One flag a layer, and a last one for what is quantized besides, as the skips of residual blocks.
    """
    work = load(graph.proto(), strict=False)
    work.infer()
    plain = msgspec.structs.replace(plan, base="float32", keep={}, io="keep")
    Pipeline((InsertQdq(plan=plain), QuantizeWeights(plan=plain))).run(work)
    flags = work.const(_FLAGS, np.zeros(len(layers) + 1, np.bool_))
    number = {node: i for i, layer in enumerate(layers) for node in layer}
    originals = {label(n): n for n in graph.nodes}
    for node in work.nodes:
        original = originals.get(label(node))
        if original is not None:
            _switch(work, node, flags, number.get(label(node), len(layers)), graph, original)
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
        if original.inputs[slot].name == tensor.name:  # the model's own
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
