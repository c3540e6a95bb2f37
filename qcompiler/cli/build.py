"""The verb ``build``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from qcompiler.cli import options as o
from qcompiler.cli.gate import CardName, UseGate

if TYPE_CHECKING:
    from rich.console import Console

    from qcompiler.cli.gate import Gating
    from qcompiler.engine.shapes import Shapes
    from qcompiler.engine.sidecar import CacheFact, Repeat, Sidecar
    from qcompiler.engine.target_string import EngineTarget
    from qcompiler.progress import Progress


def build(  # (a command line has as many options as it has)
    model: o.Model,
    /,
    *,
    output: o.Output = None,
    target: Annotated[
        str,
        Parameter(
            help="tensorrt-rtx[-VERSION][:smNN[,smNN…]], which needs no GPU to build, or "
            "tensorrt[-VERSION][:smNN]. Several capabilities give one engine for the weakest."
        ),
    ] = "tensorrt-rtx:sm89",
    min_shapes: o.Words = (),
    opt_shapes: o.Words = (),
    max_shapes: o.Words = (),
    workspace: Annotated[
        str | None, Parameter(help="Scratch memory a kernel may use, such as 4GiB.")
    ] = None,
    optimization_level: Annotated[
        int | None, Parameter(help="0 (fast build) to 5 (fast engine).")
    ] = None,
    weight_streaming: Annotated[
        bool, Parameter(negative="", help="Let the engine keep weights in host memory.")
    ] = False,
    refit: Annotated[
        bool, Parameter(negative="", help="Let weights be replaced later; not on RTX.")
    ] = False,
    strip_plan: Annotated[
        bool, Parameter(negative="", help="Leave the weights out of the plan; not on RTX.")
    ] = False,
    version_compatible: Annotated[
        bool, Parameter(negative="", help="Let later releases run the plan; not on RTX.")
    ] = False,
    hardware_compatibility: Annotated[
        str | None,
        Parameter(
            help="none, ampere-plus or same-compute-capability: GPUs that can run the plan besides "
            "the one it is built on; not on RTX."
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        Parameter(
            help="Folder of measured kernel times, a file for each release, GPU and driver: later "
            "builds are fast and choose the same kernels; not on RTX."
        ),
    ] = None,
    locked: Annotated[
        bool,
        Parameter(
            negative="", help="Take every time from --timing-cache, and fail where one is missing."
        ),
    ] = False,
    runtime_cache: Annotated[
        Path | None,
        Parameter(
            help="Folder of kernels that TensorRT for RTX finished on this GPU, a file for each "
            "release, GPU and driver; only RTX, and needs the GPU."
        ),
    ] = None,
    twice: Annotated[
        bool, Parameter(negative="", help="Build a second time and say whether both are equal.")
    ] = False,
    timeout: Annotated[float, Parameter(help="Seconds until the build is given up.")] = 600.0,
    memory: Annotated[
        str, Parameter(help="Memory until the build is given up; 0 is no bound (Linux only).")
    ] = "16GiB",
    source: Annotated[
        Path | None,
        Parameter(help="The float model that MODEL was made from, to compare its FP16 form with."),
    ] = None,
    data: Annotated[
        str | None,
        Parameter(
            help="Samples, as of `compile`, that outputs are compared on where there is a GPU; "
            "without it inputs are made up."
        ),
    ] = None,
    gate: UseGate = True,
    gpu: CardName = None,
    overwrite: o.Overwrite = False,
    format: o.Format = "text",  # noqa: A002
) -> int:
    """Build a TensorRT engine, with the facts about it beside it.

    Writes MODEL.plan unless -o says otherwise, and MODEL.plan.json. The model is taken as it is:
    quantize it with `compile` first. With --source the FP16 form of that model is built too, and
    an engine that is slower than it is written all the same and ends with exit code 1: measured
    on a GPU that the engine is for, where outputs are compared too, and estimated elsewhere.
    """
    from rich.console import Console

    from qcompiler.cli.display import display
    from qcompiler.cli.gate import Gating, closed, explain
    from qcompiler.cli.sizes import size
    from qcompiler.engine import build as engine
    from qcompiler.engine import gpus, shapes, target_string
    from qcompiler.engine.measure import Samples
    from qcompiler.plan import encode

    plan = output or model.with_suffix(".plan")
    sources = [model, *([source] if source else [])]
    o.refuse_existing(files(plan), overwrite=overwrite, sources=sources)
    flags = {
        "weight-streaming": weight_streaming,
        "refit": refit,
        "strip-plan": strip_plan,
        "version-compatible": version_compatible,
        "locked": locked,
    }
    parsed = target_string.parse(target)
    options = engine.BuildOptions(
        shapes=shapes.Shapes(*(shapes.parse(w) for w in (min_shapes, opt_shapes, max_shapes))),
        workspace=size(workspace, "--workspace") if workspace is not None else None,
        level=optimization_level,
        flags=tuple(name for name, wanted in flags.items() if wanted),
        compatibility=hardware_compatibility,
        timing_cache=timing_cache,
        runtime_cache=runtime_cache,
        twice=twice,
        timeout=timeout,
        memory=size(memory, "--memory"),
    )
    samples = Samples(data) if data is not None else None
    gating = Gating(source, gate, gpus.choose(gpu, parsed.capabilities), samples)
    gating.check(model)
    progress = display(quiet=format == "json")
    sidecar = engine.build(model, plan, parsed, options=options, progress=progress)
    sidecar = gating.run(sidecar, model, plan, parsed, options, progress)
    if format == "json":
        sys.stdout.buffer.write(encode(sidecar))
    else:
        console = Console(highlight=False)
        show(model, plan, sidecar, console)
        explain(gating, sidecar, console)
    return closed(sidecar, quiet=format == "json")


def files(engine: Path | None) -> list[Path]:
    """What a build writes: the plan, and its facts."""
    from qcompiler.engine.sidecar import beside

    return [] if engine is None else [engine, beside(engine)]


def planned(
    engine: Path | None, engine_target: str | None, target: str, gpu: str | None = None
) -> EngineTarget | None:
    """What ``compile --engine`` will build for, checked before anything is compiled.

    Args:
        engine: Value of ``--engine``.
        engine_target: Value of ``--engine-target``; without it the target of the compilation.
        target: Value of ``--target``.
        gpu: Value of ``--gpu``.

    Returns:
        The target of the engine; None if none is wanted.

    Raises:
        UsageError: ``--engine-target`` without ``--engine``, not a target of engines, or not a
            card of the target.
        BackendError: The library is not installed.
    """
    from qcompiler.engine import gpus
    from qcompiler.engine.build import BuildOptions, check
    from qcompiler.engine.target_string import parse
    from qcompiler.errors import UsageError

    if engine is None:
        if engine_target is not None:
            raise UsageError("--engine-target needs --engine PLAN")
        return None
    found = parse(engine_target or target)
    gpus.choose(gpu, found.capabilities)
    check(found, BuildOptions())
    return found


def built(
    model: Path,
    engine: Path | None,
    target: EngineTarget | None,
    gating: Gating,
    shapes: Shapes,
    progress: Progress,
) -> Sidecar | None:
    """Build what ``compile --engine`` wants, as ``build`` does by default but for the shapes."""
    from qcompiler.engine.build import BuildOptions
    from qcompiler.engine.build import build as run

    if engine is None or target is None:
        return None
    options = BuildOptions(shapes=shapes)
    sidecar = run(model, engine, target, options=options, progress=progress)
    return gating.run(sidecar, model, engine, target, options, progress)


def show(model: Path, plan: Path | None, sidecar: Sidecar | None, console: Console) -> None:
    """Print what a build made; nothing if there was none."""
    if plan is None or sidecar is None:
        return
    from rich.markup import escape
    from rich.table import Table

    from qcompiler.cli.inspect import summarize
    from qcompiler.engine.sidecar import beside

    capabilities = ", ".join(sidecar.capabilities) or "the GPU of this machine"
    console.print(f"[bold]{escape(str(model))}[/] -> [bold]{escape(str(plan))}[/]")
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("built by", f"{sidecar.library} for {capabilities} in {sidecar.seconds:.1f} s")
    table.add_row("plan", f"{sidecar.plan_bytes / 1e6:.2f} MB, facts in {beside(plan).name}")
    for option, value in sidecar.options.items():
        table.add_row(option, escape(str(value)))
    for cache in sidecar.caches:
        table.add_row(f"{cache.kind} cache", escape(f"{cache.file}, {_changed(cache)}"))
    if sidecar.repeat is not None:
        table.add_row("built twice", _equal(sidecar.repeat))
    console.print(table)
    summarize(sidecar, console)


def _changed(cache: CacheFact) -> str:
    if not cache.before:
        return "new"
    return "read" if cache.before == cache.after else "read and added to"


def _equal(repeat: Repeat) -> str:
    if repeat.equal_bytes:
        return "the same bytes"
    return "other bytes, the same kernels" if repeat.equal_layers else "other kernels"
