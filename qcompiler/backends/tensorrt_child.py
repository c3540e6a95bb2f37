"""The child process of :mod:`qcompiler.backends.tensorrt`: one parse, one build, then exit.

Run as a file, ``python -P tensorrt_child.py OUT``, so that it needs nothing of this package and
starts in the time its library takes to load. It reads one JSON object a line from standard input
and appends one a line to ``OUT`` as it goes, so that after a crash the last line says which phase
died::

    in   {"module", "model", "capabilities", "plan", "workspace", "level", "flags", "log",
          "compatibility", "cache": {"kind", "old", "new"} or null, "inspector"}
    or   {"module", "describe", "log", "inspector"}    load the plan named and describe it
    out  {"phase": "library", "problem"}               the library does not load; the end
    out  {"phase": "lacks", "problem"}                 the library cannot do what was asked; the end
    out  {"phase": "load"}                             of ``describe``; then "done" or "raised"
    out  {"phase": "parse"}
    out  {"phase": "inputs", "inputs": [{"name", "shape", "symbols"}]}
    in   {"profile": {name: [min, opt, max]}}
    out  {"phase": "build"}
    out  {"phase": "done", "accepted", "stage", "errors", "plan_bytes"}
    out  {"phase": "raised", "problem", "errors"}      a Python exception; the end

The plan goes to the file ``plan``, the messages to ``log`` and what the engine inspector says to
``inspector``, each if it is named. A cache is read from ``old`` if that file exists and written to
``new`` if one is named. The module is ``tensorrt_rtx`` or ``tensorrt`` (10.x or 11.x); members are
taken by name, for their numbers differ between releases.

The library has no types. A parameter that holds an object of it is annotated with the name of its
class, and ``tests/backends/library_uses.py`` reads from that which members this file uses, so that
each is looked up in the real bindings of every supported release.

The library needs a process of its own for two measured reasons. A build that was refused for a
compute capability leaves its restrictions behind, so the next build in that process is compiled
under them; and some graphs end in SIGSEGV.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Logged as errors on any machine without a driver; they do not fail a build.
HARMLESS = (
    "cudaError 35",
    "CUDA initialization failure",
    "Unable to determine GPU memory",
    "CUDA error 35",
)
# personality(2)
_ASK = 0xFFFFFFFF
_NOT_RANDOM = 0x0040000  # ADDR_NO_RANDOMIZE

Rows = list[tuple[str, str]]

# Classes of the library, and `Trt`, the module itself.
Trt = Any
ILogger = Any
Severity = Any
Builder = Any
INetworkDefinition = Any
IBuilderConfig = Any
OnnxParser = Any
ITensor = Any
IHostMemory = Any
ICudaEngine = Any


class Lacks(Exception):  # noqa: N818 - a finding about the library, told in words
    """What was asked for cannot be had of this library here; the text goes on after its name."""


def logger(trt: Trt, rows: Rows) -> ILogger:
    """A logger that appends (severity, message) to ``rows``; the listing is one of the messages."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Severity, message: str) -> None:
            rows.append((severity.name, message))  # from any of the library's threads

    return Log()


def logged_errors(rows: Rows) -> list[str]:
    """Messages of error level, without those every machine without a GPU gives, each once."""
    found = [text for name, text in rows if name in {"ERROR", "INTERNAL_ERROR"}]
    return list(dict.fromkeys(text for text in found if not any(word in text for word in HARMLESS)))


def short_memory(rows: Rows) -> list[str]:
    """Warnings that kernels were passed over for want of memory: why then none may be left."""
    found = [text for name, text in rows if name == "WARNING" and "memory" in text.lower()]
    return list(dict.fromkeys(text for text in found if "insufficient" in text))


def parser_errors(parser: OnnxParser) -> list[str]:
    """One line an error: operator and name of the node, then what the parser says."""
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name = error.node_name() if error.node() >= 0 else ""
        node = f"{error.node_operator()} '{name}': " if name else ""
        lines = error.desc().splitlines() or [""]
        kept = [line for line in lines if not any(word in line for word in HARMLESS)]
        found.append(f"{node}{chr(10).join(kept or lines)}".strip())
    return list(dict.fromkeys(found))


def describe(tensor: ITensor) -> dict[str, object]:
    """Name, shape and symbols of an input; an axis without a name gets one of its own."""
    own = (f"{tensor.name}#{axis}" for axis in range(len(tensor.shape)))
    symbols = [tensor.get_dimension_name(axis) or name for axis, name in enumerate(own)]
    return {"name": tensor.name, "shape": list(tensor.shape), "symbols": symbols}


def create_network(trt: Trt, builder: Builder) -> INetworkDefinition:
    """A strongly typed network; 10.x also wants the batch to be explicit."""
    flags = trt.NetworkDefinitionCreationFlag
    mask = 1 << int(flags.STRONGLY_TYPED)
    if hasattr(flags, "EXPLICIT_BATCH"):
        mask |= 1 << int(flags.EXPLICIT_BATCH)
    return builder.create_network(mask)


def member(kind: type[Any], name: str) -> object:
    """A member of an enum, by a name that the caller was given."""
    if not hasattr(kind, name):
        raise Lacks(f"has no {kind.__name__}.{name}")
    return getattr(kind, name)


def configure(
    trt: Trt, builder: Builder, request: dict[str, Any], profile: dict[str, Any]
) -> IBuilderConfig:
    """The builder configuration that was asked for."""
    config = builder.create_builder_config()
    # Without it neither the `Layers:` listing nor the inspector says more than names.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(config, "num_compute_capabilities"):  # TensorRT for RTX; the other asks the GPU
        config.num_compute_capabilities = len(request["capabilities"])
        for index, name in enumerate(request["capabilities"]):
            config.set_compute_capability(member(trt.ComputeCapability, name), index)
    if request["workspace"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace"])
    if request["level"] is not None:
        config.builder_optimization_level = request["level"]
    for name in request["flags"]:
        config.set_flag(member(trt.BuilderFlag, name))
    if request["compatibility"]:
        level = member(trt.HardwareCompatibilityLevel, request["compatibility"])
        config.hardware_compatibility_level = level
    if profile:
        made = builder.create_optimization_profile()
        for name, (low, opt, high) in profile.items():
            made.set_shape(name, low, opt, high)
        config.add_optimization_profile(made)
    return config


def use_timing_cache(config: IBuilderConfig, old: str, rows: Rows) -> Any:  # noqa: ANN401 - kept alive
    """Let the builder read measured times from ``old``, and keep those it measures.

    Of a damaged cache the library only warns, and goes on with an empty one.
    """
    cache = config.create_timing_cache(contents(old))
    taken = cache is not None and config.set_timing_cache(cache, ignore_mismatch=False)
    if not taken or any("Failed to deserialize timing cache" in text for _, text in rows):
        raise Lacks(unfit(old))
    return cache


def load(trt: Trt, log: ILogger, plan: IHostMemory, *, lean: bool) -> ICudaEngine:
    """The engine of a plan that was just built here, so that its host code is to be trusted."""
    runtime = trt.Runtime(log)
    if lean:
        runtime.engine_host_code_allowed = True
    return runtime.deserialize_cuda_engine(plan)


def finish_kernels(trt: Trt, engine: ICudaEngine, old: str) -> IHostMemory:
    """Let TensorRT for RTX finish the kernels on this GPU; returns them for a later process."""
    if not hasattr(trt, "IRuntimeCache"):
        raise Lacks("has no runtime cache")
    config = engine.create_runtime_config()
    cache = config.create_runtime_cache()
    known = contents(old)
    if known and not cache.deserialize(known):
        raise Lacks(unfit(old))
    if not config.set_runtime_cache(cache):
        raise Lacks("does not take a runtime cache")
    strategies = trt.DynamicShapesKernelSpecializationStrategy
    config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
    if engine.create_execution_context(config) is None:
        raise Lacks("gives no execution context for this engine on this GPU")
    kernels = cache.serialize()
    if kernels is None:
        raise Lacks("cannot serialize the runtime cache")
    return kernels


def describe_engine(trt: Trt, engine: ICudaEngine) -> str:
    """What the engine inspector says, as JSON."""
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def describe_plan(trt: Trt, request: dict[str, Any], out: Path, rows: Rows) -> dict[str, Any]:
    """Describe a plan that was built some other time; host code that it may bring does not run."""
    log = logger(trt, rows)
    say(out, "load")
    engine = trt.Runtime(log).deserialize_cuda_engine(Path(request["describe"]).read_bytes())
    done = {"accepted": engine is not None, "stage": "load", "errors": [], "plan_bytes": 0}
    if engine is None:
        return done | {"errors": logged_errors(rows)}
    Path(request["inspector"]).write_text(describe_engine(trt, engine), encoding="utf-8")
    return done


def contents(path: str) -> bytes:
    """Bytes of a cache; none if there is none yet."""
    file = Path(path)
    return file.read_bytes() if file.is_file() else b""


def unfit(path: str) -> str:
    """Why a cache was not taken."""
    return f"refuses the cache {path}: it is damaged, or of another GPU, driver or release"


def judge(trt: Trt, request: dict[str, Any], out: Path, rows: Rows) -> dict[str, Any]:
    """Parse and build ``request["model"]``; returns the last line, writes those before it."""
    log = logger(trt, rows)
    say(out, "parse")
    builder = trt.Builder(log)
    network = create_network(trt, builder)
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(Path(request["model"]).name)
    errors = parser_errors(parser)
    if parsed and not network.num_outputs:  # empty or foreign bytes "parse" without an error
        parsed, errors = False, ["the parser found no network in this file"]
    done: dict[str, Any] = {"accepted": False, "stage": "parse", "errors": errors, "plan_bytes": 0}
    if not parsed:
        done["errors"] = errors or logged_errors(rows) or ["the parser gave no reason"]
        return done
    inputs = [describe(network.get_input(i)) for i in range(network.num_inputs)]
    say(out, "inputs", inputs=inputs)
    profile = json.loads(sys.stdin.readline())["profile"]
    say(out, "build")
    config = configure(trt, builder, request, profile)
    cache = request["cache"]
    timings = None
    if cache and cache["kind"] == "timing":
        timings = use_timing_cache(config, cache["old"], rows)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reasons = logged_errors(rows) + short_memory(rows)
        reasons = reasons or ["no plan and no message from the builder"]
        return done | {"stage": "build", "errors": reasons}
    if timings is not None and cache["new"]:
        save(cache["new"], config.get_timing_cache().serialize())
    after(trt, log, plan, request)
    if request["plan"]:
        save(request["plan"], plan)
    return done | {"accepted": True, "stage": "built", "errors": [], "plan_bytes": plan.nbytes}


def after(trt: Trt, log: ILogger, plan: IHostMemory, request: dict[str, Any]) -> None:
    """What needs the engine itself, and so the GPU: its kernels, finished or described."""
    cache = request["cache"]
    finish = cache is not None and cache["kind"] == "runtime"
    if not finish and not request["inspector"]:
        return
    engine = load(trt, log, plan, lean="VERSION_COMPATIBLE" in request["flags"])
    if finish:
        if engine is None:
            raise Lacks("cannot load this engine here; a runtime cache needs the GPU it is for")
        kernels = finish_kernels(trt, engine, cache["old"])
        if cache["new"]:
            save(cache["new"], kernels)
    if request["inspector"] and engine is not None:
        Path(request["inspector"]).write_text(describe_engine(trt, engine), encoding="utf-8")


def save(path: str, data: IHostMemory) -> None:
    """Write the library's memory to a file."""
    with open(path, "wb") as stream:
        stream.write(memoryview(data))


def say(out: Path, phase: str, **facts: object) -> None:
    """Append one line."""
    with out.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({"phase": phase, **facts}) + "\n")


def fix_addresses() -> None:
    """Start this program again with memory where it was the last time, on Linux.

    The compiler orders some things by their addresses, so plans of the same model differ in some
    bytes wherever the kernel places memory at random. For the same reason the build runs in a
    thread, whose memory lies apart from what this program has taken before, and the model is named
    without its folder. Where a sandbox forbids the system call, the plan is as good, but its bytes
    may differ from the last ones. Random addresses also hinder attacks on the parser; this process
    has the user's rights, so models of strangers are better built in a sandbox.
    """
    if sys.platform != "linux":
        return
    personality = ctypes.CDLL(None).personality
    personality.argtypes, personality.restype = [ctypes.c_ulong], ctypes.c_int
    now = personality(_ASK)
    if now != -1 and not now & _NOT_RANDOM and personality(now | _NOT_RANDOM) != -1:
        os.execv(sys.executable, sys.orig_argv)


def main(out: Path) -> None:
    """Serve one request."""
    request = json.loads(sys.stdin.readline())
    try:
        trt = importlib.import_module(request["module"])
    except (ImportError, OSError) as problem:  # OSError: a shared library is missing
        say(out, "library", problem=str(problem))
        return
    rows: Rows = []
    task = describe_plan if "describe" in request else judge
    os.chdir(Path(request.get("describe") or request["model"]).parent)
    try:
        with ThreadPoolExecutor(1) as thread:
            done = thread.submit(task, trt, request, out, rows).result()
    except Lacks as problem:
        say(out, "lacks", problem=str(problem))
        return
    except Exception as problem:  # noqa: BLE001 - whatever it is, the parent tells it
        say(
            out,
            "raised",
            problem=f"{type(problem).__name__}: {problem}",
            errors=logged_errors(rows),
        )
        return
    if request["log"]:
        text = "\n".join(f"[{name}] {message}" for name, message in rows)
        Path(request["log"]).write_text(text, encoding="utf-8")
    say(out, "done", **done)


if __name__ == "__main__":
    fix_addresses()
    main(Path(sys.argv[1]))
