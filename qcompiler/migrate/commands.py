"""What the flags of an old build said together, and the commands that say it today.

``compile`` decides what the graph says, ``build`` how the engine is made; a calibration cache is
made into statistics before either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qcompiler.backends.tensorrt_profile import Shape
from qcompiler.engine import shapes
from qcompiler.engine.target_string import EngineTarget
from qcompiler.migrate.memory import spelled

MODEL, SAMPLES = "MODEL.onnx", "CALIB.npz"
"""What stands in a command for what the old build did not name."""


@dataclass
class Draft:
    """What the flags said so far.

    Attributes:
        target: What the new engine is built for.
        recipe: Recipe of the compilation; empty for none.
        typed: Whether the old build was strongly typed.
        quantized: Whether the model has Q/DQ nodes.
        only_runs: Whether nothing was built, an engine only loaded.
        model: Path of the ONNX model; empty if it was not named.
        plan: Path of the engine; empty if it was not named.
        cache: Path of the calibration cache; empty for none.
        low: Minimum shapes of the profile.
        opt: Optimum shapes of the profile.
        high: Maximum shapes of the profile.
        both: Shapes of a run, which hold for a build that gives none.
        workspace: Bytes; None if it was not said.
        level: Optimization level; empty if it was not said.
        compatibility: Value of ``--hardware-compatibility``; empty for none.
        timing: Folder of timing caches; empty for none.
        locked: Whether every time must be in the timing cache.
        switches: Options of ``build`` without a value.
        exclude: Globs of nodes that stay in float.
    """

    target: EngineTarget
    recipe: str
    typed: bool
    quantized: bool
    only_runs: bool = False
    model: str = ""
    plan: str = ""
    cache: str = ""
    low: dict[str, Shape] = field(default_factory=dict)
    opt: dict[str, Shape] = field(default_factory=dict)
    high: dict[str, Shape] = field(default_factory=dict)
    both: dict[str, Shape] = field(default_factory=dict)
    workspace: int | None = None
    level: str = ""
    compatibility: str = ""
    timing: str = ""
    locked: bool = False
    switches: list[str] = field(default_factory=list)
    exclude: list[str] = field(default_factory=list)


def commands(draft: Draft) -> tuple[tuple[str, ...], ...]:
    """Arguments of ``python -m qcompiler``, in the order to run them; none if nothing was built."""
    if draft.only_runs:
        return ()
    model = Path(draft.model or MODEL)
    library = draft.target.library.name
    if not draft.recipe:
        return (_build(draft, str(model)),)
    found: list[tuple[str, ...]] = []
    written = str(model.with_name(f"{model.stem}.{draft.recipe}.onnx"))
    compiled = ["compile", str(model), "--recipe", draft.recipe, "--target", library]
    if draft.cache:
        stats = str(model.with_name(f"{model.stem}.stats.npz"))
        found.append(
            ("migrate", "--cache", draft.cache, "--model", str(model), "--target", library,
             "-o", stats)
        )  # fmt: skip
        compiled += ["--stats", stats]
    elif draft.recipe.startswith("int8"):
        compiled += ["--data", SAMPLES]
    for glob in draft.exclude:
        compiled += ["--exclude", glob]
    found.append((*compiled, "-o", written))
    found.append(_build(draft, written))
    return tuple(found)


def _build(draft: Draft, model: str) -> tuple[str, ...]:
    words = ["build", model, "--target", str(draft.target)]
    alone = {name: shape for name, shape in draft.both.items() if not _bounded(draft, name)}
    bounds = (
        ("--min-shapes", draft.low),
        ("--opt-shapes", {**draft.opt, **alone}),
        ("--max-shapes", draft.high),
    )
    for option, found in bounds:
        if found:
            words += [option, shapes.write(found)]
    if draft.workspace is not None:
        words += ["--workspace", spelled(draft.workspace)]
    if draft.level:
        words += ["--optimization-level", draft.level]
    words += [f"--{switch}" for switch in draft.switches]
    if draft.compatibility:
        words += ["--hardware-compatibility", draft.compatibility]
    if draft.timing:
        words += ["--timing-cache", draft.timing, *(["--locked"] if draft.locked else [])]
    return (*words, "-o", draft.plan) if draft.plan else tuple(words)


def _bounded(draft: Draft, name: str) -> bool:
    return any(name in where for where in (draft.low, draft.opt, draft.high))
