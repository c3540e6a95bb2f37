"""The child process of :mod:`qcompiler.backends.tensorrt`: one parse, one build, then exit.

Run as a file, ``python -P tensorrt_child.py OUT``, so that it needs nothing of this package and
starts in the time its library takes to load. It reads one JSON object a line from standard input
and appends one a line to ``OUT`` as it goes, so that after a crash the last line says which phase
died::

    in   {"module", "model", "capabilities", "plan", "workspace", "level", "flags", "log"}
    out  {"phase": "library", "problem"}               the library does not load; the end
    out  {"phase": "parse"}
    out  {"phase": "inputs", "inputs": [{"name", "shape", "symbols"}]}
    in   {"profile": {name: [min, opt, max]}}
    out  {"phase": "build"}
    out  {"phase": "done", "accepted", "stage", "errors", "plan_bytes"}
    out  {"phase": "raised", "problem", "errors"}      a Python exception; the end

The plan goes to the file ``plan`` and the messages to the file ``log``, each if it is named. The
module is ``tensorrt_rtx`` or ``tensorrt`` (10.x or 11.x); members are taken by name, for their
numbers differ between releases.

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


def logger(trt: Any, rows: Rows) -> Any:  # noqa: ANN401 - untyped library
    """A logger that appends (severity, message) to ``rows``; the listing is one of the messages."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            rows.append((severity.name, message))  # from any of the library's threads

    return Log()


def logged_errors(rows: Rows) -> list[str]:
    """Messages of error level, without those every machine without a GPU gives, each once."""
    found = [text for name, text in rows if name in {"ERROR", "INTERNAL_ERROR"}]
    return list(dict.fromkeys(text for text in found if not any(word in text for word in HARMLESS)))


def parser_errors(parser: Any) -> list[str]:  # noqa: ANN401
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


def describe(tensor: Any) -> dict[str, object]:  # noqa: ANN401
    """Name, shape and symbols of an input; an axis without a name gets one of its own."""
    own = (f"{tensor.name}#{axis}" for axis in range(len(tensor.shape)))
    symbols = [tensor.get_dimension_name(axis) or name for axis, name in enumerate(own)]
    return {"name": tensor.name, "shape": list(tensor.shape), "symbols": symbols}


def create_network(trt: Any, builder: Any) -> Any:  # noqa: ANN401
    """A strongly typed network; 10.x also wants the batch to be explicit."""
    flags = trt.NetworkDefinitionCreationFlag
    mask = 1 << int(flags.STRONGLY_TYPED)
    if hasattr(flags, "EXPLICIT_BATCH"):
        mask |= 1 << int(flags.EXPLICIT_BATCH)
    return builder.create_network(mask)


def configure(trt: Any, builder: Any, request: dict[str, Any], profile: dict[str, Any]) -> Any:  # noqa: ANN401
    """The builder configuration that was asked for."""
    config = builder.create_builder_config()
    # Without it there is no `Layers:` listing.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if hasattr(config, "num_compute_capabilities"):  # TensorRT for RTX; the other asks the GPU
        config.num_compute_capabilities = len(request["capabilities"])
        for index, name in enumerate(request["capabilities"]):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    if request["workspace"] is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace"])
    if request["level"] is not None:
        config.builder_optimization_level = request["level"]
    for flag in request["flags"]:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if profile:
        made = builder.create_optimization_profile()
        for name, shapes in profile.items():
            made.set_shape(name, *shapes)
        config.add_optimization_profile(made)
    return config


def judge(trt: Any, request: dict[str, Any], out: Path, rows: Rows) -> dict[str, Any]:  # noqa: ANN401
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
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reasons = logged_errors(rows) or ["no plan and no message from the builder"]
        return done | {"stage": "build", "errors": reasons}
    if request["plan"]:
        with open(request["plan"], "wb") as stream:
            stream.write(memoryview(plan))
    return done | {"accepted": True, "stage": "built", "errors": [], "plan_bytes": plan.nbytes}


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
    os.chdir(Path(request["model"]).parent)
    try:
        with ThreadPoolExecutor(1) as thread:
            done = thread.submit(judge, trt, request, out, rows).result()
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
