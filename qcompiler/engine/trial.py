"""A placement, compiled to see which kernels it becomes and what each linear node costs.

A kernel belongs to the linear nodes that it computes; one that computes none (a rounding, a pool, a
norm) to the product that reads its result.  Scales play no part in the choice of kernels, only
whether two are equal: a trial takes placeholders, and no sample is needed.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qcompiler import ops
from qcompiler.apply import passes_of
from qcompiler.decide import weight_decision
from qcompiler.emit import emit
from qcompiler.engine.build import BuildOptions, build
from qcompiler.engine.gate import kernel_seconds, seconds
from qcompiler.engine.gpus import Gpu
from qcompiler.engine.sidecar import Sidecar
from qcompiler.engine.target_string import EngineTarget
from qcompiler.graph import Graph, Node, label
from qcompiler.load import load
from qcompiler.narrow import NARROW
from qcompiler.pipeline import Pipeline
from qcompiler.plan import Decision, Points, QuantPlan
from qcompiler.recipe import Recipe
from qcompiler.tail import tail

LAUNCH = 0.2e-6
"""Seconds that a kernel costs by being one, as a node of a CUDA graph: less than what is measured,
so that it decides only where the rooflines are close."""


@dataclass(frozen=True)
class Trial:
    """One compiled candidate.

    Attributes:
        points: What it quantizes.
        seconds: Estimate for the whole engine, launches included.
        kernels: Number of kernels.
        by_node: Linear node -> estimate for the kernels that are its own.
        library: Library and release that compiled it.
    """

    points: Points
    seconds: float
    kernels: int
    by_node: Mapping[str, float]
    library: str


@dataclass(frozen=True)
class Trials:
    """Compiles candidates for one model.

    Attributes:
        graph: The prepared graph at fixed shapes; not changed.
        recipe: Says what the base type is.
        engine: Library and compute capabilities.
        gpu: Card whose peaks the estimate takes.
    """

    graph: Graph
    recipe: Recipe
    engine: EngineTarget
    gpu: Gpu

    def run(self, points: Points) -> Trial:
        """Compile with the placement of ``points``.

        Raises:
            QCompilerError: The model is refused, or the build died.
        """
        graph = load(self.graph.proto(), strict=False)
        graph.infer()
        Pipeline(passes_of(placeholder(graph, points, self.recipe))).run(graph)
        with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
            model = emit(graph, Path(folder) / "trial.onnx")[0]
            plan = Path(folder) / "trial.plan"
            sidecar = build(model, plan, self.engine, options=BuildOptions())
        owners = owners_of(graph)
        return _judged(points, sidecar, owners, self.gpu)


def _judged(
    points: Points,
    sidecar: Sidecar,
    owners: Mapping[str, str],
    gpu: Gpu,
) -> Trial:
    report = sidecar.report
    linear = {n.node: n.macs for n in report.linear}
    by_node: dict[str, float] = defaultdict(float)
    for layer, time in kernel_seconds(sidecar.layers, report, gpu):
        shares: dict[str, float] = {n: 1.0 + linear[n] for n in layer.onnx_nodes if n in linear}
        if not shares:
            shares = dict.fromkeys((owners[n] for n in layer.onnx_nodes if n in owners), 1.0)
        total = sum(shares.values())
        for node, share in shares.items():
            by_node[node] += (time + LAUNCH) * share / total
    whole = seconds(sidecar.layers, report, gpu) + report.kernels * LAUNCH
    return Trial(points, whole, report.kernels, by_node, sidecar.library)


def owners_of(graph: Graph) -> dict[str, str]:
    """Node that multiplies nothing -> the product that reads its result, or made its input."""
    owners: dict[str, str] = {}
    for node in reversed(graph.nodes):
        readers = (u for t in node.outputs for u, _ in graph.users(t))
        _own(node, readers, owners)
    for node in graph.nodes:
        makers = (p for t in node.inputs if (p := graph.producer(t)) is not None)
        _own(node, makers, owners)
    return owners


def _own(node: Node, others: Iterable[Node], owners: dict[str, str]) -> None:
    if label(node) in owners or ops.is_weighted(node):
        return
    for other in others:
        owner = label(other) if ops.is_weighted(other) else owners.get(label(other))
        if owner is not None:
            owners[label(node)] = owner
            return


def placeholder(graph: Graph, points: Points, recipe: Recipe) -> QuantPlan:
    """A plan with the placement of ``points`` and made-up scales, equal where they must be."""
    number: dict[str, int] = {}
    activations = tuple(
        Decision(
            p.tensor,
            p.slots,
            p.storage,
            p.dtype,
            0.02 + number.setdefault(p.group, len(number)) / 1024,
            0,
            "trial",
            "",
        )
        for p in points.activations
    )
    weights = tuple(weight_decision(graph, p, p.slots, search=False) for p in points.weights)
    return QuantPlan(
        points.model_digest,
        points.target,
        points.recipe,
        True,
        activations,
        weights,
        points.skipped,
        recipe.base,
        tail(graph, recipe.io) if recipe.base in NARROW else {},
    )
