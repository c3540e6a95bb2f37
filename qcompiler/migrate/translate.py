"""Flags -> the commands that do the same, and what became of each flag.

Precision first, for all else is independent of it.  A weakly typed build chose among the types it
was *allowed*; the recipe that stands for a choice is the one whose graph has those types::

    --fp16                  fp16         every float tensor in 16 bits
    --int8                  int8         Q/DQ around linear operators, the rest FP32
    --int8 --fp16, --best   int8+fp16    Q/DQ, the rest in 16 bits
    --bf16                  fp16         no recipe writes BF16; its row says so
    --fp16, of a Q/DQ model fp16         its Q/DQ nodes say what runs in INT8, as before
    none, --stronglyTyped   (build only) the types are those of the model

FP8, INT4 and FP4 never had a calibrator: they came from Q/DQ nodes in the model, and still do.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from qcompiler.backends.tensorrt import RTX
from qcompiler.engine import shapes
from qcompiler.engine.target_string import EngineTarget
from qcompiler.errors import InputError, UsageError
from qcompiler.migrate.commands import MODEL, Draft, commands
from qcompiler.migrate.flags import Flag, Migration, Row, Status
from qcompiler.migrate.layers import excluded
from qcompiler.migrate.meaning import FIXED
from qcompiler.migrate.memory import pools, spelled, workspace_mib

_NOT_ON_RTX = frozenset({"refit", "strip-plan", "version-compatible"})
_NOT_TIMED = "TensorRT for RTX measures no kernels while it builds"
_LEVELS = {
    "none": "none",
    "ampere+": "ampere-plus",
    "samecomputecapability": "same-compute-capability",
}


def recipe_for(names: frozenset[str], *, quantized: bool) -> str:
    """The recipe that stands for a set of precision flags; empty if nothing is to be compiled.

    Args:
        names: Flags of the old build, of which only those of precision count.
        quantized: Whether the model has Q/DQ nodes, so that only the rest may need another type.
    """
    if "stronglyTyped" in names:
        return ""
    int8 = bool(names & {"int8", "best"}) and not quantized
    half = bool(names & {"fp16", "bf16", "best"})
    return {(True, True): "int8+fp16", (True, False): "int8", (False, True): "fp16"}.get(
        (int8, half), ""
    )


def translate(
    flags: tuple[Flag, ...],
    target: EngineTarget,
    is_quantized: Callable[[str], bool] = lambda model: False,
) -> Migration:
    """The commands that take the place of an old build.

    Args:
        flags: What the old build said.
        target: What the new engine is built for.
        is_quantized: Tells whether the model of this path has Q/DQ nodes already; INT8 then needs
            no compilation.

    Returns:
        Commands and rows; no commands if the old one built nothing.
    """
    names = frozenset(flag.name for flag in flags)
    paths = [flag.value for flag in flags if flag.name == "onnx" and flag.value]
    quantized = bool(paths) and is_quantized(paths[-1])
    recipe = recipe_for(names, quantized=quantized)
    only_runs = "loadEngine" in names and "saveEngine" not in names
    draft = Draft(target, recipe, "stronglyTyped" in names, quantized, only_runs)
    rows = tuple(_row(flag, draft) for flag in flags)
    return Migration(commands(draft), rows)


def _row(flag: Flag, draft: Draft) -> Row:
    text = f"{flag.text}  ({flag.where})" if flag.where else flag.text
    if not flag.name:
        return Row(text, "unknown", "not understood", flag.problem)
    handler = _HANDLERS.get(flag.name)
    if handler is None:
        return Row(text, *FIXED[flag.name])
    try:
        return Row(text, *handler(flag, draft))
    except InputError as error:
        return Row(text, "unknown", "not understood", error.message)


_Became = tuple[Status, str, str]


def _precision(flag: Flag, draft: Draft) -> _Became:
    if draft.typed:
        return "gone", "nothing", "beside --stronglyTyped it had no effect"
    if draft.quantized and flag.name == "int8":
        return "gone", "nothing", "the model has Q/DQ nodes: they say what runs in INT8"
    why = {
        "fp16": "every float tensor in 16 bits; in 11.0 the graph carries the types",
        "int8": "Q/DQ nodes with calibrated scales: implicit quantization and calibrators were "
        "removed in 11.0",
        "best": "INT8 and 16 bits; 11.0 removed the choice by time, so compare: build --source",
    }[flag.name]
    if flag.name == "fp16" and (draft.quantized or draft.recipe == "int8+fp16"):
        why = "what INT8 leaves, in 16 bits; in 11.0 the graph carries the types"
    return "moved", f"compile --recipe {draft.recipe}", why


def _bf16(flag: Flag, draft: Draft) -> _Became:
    if draft.typed:
        return _precision(flag, draft)
    return (
        "lost",
        "FP16 in its place" if draft.recipe else "no equivalent",
        "no recipe writes BF16. FP16 has the same size, more precision and less range (65504): "
        "compare the outputs",
    )


def _strongly_typed(flag: Flag, draft: Draft) -> _Became:
    return "moved", "build", "every build here is strongly typed; there is no other kind in 11.0"


def _calibration(flag: Flag, draft: Draft) -> _Became:
    if not draft.recipe.startswith("int8"):
        return "gone", "nothing", "ranges matter to INT8 only, which this build does not ask for"
    draft.cache = flag.value
    return (
        "moved",
        "migrate --cache, compile --stats",
        "each entry of the cache becomes the range of its tensor: the same scales, in the graph",
    )


def _calibrator(flag: Flag, draft: Draft) -> _Became:
    if not draft.recipe.startswith("int8"):
        return "gone", "nothing", "ranges matter to INT8 only, which this build does not ask for"
    return (
        "moved",
        "compile --data",
        "calibrators were removed in 11.0: give the same samples as .npz, folder or "
        "loader.py:function; an old cache goes through migrate --cache",
    )


def _model(flag: Flag, draft: Draft) -> _Became:
    if not flag.value:
        return "moved", MODEL, "the path is not written out here"
    draft.model = flag.value
    return "moved", flag.value, "the model that compile and build read"


def _plan(flag: Flag, draft: Draft) -> _Became:
    draft.plan = flag.value
    return "moved", f"build -o {flag.value}", "facts about the engine go to a .json beside it"


def _load_engine(flag: Flag, draft: Draft) -> _Became:
    return (
        "lost",
        "build it again",
        "a plan of 8.x or 10.x does not load in 11.x: nothing is built here, so name the model",
    )


def _bounds(flag: Flag, draft: Draft) -> _Became:
    where = {"minShapes": draft.low, "optShapes": draft.opt, "maxShapes": draft.high}
    option = {"minShapes": "--min-shapes", "optShapes": "--opt-shapes", "maxShapes": "--max-shapes"}
    found = shapes.parse([flag.value])
    if where[flag.name]:
        return "lost", "no equivalent", "build makes one profile; this is that of a second one"
    where[flag.name].update(found)
    return "moved", f"build {option[flag.name]}", "the same spelling"


def _run_shapes(flag: Flag, draft: Draft) -> _Became:
    draft.both.update(shapes.parse([flag.value]))
    return "moved", "build --opt-shapes", "alone it is minimum, optimum and maximum in one"


def _set_shape(flag: Flag, draft: Draft) -> _Became:
    for where, value in zip((draft.low, draft.opt, draft.high), flag.values, strict=True):
        for name, shape in shapes.parse([value]).items():
            if name in where:
                return "lost", "no equivalent", "build makes one profile; this is a second one"
            where[name] = shape
    return "moved", "build --min-shapes, --opt-shapes, --max-shapes", "one profile"


def _profile(flag: Flag, draft: Draft) -> _Became:
    if flag.value in ("", "0"):
        return "gone", "nothing", "build makes one profile"
    return "lost", "no equivalent", "build makes one profile: build a plan for each"


def _workspace(flag: Flag, draft: Draft) -> _Became:
    draft.workspace = workspace_mib(flag.value)
    return "moved", f"build --workspace {spelled(draft.workspace)}", "a bare number was MiB"


def _workspace_bytes(flag: Flag, draft: Draft) -> _Became:
    draft.workspace = int(float(flag.value))
    return "moved", f"build --workspace {spelled(draft.workspace)}", "a number was bytes"


def _pools(flag: Flag, draft: Draft) -> _Became:
    found = pools(flag.value)
    rest = sorted(set(found) - {"workspace"})
    left = f"; of {', '.join(rest)} there is no equivalent" if rest else ""
    if "workspace" not in found:
        return "lost", "no equivalent", f"build bounds the workspace only{left}"
    draft.workspace = found["workspace"]
    became = f"build --workspace {spelled(draft.workspace)}"
    return ("lost" if rest else "moved"), became, f"scratch memory of a kernel{left}"


def _level(flag: Flag, draft: Draft) -> _Became:
    if not flag.value.isdigit() or int(flag.value) > 5:
        raise UsageError("the optimization level is a number from 0 to 5")
    draft.level = flag.value
    return "moved", f"build --optimization-level {flag.value}", "0 builds fast, 5 runs fast"


def _switch(flag: Flag, draft: Draft) -> _Became:
    options = {
        "refit": ["refit"],
        "stripWeights": ["strip-plan"],
        "stripAllWeights": ["strip-plan", "refit"],
        "versionCompatible": ["version-compatible"],
        "allowWeightStreaming": ["weight-streaming"],
    }[flag.name]
    became = "build " + " ".join(f"--{option}" for option in options)
    if draft.target.library == RTX and _NOT_ON_RTX & set(options):
        why = "TensorRT for RTX cannot do this in a build without a GPU, or not at all"
        return "lost", f"no equivalent on {draft.target}", why
    draft.switches += [option for option in options if option not in draft.switches]
    return "moved", became, "the same flag of the builder"


def _sparsity(flag: Flag, draft: Draft) -> _Became:
    if flag.value == "disable":
        return "gone", "nothing", "sparse kernels are off by default"
    if flag.value == "force":
        return (
            "lost",
            "no equivalent",
            "it overwrote the weights, to time sparse kernels; never here",
        )
    return "lost", "no equivalent", "build does not ask for sparse kernels"


def _constraints(flag: Flag, draft: Draft) -> _Became:
    if flag.value == "none":
        return "gone", "nothing", "it was the default"
    return "gone", "nothing", "in a strongly typed network every type is obeyed"


def _layers(flag: Flag, draft: Draft) -> _Became:
    globs, left = excluded(flag.value)
    if not draft.recipe.startswith("int8"):
        return "lost", "no equivalent", "the recipe types the whole graph, no single nodes"
    draft.exclude += [glob for glob in globs if glob not in draft.exclude]
    rest = f"; no equivalent of {', '.join(left)}" if left else ""
    if not globs:
        return "lost", "no equivalent", f"removed in 11.0{rest}"
    why = f"nodes of these names in the ONNX graph stay in the recipe's base type{rest}"
    return ("lost" if left else "moved"), f"compile --exclude {' '.join(globs)}", why


def _formats(flag: Flag, draft: Draft) -> _Became:
    if all(part == "fp32:chw" for part in flag.value.split(",")):
        return "gone", "nothing", "compile keeps the types of inputs and outputs"
    return (
        "lost",
        "no equivalent",
        "inputs and outputs have the types of the model, in linear layout; change them there",
    )


def _hardware(flag: Flag, draft: Draft) -> _Became:
    level = _LEVELS.get(flag.value.lower())
    if level is None:
        raise UsageError("the levels were none, ampere+ and sameComputeCapability")
    if level == "none":
        return "gone", "nothing", "it was the default"
    if draft.target.library == RTX:
        return (
            "moved",
            "build --target tensorrt-rtx:sm86,sm89,…",
            "an engine of TensorRT for RTX runs on the capabilities that its target lists",
        )
    draft.compatibility = level
    return "moved", f"build --hardware-compatibility {level}", "the same level"


def _timing_cache(flag: Flag, draft: Draft) -> _Became:
    if draft.target.library == RTX:
        return "gone", "nothing", _NOT_TIMED
    draft.timing = str(Path(flag.value).parent)
    return (
        "moved",
        f"build --timing-cache {draft.timing}",
        "a folder with a file for each release, GPU and driver; the old file is of an old release",
    )


def _locked(flag: Flag, draft: Draft) -> _Became:
    if draft.target.library == RTX:
        return "gone", "nothing", _NOT_TIMED
    draft.locked = True
    return "moved", "build --locked", "beside --timing-cache: fail where a time is missing"


def _device(flag: Flag, draft: Draft) -> _Became:
    return "moved", f"CUDA_VISIBLE_DEVICES={flag.value}", "an environment variable of CUDA"


_HANDLERS: dict[str, Callable[[Flag, Draft], _Became]] = {
    "fp16": _precision,
    "int8": _precision,
    "best": _precision,
    "bf16": _bf16,
    "stronglyTyped": _strongly_typed,
    "calib": _calibration,
    "calibrator": _calibrator,
    "onnx": _model,
    "saveEngine": _plan,
    "loadEngine": _load_engine,
    "minShapes": _bounds,
    "optShapes": _bounds,
    "maxShapes": _bounds,
    "shapes": _run_shapes,
    "setShape": _set_shape,
    "profile": _profile,
    "workspace": _workspace,
    "workspaceBytes": _workspace_bytes,
    "memPoolSize": _pools,
    "builderOptimizationLevel": _level,
    "refit": _switch,
    "stripWeights": _switch,
    "stripAllWeights": _switch,
    "versionCompatible": _switch,
    "allowWeightStreaming": _switch,
    "sparsity": _sparsity,
    "precisionConstraints": _constraints,
    "layerPrecisions": _layers,
    "inputIOFormats": _formats,
    "outputIOFormats": _formats,
    "hardwareCompatibilityLevel": _hardware,
    "timingCacheFile": _timing_cache,
    "errorOnTimingCacheMiss": _locked,
    "device": _device,
}
NAMES = frozenset({*FIXED, *_HANDLERS})
"""Every flag that is translated."""
