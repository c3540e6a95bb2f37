"""A model file -> a plan, and the facts about it beside it.

The plan's bytes are the library's, untouched; ``MODEL.plan.json`` says where they come from and
what is in them. Both files appear, or neither does. Every build runs in a child process with a
bound on time and memory, from the file, so that a large model is never held twice.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from qcompiler import weights
from qcompiler.backends.tensorrt import RTX, Request, Verdict, judge
from qcompiler.backends.tensorrt_process import Limits
from qcompiler.backends.tensorrt_profile import Input, Profile
from qcompiler.engine import listing
from qcompiler.engine.refusal import refusal
from qcompiler.engine.report import engine_report
from qcompiler.engine.shapes import Shapes, write
from qcompiler.engine.sidecar import Sidecar, beside, digest
from qcompiler.engine.target_string import EngineTarget
from qcompiler.errors import BackendError, InputError, UnsupportedError, UsageError
from qcompiler.load import load
from qcompiler.progress import Progress, Silent

FLAGS = {
    "weight-streaming": "WEIGHT_STREAMING",
    "refit": "REFIT",
    "strip-plan": "STRIP_PLAN",
    "version-compatible": "VERSION_COMPATIBLE",
}
"""Option -> member of ``BuilderFlag``."""

_DRIVER = "TensorRT for RTX compiles this only where a GPU and its driver are, and then on that GPU"
_NOT_ON_RTX = {
    "refit": _DRIVER,
    "strip-plan": _DRIVER,
    "version-compatible": "TensorRT for RTX has no version-compatible plans (it returns none, "
    "without a message); build once for each release",
}
_EVERY = 0.2  # seconds between two looks at the clock by whoever shows progress


@dataclass(frozen=True)
class BuildOptions:
    """What a build is asked for besides its target.

    Attributes:
        shapes: Shapes of dynamic inputs.
        workspace: Bytes a kernel may use as scratch; None for the library's own limit.
        level: Builder optimization level, 0 to 5; None for the library's own.
        flags: Keys of :data:`FLAGS`.
        timeout: Seconds.
        memory: Bytes of memory of the child process; 0 is no bound.
    """

    shapes: Shapes = field(default_factory=Shapes)
    workspace: int | None = None
    level: int | None = None
    flags: tuple[str, ...] = ()
    timeout: float = 600.0
    memory: int = 16 * 2**30


def check(target: EngineTarget, options: BuildOptions) -> None:
    """Refuse what cannot work, before any work is done.

    Raises:
        UsageError: A number is out of range.
        UnsupportedError: The library of this target has no such option.
        BackendError: The library is not installed, or in another release.
    """
    if options.level is not None and not 0 <= options.level <= 5:
        raise UsageError("the optimization level is a number from 0 to 5")
    if options.timeout <= 0:
        raise UsageError("the timeout must be above 0 seconds")
    for flag in options.flags:
        if flag not in FLAGS:
            raise UsageError(f"unknown flag {flag!r}", hint=f"one of {', '.join(FLAGS)}")
        if target.library == RTX and flag in _NOT_ON_RTX:
            raise UnsupportedError(
                f"--{flag} does not work with {RTX.title}: {_NOT_ON_RTX[flag]}",
                where=str(target),
                hint=f"leave --{flag} out, or build with tensorrt on a machine with the GPU",
            )
    target.require()


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
        UnsupportedError: The library has no such option.
        BackendError: The library is missing, refused the model, died, or went past a bound.
    """
    options, progress = options or BuildOptions(), progress or Silent()
    check(target, options)
    if len(target.capabilities) > 1:
        progress.warn(
            f"{target} gives one engine, limited to what the weakest of its GPUs can do; "
            "build one plan a GPU for the fastest"
        )
    with _pair(plan) as (temporary, facts):
        chosen: dict[str, Profile] = {}
        progress.begin("build")
        try:
            verdict = _build(model, temporary, target, options, chosen, _throttled(progress))
        finally:
            progress.end()
        if not verdict.accepted:
            bounded = options.workspace is not None
            raise refusal(verdict, str(model), str(target), workspace=bounded)
        profile = chosen["profile"]
        if profile and not options.shapes.given():
            progress.warn(f"no shapes were given; the default profile is {_spelled(profile)}")
        found = _listing(verdict, target, progress)
        sidecar = _facts(model, temporary, target, verdict, found, _said(options, profile))
        sidecar.save(facts)
    return sidecar


def _build(
    model: Path,
    plan: Path,
    target: EngineTarget,
    options: BuildOptions,
    chosen: dict[str, Profile],
    tick: Callable[[], None],
) -> Verdict:
    def choose(inputs: tuple[Input, ...]) -> Profile:
        chosen["profile"] = options.shapes.profile(inputs)
        return chosen["profile"]

    request = Request(
        model,
        library=target.library,
        capabilities=target.capabilities,
        plan=plan,
        workspace=options.workspace,
        level=options.level,
        flags=tuple(FLAGS[flag] for flag in options.flags),
        keep_log=True,
    )
    return judge(request, choose, Limits(options.timeout, options.memory), tick)


def _facts(
    model: Path,
    plan: Path,
    target: EngineTarget,
    verdict: Verdict,
    found: listing.Listing,
    said: dict[str, str | int | float | bool],
) -> Sidecar:
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
        report=engine_report(found, load(model, strict=False)),
    )


def _listing(verdict: Verdict, target: EngineTarget, progress: Progress) -> listing.Listing:
    """The kernels; none of TensorRT, whose log is not known to hold a listing of this form."""
    try:
        return listing.parse(verdict.log)
    except BackendError as error:
        if target.library == RTX:
            raise
        progress.warn(f"the facts hold no kernels: {error.message}")
        return listing.Listing((), listing.Memory(0, 0, 0))


def _said(options: BuildOptions, profile: Profile) -> dict[str, str | int | float | bool]:
    """The options as the facts record them: what shapes the plan, not how it was watched."""
    said: dict[str, str | int | float | bool] = dict.fromkeys(options.flags, True)
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


def _throttled(progress: Progress) -> Callable[[], None]:
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
