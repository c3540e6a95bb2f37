"""A model file -> a plan, and the facts about it beside it.

The plan's bytes are the library's, untouched; ``MODEL.plan.json`` says where they come from and
what is in them. Both files appear, or neither does. Every build runs in a child process with a
bound on time and memory, from the file, so that a large model is never held twice.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from qcompiler import weights
from qcompiler.backends.tensorrt import RTX, CacheFiles, Request, Verdict, judge
from qcompiler.backends.tensorrt_process import Limits
from qcompiler.backends.tensorrt_profile import Input, Profile
from qcompiler.engine import caches, inspector, listing
from qcompiler.engine.options import COMPATIBILITY, FLAGS, BuildOptions, check
from qcompiler.engine.ports import ports
from qcompiler.engine.refusal import refusal
from qcompiler.engine.report import engine_report
from qcompiler.engine.shapes import write
from qcompiler.engine.sidecar import CacheFact, Repeat, Sidecar, beside, digest
from qcompiler.engine.target_string import EngineTarget
from qcompiler.errors import BackendError, InputError
from qcompiler.load import load
from qcompiler.progress import Progress, Silent

__all__ = ["BuildOptions", "build", "check", "throttled"]

_EVERY = 0.2  # seconds between two looks at the clock by whoever shows progress


def build(
    model: Path,
    plan: Path,
    target: EngineTarget,
    *,
    options: BuildOptions | None = None,
    progress: Progress | None = None,
) -> Sidecar:
    """Build an engine and write it with its facts.

    Args:
        model: ONNX file; external data is read from its folder.
        plan: File to write; ``<plan>.json`` is written beside it.
        target: Library and compute capabilities.
        options: Everything else.
        progress: Told that the stage ``build`` runs, several times a second.

    Returns:
        The facts, as written.

    Raises:
        InputError: The model cannot be read or is refused by the parser; a shape does not fit; the
            folder cannot be written.
        UsageError: An option is out of range.
        UnsupportedError: The library has no such option, or a cache needs a GPU that is not here.
        BackendError: The library is missing, refused the model, died, or went past a bound.
    """
    options, progress = options or BuildOptions(), progress or Silent()
    check(target, options)
    if len(target.capabilities) > 1:
        progress.warn(
            f"{target} gives one engine, limited to what the weakest of its GPUs can do; "
            "build one plan a GPU for the fastest"
        )
    job = _Job(model, target, options, progress)
    cache = caches.choose(target, options.timing_cache, options.runtime_cache)
    with _pair(plan) as (temporary, facts):
        used: tuple[CacheFact, ...] = ()
        if cache is None:
            verdict, profile = job.build(temporary, "build")
        else:
            with cache.open(locked="locked" in options.flags) as opened:
                verdict, profile = job.build(temporary, "build", opened.files)
            used = (opened.fact(),)
        if profile and not options.shapes.given():
            progress.warn(f"no shapes were given; the default profile is {_spelled(profile)}")
        found = _listing(verdict, target, progress)
        sidecar = _facts(job, temporary, verdict, found, _said(options, profile))
        repeat = job.again(temporary, found, cache) if options.twice else None
        sidecar = msgspec.structs.replace(sidecar, caches=used, repeat=repeat)
        sidecar.save(facts)
    return sidecar


@dataclass(frozen=True)
class _Job:
    """What is built, once or twice."""

    model: Path
    target: EngineTarget
    options: BuildOptions
    progress: Progress

    def build(
        self, plan: Path, stage: str, files: CacheFiles | None = None
    ) -> tuple[Verdict, Profile]:
        """A plan that was accepted, and the profile it was built with.

        Raises:
            QCompilerError: It was refused, or died.
        """
        chosen: dict[str, Profile] = {}

        def choose(inputs: tuple[Input, ...]) -> Profile:
            chosen["profile"] = self.options.shapes.profile(inputs)
            return chosen["profile"]

        request = Request(
            self.model,
            library=self.target.library,
            capabilities=self.target.capabilities,
            plan=plan,
            workspace=self.options.workspace,
            level=self.options.level,
            flags=tuple(FLAGS[flag] for flag in self.options.flags),
            compatibility=COMPATIBILITY.get(self.options.compatibility or "", ""),
            cache=files,
            keep_log=True,
            inspect=self.target.library != RTX,
        )
        limits = Limits(self.options.timeout, self.options.memory)
        self.progress.begin(stage)
        try:
            verdict = judge(request, choose, limits, throttled(self.progress))
        finally:
            self.progress.end()
        if not verdict.accepted:
            bounded = self.options.workspace is not None
            raise refusal(verdict, str(self.model), str(self.target), workspace=bounded)
        return verdict, chosen["profile"]

    def again(self, plan: Path, found: listing.Listing, cache: caches.Cache | None) -> Repeat:
        """Build once more, with what a timing cache holds by now, and compare."""
        files = CacheFiles(cache.kind, cache.path, None) if cache else None
        with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
            second = Path(folder, "second.plan")
            verdict, _ = self.build(second, "build again", files)
            layers = _listing(verdict, self.target, Silent()).layers
            return Repeat(
                plan_digest=digest(second),
                equal_bytes=digest(second) == digest(plan),
                equal_layers=layers == found.layers,
            )


def _facts(
    job: _Job,
    plan: Path,
    verdict: Verdict,
    found: listing.Listing,
    said: dict[str, str | int | float | bool],
) -> Sidecar:
    model, target = job.model, job.target
    graph = load(model, strict=False)
    report = engine_report(found, graph)  # infers the shapes of the outputs
    return Sidecar(
        library=verdict.library,
        capabilities=target.capabilities,
        model=model.name,
        model_digest=digest(model),
        plan_digest=digest(plan),
        plan_bytes=plan.stat().st_size,
        seconds=round(verdict.seconds, 3),
        options=said,
        layers=found.layers,
        memory=found.memory,
        report=report,
        inputs=ports(graph.inputs),
        outputs=ports(graph.outputs),
    )


def _listing(verdict: Verdict, target: EngineTarget, progress: Progress) -> listing.Listing:
    """The kernels: TensorRT for RTX lists them in its log, TensorRT tells its inspector."""
    if target.library == RTX:
        return listing.parse(verdict.log)
    memory = listing.memory(verdict.log)
    try:
        return listing.Listing(inspector.parse(verdict.inspector), memory)
    except (BackendError, InputError) as error:
        progress.warn(f"the facts hold no kernels: {error.message}")
        return listing.Listing((), memory)


def _said(options: BuildOptions, profile: Profile) -> dict[str, str | int | float | bool]:
    """The options as the facts record them: what shapes the plan, not how it was watched."""
    said: dict[str, str | int | float | bool] = dict.fromkeys(options.flags, True)
    if options.compatibility is not None:
        said["hardware-compatibility"] = options.compatibility
    if options.workspace is not None:
        said["workspace"] = options.workspace
    if options.level is not None:
        said["optimization-level"] = options.level
    if profile:
        low, opt, high = ({n: s[k] for n, s in profile.items()} for k in range(3))
        said["profile"] = "given" if options.shapes.given() else "default"
        said |= {"min-shapes": write(low), "opt-shapes": write(opt), "max-shapes": write(high)}
    return dict(sorted(said.items()))


def _spelled(profile: Profile) -> str:
    low, opt, high = ({n: s[k] for n, s in profile.items()} for k in range(3))
    return f"--min-shapes {write(low)} --opt-shapes {write(opt)} --max-shapes {write(high)}"


def throttled(progress: Progress) -> Callable[[], None]:
    """Call ``progress.update`` a few times a second, however often it is ticked."""
    last = time.monotonic()

    def tick() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _EVERY:
            last = now
            progress.update(0, 0)

    return tick


@contextmanager
def _pair(plan: Path) -> Iterator[tuple[Path, Path]]:
    """Temporary names that become ``plan`` and its facts together if the block succeeds.

    Should the plan not get its name after the facts got theirs, the old facts come back.
    """
    facts = beside(plan)
    if facts == plan:
        raise InputError("a plan must not end in .json", where=str(plan), hint="name it MODEL.plan")
    if plan.is_dir():
        raise InputError("this is a folder", where=str(plan), hint="name a file, MODEL.plan")
    with _kept(facts), weights.atomic(plan) as first, weights.atomic(facts) as second:
        yield first, second


@contextmanager
def _kept(path: Path) -> Iterator[None]:
    """Put a file of this name, or its absence, back if the block fails."""
    before = path.with_name(f".{path.name}.{os.getpid()}.old")
    existed = path.is_file()
    try:
        if existed:
            shutil.copyfile(path, before)
        yield
    except BaseException:
        if existed and before.exists():
            before.replace(path)
        elif not existed and path.is_file():
            path.unlink()
        raise
    finally:
        before.unlink(missing_ok=True)
