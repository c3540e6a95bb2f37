"""What becomes of each capability row on this machine?  It is tried, and written to a target file.

For every row (operator, kind, format, scales) and base type a small network is built twice with the
product's own passes: with the row's operator quantized, and with it left in float, everything else
equal. Scales are placeholders, as in :mod:`qcompiler.engine.trial`.

* ``refused``: the second builds, the first does not;
* ``float``: it builds, and the listing shows that the operator is not computed in the format;
* ``loses``: it is, and takes longer than in float by the rule of :mod:`qcompiler.engine.measured`,
  measured on the GPU of this machine;
* ``runs``: it is, and does not.

Without a GPU (TensorRT for RTX only) nothing can be timed: then a row that says ``loses`` keeps
its verdict as long as the operator is computed in the format, for it may lose all the same. The
roofline estimate is written down for the reader, and decides nothing: it depends on the size.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from qcompiler import recipe as recipes
from qcompiler import targets
from qcompiler.apply import passes_of
from qcompiler.backends.cuda_driver import Device
from qcompiler.backends.tensorrt import RTX
from qcompiler.emit import emit
from qcompiler.engine import gpus, probe_networks
from qcompiler.engine.build import BuildOptions, build
from qcompiler.engine.gate import seconds
from qcompiler.engine.gpus import Gpu
from qcompiler.engine.measure import made_up, measure, present, specs_at
from qcompiler.engine.measured import Measured
from qcompiler.engine.probe_verdict import cause, judged
from qcompiler.engine.sidecar import Sidecar
from qcompiler.engine.target_string import EngineTarget, parse
from qcompiler.engine.trial import placeholder
from qcompiler.errors import BackendError, InputError, QCompilerError, UnsupportedError, UsageError
from qcompiler.graph import Graph
from qcompiler.load import load
from qcompiler.pipeline import Pipeline
from qcompiler.progress import Progress, Silent
from qcompiler.recipe import Recipe
from qcompiler.scan import scan
from qcompiler.targets import file
from qcompiler.targets.base import Capability, Target, What


@dataclass(frozen=True)
class Question:
    """One row, asked for one base type."""

    row: Capability
    base: str

    @property
    def key(self) -> tuple[str, ...]:
        """Operator, kind, format, scales of the activation and base type."""
        return self.row.op, self.row.kind, self.row.format, self.row.scales, self.base


@dataclass(frozen=True)
class _Built:
    """A network that was built: its plan and the facts about it."""

    plan: Path
    facts: Sidecar


def probe(name: str, only: str | None = None, progress: Progress | None = None) -> file.TargetFile:
    """Try the rows of a target that were not tried with this library on this card.

    Args:
        name: The target, with one compute capability at most; a target file goes on where it was
            left.
        only: An operator, if not all are wanted.
        progress: Told the rows that are done, and those that could not be tried.

    Returns:
        The rows that were tried, those of the target file first.

    Raises:
        UsageError: No target that engines are built for, several compute capabilities, or no row
            for the operator.
        InputError: The target file is damaged.
        BackendError: The library is not installed, or needs the GPU of the target.
    """
    progress = progress or Silent()
    engine = parse(name)
    target = targets.find(name)
    if len(target.capabilities) > 1:
        raise UsageError(
            f"{target.name} names several compute capabilities; a row is about one",
            hint="probe them one by one, each into a file of its own",
        )
    library = f"{engine.library.name} {engine.require()}"
    device = present(engine)
    if device is None and engine.library != RTX:
        raise BackendError(
            f"{engine.library.title} builds on the GPU that it builds for, and this machine has "
            f"none for {engine}",
            hint="probe there; the compiler of tensorrt-rtx can be asked without a GPU",
        )
    capability = _number(engine, device)
    where = f"{library} on {device.name}" if device else f"{library} for sm{capability}, not run"
    known = file.read(Path(name)).rows if targets.is_file(name) else ()
    kept = tuple(row for row in known if row.verified == where)
    asked = questions(target, capability, only)
    done = {row.key for row in kept}
    open_ = [question for question in asked if question.key not in done]
    with tempfile.TemporaryDirectory(prefix="qcompiler-probe-") as folder:
        work = _Prober(target, engine, device, capability, where, Path(folder), progress)
        found = work.run(open_)
    said = target.name if ":" in target.name else f"{target.name}:sm{capability}"
    return file.TargetFile(
        target=said,
        library=library,
        card=device.name if device else "",
        driver=device.driver if device else "",
        rows=(*kept, *found),
    )


def questions(target: Target, capability: int, only: str | None = None) -> list[Question]:
    """Every row that answers for a compute capability, once a base type.

    Raises:
        UsageError: There is none for the operator.
    """
    found: dict[tuple[str, ...], Question] = {}
    for row in target.rows_for(capability):
        for base in row.base:
            question = Question(row, base)
            found.setdefault(question.key, question)
    ops = sorted({question.row.op for question in found.values()})
    if only is not None and only not in ops:
        raise UsageError(
            f"{target.name} has no row for {only!r}", hint=f"operators are: {', '.join(ops)}"
        )
    return [q for q in found.values() if only in (None, q.row.op)]


def _number(engine: EngineTarget, device: Device | None) -> int:
    name = engine.capabilities[0] if engine.capabilities else device.capability if device else ""
    return int(name.removeprefix("SM"))


@dataclass
class _Prober:
    """Builds both networks of each row, and runs them where there is a GPU."""

    target: Target
    engine: EngineTarget
    device: Device | None
    capability: int
    where: str
    folder: Path
    progress: Progress
    gpu: Gpu | None = None
    plain: dict[object, _Built | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.gpu = gpus.choose(None, (f"SM{self.capability}",))

    def run(self, asked: list[Question]) -> list[file.Row]:
        """A row for every question that has an answer."""
        found: list[file.Row] = []
        self.progress.begin("probe")
        try:
            for number, question in enumerate(asked, 1):
                try:
                    found.append(self.answer(question))
                except UnsupportedError as error:
                    words = " ".join(question.key)
                    self.progress.warn(f"{words}: not tried: {error.message}")
                self.progress.update(number, len(asked))
        finally:
            self.progress.end()
        return found

    def answer(self, question: Question) -> file.Row:
        """What becomes of one row.

        Raises:
            UnsupportedError: It cannot be told.
        """
        row = question.row
        asked = probe_networks.network(row)
        graph = load(asked.model)  # as it is: preparing could turn it into what was not asked
        graph.infer()
        recipe = _recipe(question)
        helpers = [self._helper(op, kind, row) for op, kind in asked.helpers]
        plain = self._plain(question, graph, helpers, recipe)
        try:
            quantized = self._build(graph, [row, *helpers], recipe, asked.nodes)
        except (InputError, BackendError) as error:
            if plain is None:
                raise UnsupportedError("the float network does not build either") from error
            return self._row(question, "refused", cause(error), None, plain, None)
        measured = self._measured(graph, quantized, plain)
        verdict, note = judged(row, asked.nodes, quantized.facts, measured)
        return self._row(question, verdict, note, quantized, plain, measured)

    def _plain(
        self, question: Question, graph: Graph, helpers: list[Capability], recipe: Recipe
    ) -> _Built | None:
        """The network in float but for the helpers, or for nothing if they are refused."""
        row = question.row
        key = (
            row.op,
            row.kind,
            row.heads,
            question.base,
            (row.format, row.scales) if helpers else "",
        )
        if key not in self.plain:
            try:
                self.plain[key] = self._build(graph, helpers, recipe)
            except QCompilerError:
                self.plain[key] = self._plain(question, graph, [], recipe) if helpers else None
        return self.plain[key]

    def _helper(self, op: str, kind: str, beside: Capability) -> Capability:
        wanted = (op, kind, beside.format, beside.scales)
        rows = self.target.rows_for(self.capability)
        row = next((r for r in rows if (r.op, r.kind, r.format, r.scales) == wanted), None)
        if row is None:
            raise UnsupportedError(f"there is no row for {' '.join(wanted)}, which goes with it")
        return row

    def _build(
        self,
        graph: Graph,
        rows: Iterable[Capability],
        recipe: Recipe,
        wanted: Iterable[str] = (),
    ) -> _Built:
        """An engine of the network with what ``rows`` are about quantized, and nothing else.

        Raises:
            UnsupportedError: Planning leaves a wanted node in float whatever the rows say.
        """
        forced = tuple(
            replace(r, verdict="runs", capabilities=(), versions=(), base=(recipe.base,))
            for r in rows
        )
        points = scan(graph, recipe, replace(self.target, rows=forced))
        placed = {s.node for p in (*points.activations, *points.weights) for s in p.slots}
        if missing := set(wanted) - placed:
            why = {points.skipped.get(node, "it is not asked about") for node in missing}
            raise UnsupportedError("; ".join(sorted(why)))
        made = load(graph.proto(), strict=False)
        made.infer()
        Pipeline(passes_of(placeholder(made, points, recipe))).run(made)
        number = len(list(self.folder.glob("*.onnx")))
        model = emit(made, self.folder / f"{number}.onnx")[0]
        plan = self.folder / f"{number}.plan"
        return _Built(plan, build(model, plan, self.engine, options=BuildOptions()))

    def _measured(self, graph: Graph, quantized: _Built, plain: _Built | None) -> Measured | None:
        if self.device is None or plain is None:
            return None
        feeds = made_up(specs_at(graph, {}))
        try:
            return measure((quantized.plan, plain.plan), self.engine, self.device, feeds)
        except BackendError as error:
            raise UnsupportedError(f"it does not run: {error.message}") from error

    def _row(
        self,
        question: Question,
        verdict: What,
        note: str,
        quantized: _Built | None,
        plain: _Built | None,
        measured: Measured | None,
    ) -> file.Row:
        row = question.row
        ours, other = self._network(quantized), self._network(plain)
        if measured is not None and ours is not None and other is not None:
            ours = msgspec.structs.replace(ours, **_times(measured.ours))
            other = msgspec.structs.replace(other, **_times(measured.fp16))
        return file.Row(
            op=row.op,
            kind=row.kind,
            format=row.format,
            granularity=row.granularity,
            scales=row.scales,
            base=question.base,
            verdict=verdict,
            note=note,
            verified=self.where,
            capabilities=(self.capability, self.capability),
            heads=row.heads,
            keys=row.keys,
            free_keys=row.free_keys,
            quantized=ours,
            plain=other,
        )

    def _network(self, built: _Built | None) -> file.Network | None:
        if built is None:
            return None
        facts = built.facts
        estimate = seconds(facts.layers, facts.report, self.gpu) if self.gpu else None
        return file.Network(
            kernels=facts.report.kernels,
            bytes_moved=facts.report.bytes_moved,
            estimate=estimate,
        )


def _recipe(question: Question) -> Recipe:
    """The recipe that comes with the package for a format and a base type."""
    for name in recipes.names():
        found = recipes.find(name)
        said = found.quantize, found.format, found.scales, found.base
        if said == (True, question.row.format, question.row.scales, question.base):
            return found
    raise UnsupportedError("no recipe asks for it")


def _times(time: object) -> Mapping[str, float]:
    return {name: getattr(time, name) for name in ("median", "low", "high")}
