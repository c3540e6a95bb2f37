"""The FP16 engine that every other is measured against, and the gate with it.

The source model is brought into the prepared form and cast to float16 as the recipe ``fp16`` does
it where all values fit: every float tensor but those of the tail; inputs and outputs keep their
types. It is built for the same target with the same options into a folder that is gone afterwards.
Where the GPU of this machine is one that they are for, both run on it first.

Dynamic inputs are fixed at the profile's *opt* shapes, for both engines. A listing does not say
what its ``-1`` stand for: of 8 images of 65 tokens it makes one axis of 520, and whoever counts
that as a batch of 8 misses nearly all bytes of a transformer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from qcompiler import targets
from qcompiler.backends.tensorrt_process import Limits
from qcompiler.backends.tensorrt_profile import Shape
from qcompiler.emit import emit
from qcompiler.engine import gate
from qcompiler.engine.build import BuildOptions, build, throttled
from qcompiler.engine.dequantized import LINEAR
from qcompiler.engine.fixed import fix
from qcompiler.engine.gate import Engine
from qcompiler.engine.gpus import Gpu
from qcompiler.engine.macs import macs
from qcompiler.engine.measure import Samples, feeds_for, measure, present
from qcompiler.engine.measured import Measured
from qcompiler.engine.precision import LOW
from qcompiler.engine.shapes import Shapes, parse, write
from qcompiler.engine.sidecar import Sidecar, beside
from qcompiler.engine.target_string import EngineTarget
from qcompiler.errors import BackendError, InputError, UnsupportedError
from qcompiler.graph import label
from qcompiler.load import load
from qcompiler.passes.cast_precision import CastPrecision
from qcompiler.pipeline import Pipeline
from qcompiler.prepare import prepare
from qcompiler.progress import Journal, Progress, Silent
from qcompiler.tail import tail


class _Quiet(Silent):
    """Stages without warnings: they were given for the first engine."""

    def __init__(self, progress: Progress, word: str) -> None:
        self._progress = progress
        self._word = word

    def begin(self, stage: str) -> None:
        self._progress.begin(f"{stage} {self._word}")

    def update(self, done: int, total: int) -> None:
        self._progress.update(done, total)

    def end(self) -> None:
        self._progress.end()


def gated(
    sidecar: Sidecar,
    plan: Path,
    model: Path,
    source: Path,
    target: EngineTarget,
    *,
    gpu: Gpu | None,
    options: BuildOptions | None = None,
    samples: Samples | None = None,
    progress: Progress | None = None,
) -> Sidecar:
    """Compare a plan that was just built with FP16, and add the verdict to its facts.

    Args:
        sidecar: Facts about the plan.
        plan: The plan; the facts beside it are written again.
        model: What it was built from.
        source: The float model that ``model`` came from.
        target: What it was built for.
        gpu: The card to estimate for; None if the table has none.
        options: What it was built with.
        samples: The user's inputs to compare outputs on, where there is a GPU; None to make some
            up.
        progress: Told that the stages ``build fixed``, ``build fp16`` and ``measure`` run.

    Returns:
        The facts with the verdict. An FP16 form that cannot be built gives ``unknown``.

    Raises:
        InputError: The folder cannot be written.
    """
    at = _bounds(sidecar, "opt")
    options = _plain(options or BuildOptions())
    if at:
        options = replace(options, shapes=Shapes(at, at, at))
    job = _Job(target, options, at, progress or Silent())
    verdict: gate.Gate
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        plans = plan, Path(folder, "fp16.plan")
        try:
            if not at or _bounds(sidecar, "min") == _bounds(sidecar, "max"):
                ours = job.fixed(model, sidecar)
            else:
                plans = Path(folder, "fixed.plan"), plans[1]
                ours = job.build(model, plans[0], "fixed")
            fp16 = job.build_fp16(source, plans[1])
        except (InputError, UnsupportedError, BackendError) as error:
            verdict = gate.unknown(
                sidecar.report, f"nothing to compare with could be built: {error.message}"
            )
        else:
            measured = job.measured(plans, source, samples)
            verdict = gate.judge(ours, fp16, gpu, write(at), measured)
    found = msgspec.structs.replace(sidecar, gate=verdict)
    found.save(beside(plan))
    return found


def require_same_interface(model: Path, source: Path) -> None:
    """Refuse a source that is not the float form of a model.

    Raises:
        InputError: One of them cannot be read, or their inputs or outputs have other names.
    """
    for what in ("inputs", "outputs"):
        ours, theirs = (
            [t.name for t in getattr(load(path, strict=False), what)] for path in (model, source)
        )
        if sorted(ours) != sorted(theirs):
            raise InputError(
                f"its {what} are {', '.join(theirs)}; those of {model.name} are {', '.join(ours)}",
                where=str(source),
                hint="--source names the float model that the other was made from",
            )


@dataclass(frozen=True)
class _Job:
    """How both engines are built, and at which shapes they are compared."""

    target: EngineTarget
    options: BuildOptions
    at: Mapping[str, Shape]
    progress: Progress

    def build_fp16(self, source: Path, plan: Path) -> Engine:
        """The engine of the FP16 form."""
        graph, _ = prepare(source, targets.find(self.target.library.name), Journal(Silent()))
        Pipeline((CastPrecision(keep=tuple(tail(graph))),)).run(graph)
        with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
            model = Path(folder, f"{source.stem}.onnx")
            emit(graph, model)
            return self.build(model, plan, "fp16")

    def build(self, model: Path, plan: Path, word: str) -> Engine:
        """The engine of a model at the fixed shapes."""
        quiet = _Quiet(self.progress, word)
        sidecar = build(model, plan, self.target, options=self.options, progress=quiet)
        return self.fixed(model, sidecar)

    def measured(
        self, plans: tuple[Path, Path], source: Path, samples: Samples | None
    ) -> Measured | None:
        """What both do on the GPU of this machine; None if there is none, or they do not run."""
        device = present(self.target)
        if device is None:
            return None
        self.progress.begin("measure")
        try:
            feeds, given = feeds_for(source, self.at, samples, self.progress)
            limits = Limits(self.options.timeout, self.options.memory)
            return measure(
                plans,
                self.target,
                device,
                feeds,
                given=given,
                at=self.at,
                limits=limits,
                tick=throttled(self.progress),
            )
        except (InputError, UnsupportedError, BackendError) as error:
            self.progress.warn(f"nothing was measured on the {device.name}: {error.message}")
            return None
        finally:
            self.progress.end()

    def fixed(self, model: Path, sidecar: Sidecar) -> Engine:
        """Kernels and report of an engine whose listing has no dynamic dimension."""
        report = sidecar.report
        if not self.at:
            return sidecar.layers, report
        counted = _macs(model, self.at)
        linear = tuple(
            msgspec.structs.replace(n, macs=counted.get(n.node, n.macs)) for n in report.linear
        )
        total = sum(n.macs for n in linear)
        low = sum(n.macs for n in linear if n.precision in LOW.values())
        share = low / total if total else 0.0
        return sidecar.layers, msgspec.structs.replace(
            report, linear=linear, macs=total, low_macs=share
        )


def _plain(options: BuildOptions) -> BuildOptions:
    """Without what is of use to one plan alone: a locked cache holds no times of another model."""
    flags = tuple(flag for flag in options.flags if flag != "locked")
    return replace(options, flags=flags, runtime_cache=None, twice=False)


def _macs(model: Path, at: Mapping[str, Shape]) -> dict[str, int]:
    """Multiply-accumulates of every linear node at fixed shapes of the inputs."""
    graph = fix(load(model, strict=False).proto(skeleton=True), at)
    return {label(n): macs(graph, n, 1) for n in graph.nodes if n.op in LINEAR}


def _bounds(sidecar: Sidecar, bound: str) -> dict[str, Shape]:
    """One bound of the profile that an engine was built with; empty if it needed none."""
    said = sidecar.options.get(f"{bound}-shapes")
    return {} if said is None else parse((str(said),))
