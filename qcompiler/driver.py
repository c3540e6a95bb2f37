"""The one function that runs the whole line, and its steps for those who want them one by one.

::

    load -> prepare -> scan -> calibrate -> decide -> apply -> tidy -> check -> verify
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx

from qcompiler import __version__, roles, run_time, targets
from qcompiler import recipe as recipes
from qcompiler.apply import apply
from qcompiler.backends import onnxruntime as ort
from qcompiler.budget import limit, spared
from qcompiler.calibrate import Example, Split, Statistics, collect
from qcompiler.data.dataset import Dataset
from qcompiler.data.open import open_data
from qcompiler.data.synthetic import WARNING, synthetic
from qcompiler.decide import decide
from qcompiler.engine.weigh import weighed
from qcompiler.errors import UsageError
from qcompiler.evaluate import Evaluation
from qcompiler.graph import Graph, label
from qcompiler.inputs import input_specs
from qcompiler.islands import watched
from qcompiler.judge import Judge, Source
from qcompiler.load import load
from qcompiler.narrow import NARROW
from qcompiler.noise import needed
from qcompiler.options import Options
from qcompiler.pipeline import Step
from qcompiler.plan import Points, QuantPlan, require_digest
from qcompiler.prepare import prepare_graph
from qcompiler.progress import Journal
from qcompiler.recipe import Recipe, interface, require_base
from qcompiler.report import Coverage, Metric, OutputError, Report, coverage, op_counts
from qcompiler.result import Result
from qcompiler.running import runnable
from qcompiler.scan import model_digest, scan
from qcompiler.targets.base import Target

__all__ = ["Compilation", "Data", "Options", "Result", "Source", "compile"]

Data = str | Path | Mapping[str, Any] | Iterable[Mapping[str, Any]]


def compile(  # noqa: A001  (the verb of the tool)
    model: Source,
    *,
    data: Data | None = None,
    recipe: str | Recipe | None = None,
    target: str | Target = "tensorrt",
    evaluation: Evaluation | None = None,
    options: Options | None = None,
) -> Result:
    """Quantize a model and verify the result against the original.

    Args:
        model: Path, bytes or proto; never written to.
        data: Calibration samples: a path (``.npz``, ``.npy``, a folder of either or of images, or
            ``loader.py[:function]``), a mapping of arrays, or any iterable of feeds. Without it
            the inputs are made up, and a warning says so everywhere.
        recipe: Name, path of a ``.toml``, or a ``Recipe``; None for that of the target.
        target: Name or ``Target``.
        evaluation: Measures a task metric before and after.
        options: Everything else.

    Returns:
        The compiled graph with plan and report; nothing is written to disk.

    Raises:
        InputError: The model, the data or an option is wrong.
        UnsupportedError: The model cannot be expressed for this target, or ONNX Runtime cannot
            run it.
        VerifyError: A pass broke the graph.
        BackendError: ONNX Runtime failed while running.
    """
    options = options or Options()
    return Compilation(model, recipe, target, options).run(data, evaluation)


class Compilation:
    """One compilation under way; the verbs of the command line stop where they want to.

    Args:
        source: The model.
        recipe: Name, path or recipe; None for that of the target.
        target: Name or target.
        options: Everything else.
    """

    def __init__(
        self,
        source: Source,
        recipe: str | Recipe | None,
        target: str | Target,
        options: Options,
    ) -> None:
        self.source = source
        self.target = targets.find(target) if isinstance(target, str) else target
        chosen = (
            recipe if isinstance(recipe, Recipe) else recipes.find(recipe or self.target.recipe)
        )
        self.recipe = interface(chosen, options.io).excluding(options.exclude)
        base = self.recipe.base if options.plan is None else options.plan.base
        self.target = require_base(self.target, base)
        self.example: Mapping[str, Any] | None = None
        self.options = options
        self.journal = Journal(options.progress)
        self.held_out: list[Mapping[str, Any]] = []
        self.data_source = "none"
        self.steps: tuple[Step, ...] = ()
        self.ops_before: dict[str, int] = {}
        self.bytes_before = 0

    def prepare(self) -> Graph:
        """Load and prepare the model."""
        with self.journal.stage("prepare"):
            graph = load(self.source)
            self.ops_before = op_counts(graph)
            self.bytes_before = _file_bytes(self.source) or graph.weight_bytes()
            self.steps = prepare_graph(graph, self.target, self.journal)
        return graph

    def scan(self, graph: Graph) -> Points:
        """Propose what to quantize and leave out what does not pay, or take the given points.

        Raises:
            UsageError: An ``exclude`` glob matches no node, or could have no effect.
            InputError: The points belong to another model.
        """
        given = self.options.points or self.options.plan
        if given is not None and self.options.exclude:
            raise UsageError(
                "exclude has no effect on points or a plan that are already made",
                hint="make them again with it, or move the nodes to `skipped` in the file",
            )
        with self.journal.stage("scan"):
            if self.options.points is not None:
                require_digest(self.options.points.model_digest, model_digest(graph), "points file")
                return self.options.points
            names = [label(n) for n in graph.nodes]
            for glob in self.options.exclude:
                if not fnmatch.filter(names, glob):
                    raise UsageError(
                        f"--exclude {glob!r} matches no node",
                        hint="`qcompiler plan MODEL` lists the names of all linear nodes",
                    )
            points = scan(graph, self.recipe, self.target)
        if why := run_time.notice(self.recipe, self.target):
            self.journal.warn(why)
        return points if self.options.force else self._weighed(graph, points)

    def _weighed(
        self, graph: Graph, points: Points, leave: Mapping[str, str] | None = None
    ) -> Points:
        return weighed(
            graph,
            points,
            self.recipe,
            self.target,
            shapes=self.options.shapes,
            card=self.options.gpu,
            journal=self.journal,
            leave=leave,
        )

    def calibrate(self, graph: Graph, points: Points, data: Data | None) -> Statistics:
        """Run the data through the prepared graph, or take the statistics that were given."""
        given = self.options.statistics
        if given is not None:
            if data is not None:
                self._hold_out(graph, data)
            return given
        low = NARROW.get(self.recipe.base)
        tensors = {p.tensor: np.dtype(p.dtype) for p in points.activations if p.measured}
        extra = [t for t in watched(graph, low) if t not in tensors] if low is not None else []
        if not tensors and not extra:
            source = self._hold_out(graph, data).source if data is not None else "none"
            return Statistics(points.model_digest, source, False, 0, {})
        if data is None and tensors:
            self.journal.warn(WARNING)
        dataset = self._dataset(graph, data)
        split = Split(dataset)
        samples = Example(split)
        with self.journal.stage("calibrate"), runnable(graph) as model:
            histograms, count = collect(
                model,
                tensors | dict.fromkeys(extra, np.dtype(np.float32)),
                samples,
                expected=split.expected,
                custom_ops=self.options.custom_ops,
                watched=extra,
                progress=self.options.progress.update,
            )
        self.held_out = split.held_out
        self.example = None if dataset.synthetic else samples.feeds
        for note in () if dataset.synthetic else dataset.notes:
            self.journal.warn(note)
        if not self.held_out:
            self.journal.warn("one sample only: there is none left to verify on")
        return Statistics(points.model_digest, dataset.source, dataset.synthetic, count, histograms)

    def decide(
        self, graph: Graph, points: Points, statistics: Statistics
    ) -> tuple[Points, QuantPlan]:
        """Choose every scale, and what stays in float32.

        Returns:
            The points, less what costs the model too much, and the plan.
        """
        self.data_source = statistics.source
        plan = self._decide(graph, points, statistics)
        if plan.synthetic:
            self.journal.warn(WARNING)
        dear = self._beyond_budget(graph, points, plan)
        if dear:
            points = scan(graph, self.recipe, self.target, dear)
            points = self._weighed(graph, points, dear)
            plan = self._decide(graph, points, statistics)
        return points, self._spare(graph, plan)

    def _decide(self, graph: Graph, points: Points, statistics: Statistics) -> QuantPlan:
        update = self.options.progress.update
        with self.journal.stage("decide"):
            return decide(graph, points, statistics, self.recipe, progress=update)

    def _beyond_budget(self, graph: Graph, points: Points, plan: QuantPlan) -> dict[str, str]:
        """Node -> why it is left in float: the model would lose too much."""
        allowed = limit(graph, self.recipe)
        asked = not (self.options.force or self.options.points)
        dynamic = any(d.storage.dynamic for d in plan.activations)
        if not asked or allowed is None or dynamic or self.example is None or graph.is_large:
            return {}
        with self.journal.stage("spare"):
            return spared(
                graph,
                plan,
                points.needs,
                [self.example, *self.held_out],
                allowed,
                custom_ops=self.options.custom_ops,
                progress=self.options.progress.update,
            )

    def _spare(self, graph: Graph, plan: QuantPlan) -> QuantPlan:
        """The plan with the nodes whose rounding to 16 bits spoils the outputs kept in float32.

        What is quantized is rounded worse, and stays as it is.
        """
        low = NARROW.get(plan.base)
        if low is None or self.example is None or graph.is_large:
            return plan
        custom = self.options.custom_ops
        with self.journal.stage("round"):
            more = needed(graph, low, plan.keep, self.example, custom_ops=custom)
        coarse = {s.node for d in (*plan.activations, *plan.weights) for s in d.slots}
        more = {node: why for node, why in more.items() if node not in coarse}
        return msgspec.structs.replace(plan, keep={**more, **plan.keep})

    def run(self, data: Data | None, evaluation: Evaluation | None) -> Result:
        """The whole line."""
        graph = self.prepare()
        points = self.scan(graph)
        statistics = None
        plan = self.options.plan
        if plan is None:
            statistics = self.calibrate(graph, points, data)
            points, plan = self.decide(graph, points, statistics)
        else:
            if plan.synthetic:
                self.journal.warn(WARNING)
            if data is not None:
                self._hold_out(graph, data)
        covered, specs = coverage(graph, plan), input_specs(graph)
        judge = Judge(
            self.source,
            self.held_out,
            frozenset(s.name for s in specs if s.dtype.name in NARROW),
            frozenset() if self.example is None else roles.logits(graph),
            self.options,
            self.journal,
        )
        with self.journal.stage("apply"):
            self.steps += apply(graph, plan)
        outputs = judge.verify(graph, plan.base)
        metric = judge.evaluate(graph, specs, plan.base, evaluation)
        report = self._report(graph, plan, statistics, covered, outputs, metric)
        return Result(graph, points, statistics, plan, report)

    def _dataset(self, graph: Graph, data: Data | None) -> Dataset:
        specs = input_specs(graph)
        if data is None:
            return synthetic(specs, seed=self.options.seed)
        return open_data(data, specs, images=self.options.images)

    def _hold_out(self, graph: Graph, data: Data) -> Dataset:
        dataset = self._dataset(graph, data)
        split = Split(dataset)
        samples = Example(split)
        for _ in samples:
            pass
        self.held_out, self.example = split.held_out, samples.feeds
        return dataset

    def _report(
        self,
        graph: Graph,
        plan: QuantPlan,
        statistics: Statistics | None,
        covered: Coverage,
        outputs: tuple[OutputError, ...],
        metric: Metric | None,
    ) -> Report:
        rewrites: dict[str, int] = {}
        for step in self.steps:
            rewrites[step.name] = rewrites.get(step.name, 0) + step.rewrites
        if covered.nodes == 0 and self.recipe.quantize:
            self.journal.warn("nothing was quantized; `skipped` in the report says why")
        return Report(
            model=str(self.source) if isinstance(self.source, (str, Path)) else "in memory",
            output="",
            target=plan.target,
            recipe=plan.recipe,
            data=self.data_source,
            synthetic=plan.synthetic,
            samples=statistics.samples if statistics is not None else 0,
            held_out=len(self.held_out),
            bytes_before=self.bytes_before,
            bytes_after=graph.weight_bytes(),
            ops_before=self.ops_before,
            ops_after=op_counts(graph),
            coverage=covered,
            outputs=outputs,
            metric=metric,
            skipped=plan.skipped,
            kept=plan.keep,
            warnings=tuple(self.journal.warnings),
            timings=dict(self.journal.timings),
            passes=rewrites,
            plan_digest=plan.digest(),
            versions={
                "qcompiler": __version__,
                "onnx": onnx.__version__,
                "onnxruntime": ort.version().split()[1],
                "numpy": np.__version__,
            },
        )


def _file_bytes(source: Source) -> int:
    """Bytes of a model file and of the weights beside it; 0 if it is no file."""
    if not isinstance(source, (str, Path)):
        return 0
    path = Path(source)
    model = onnx.load(path, load_external_data=False)
    beside = {
        e.value for t in model.graph.initializer for e in t.external_data if e.key == "location"
    }
    return sum(file.stat().st_size for file in (path, *(path.parent / n for n in beside)))
