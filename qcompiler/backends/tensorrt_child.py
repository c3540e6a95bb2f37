"""The child process of :mod:`qcompiler.backends.tensorrt`: one parse, one build, then exit.

Run as a file, ``python -P tensorrt_child.py OUT < request.json``, so that it needs nothing of this
package and starts in the time its library takes to load. It appends one JSON object a line to
``OUT`` as it goes (``library``, ``parse``, ``build``, last ``done``): after a crash the last line
says which phase died.

The library needs a process of its own for two measured reasons. A build that was refused for a
compute capability leaves its restrictions behind, so the next build in that process is compiled
under them; and some graphs end in SIGSEGV.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

try:
    import tensorrt_rtx as trt
except (
    ImportError,
    OSError,
) as problem:  # OSError: a shared library is missing
    Path(sys.argv[1]).write_text(
        json.dumps({"phase": "library", "problem": str(problem)}) + "\n", encoding="utf-8"
    )
    sys.exit(0)

# Profile of a dynamic axis as (min, opt, max).
BATCH = (1, 4, 8)
OTHER = (1, 64, 128)

Bounds = tuple[int, int, int]

# Logged as errors on any machine without a driver; they do not fail a build.
HARMLESS = (
    "cudaError 35",
    "CUDA initialization failure",
    "Unable to determine GPU memory",
    "CUDA error 35",
)


class Log(trt.ILogger):  # type: ignore[misc, unused-ignore]  # untyped library
    """Keeps every message; the ``Layers:`` listing is one of them."""

    def __init__(self) -> None:
        """Start with an empty log."""
        trt.ILogger.__init__(self)
        self.rows: list[tuple[str, str]] = []

    def log(self, severity: Any, message: str) -> None:  # noqa: ANN401 - an enum of the untyped library
        """Called by the library, from any of its threads."""
        self.rows.append((severity.name, message))

    def errors(self) -> list[str]:
        """Messages of error level, without those every machine without a GPU gives, each once."""
        rows = [text for name, text in self.rows if name in {"ERROR", "INTERNAL_ERROR"}]
        return list(
            dict.fromkeys(text for text in rows if not any(word in text for word in HARMLESS))
        )


def parser_errors(parser: Any) -> list[str]:  # noqa: ANN401
    """One line an error: operator and name of the node, then what the parser says."""
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        name = error.node_name() if error.node() >= 0 else ""
        node = f"{error.node_operator()} '{name}': " if name else ""
        found.append(f"{node}{error.desc()}".strip())
    return list(dict.fromkeys(found))


def symbols(tensor: Any) -> list[str]:  # noqa: ANN401
    """A name for each axis of an input; an unnamed axis gets one of its own."""
    own = (f"{tensor.name}#{axis}" for axis in range(len(tensor.shape)))
    return [tensor.get_dimension_name(axis) or fallback for axis, fallback in enumerate(own)]


def axis_bounds(inputs: list[Any], shapes: dict[str, list[int]]) -> dict[str, Bounds]:
    """Symbol -> (min, opt, max), one entry a symbol, so that axes of the same name always agree.

    A symbol that is the first axis of some input is a batch. A shape given for one input fixes its
    symbols in all inputs: relations between symbols that the graph does not state (total = past +
    seq) hold if the given numbers respect them.
    """
    bounds: dict[str, Bounds] = {}
    for tensor in inputs:
        for axis, symbol in enumerate(symbols(tensor)):
            if axis == 0:
                bounds[symbol] = BATCH
            else:
                bounds.setdefault(symbol, OTHER)
    for tensor in inputs:
        for symbol, size in zip(symbols(tensor), shapes.get(tensor.name, ()), strict=False):
            bounds[symbol] = (size, size, size)
    return bounds


def check_shapes(inputs: list[Any], shapes: dict[str, list[int]]) -> str:
    """What is wrong with the given shapes; empty if nothing is."""
    known = {tensor.name: tuple(tensor.shape) for tensor in inputs}
    for name, given in sorted(shapes.items()):
        if name not in known:
            names = ", ".join(sorted(known)) or "none"
            return f"no input is called '{name}'; the inputs are {names}"
        want = known[name]
        fits = len(given) == len(want) and all(
            free in {-1, size} for free, size in zip(want, given, strict=True)
        )
        if not fits:
            return f"input '{name}' has the shape {list(want)} (-1 is free); {given} does not fit"
    return ""


def set_profile(builder: Any, config: Any, inputs: list[Any], shapes: dict[str, list[int]]) -> None:  # noqa: ANN401
    """Add the one optimization profile that a network with free axes needs; none if static."""
    bounds = axis_bounds(inputs, shapes)
    profile, used = builder.create_optimization_profile(), False
    for tensor in inputs:
        if -1 not in tuple(tensor.shape):
            continue
        named = list(zip(tensor.shape, symbols(tensor), strict=True))
        sizes = [
            [bounds[symbol][k] if dim == -1 else dim for dim, symbol in named] for k in range(3)
        ]
        profile.set_shape(tensor.name, *sizes)
        used = True
    if used:
        config.add_optimization_profile(profile)


def judge(request: dict[str, Any], out: Path) -> None:
    """Parse and build ``request["model"]`` and write what happened to ``out``, a line at a time."""

    def say(phase: str, **facts: object) -> None:
        with out.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"phase": phase, **facts}) + "\n")

    log = Log()
    say("parse")
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    parsed = parser.parse_from_file(request["model"])
    errors = parser_errors(parser)
    if parsed and not network.num_outputs:  # empty or foreign bytes "parse" without an error
        parsed, errors = False, ["the parser found no network in this file"]
    done: dict[str, Any] = {"accepted": False, "stage": "parse", "errors": errors, "plan_bytes": 0}
    if parsed:
        inputs = [network.get_input(i) for i in range(network.num_inputs)]
        if problem := check_shapes(inputs, request["shapes"]):
            say("done", problem=problem)
            return
        say("build")
        config = builder.create_builder_config()
        config.profiling_verbosity = (
            trt.ProfilingVerbosity.DETAILED
        )  # without it there is no `Layers:` listing
        config.num_compute_capabilities = 1  # of a list, the weakest decides for all
        config.set_compute_capability(getattr(trt.ComputeCapability, request["capability"]), 0)
        set_profile(builder, config, inputs, request["shapes"])
        plan = builder.build_serialized_network(network, config)
        if plan is None:
            done |= {
                "stage": "build",
                "errors": log.errors() or ["no plan and no message from the builder"],
            }
        else:
            done |= {"accepted": True, "stage": "built", "errors": [], "plan_bytes": plan.nbytes}
    elif not errors:
        done["errors"] = log.errors() or ["the parser gave no reason"]
    if request["keep_log"]:
        done["log"] = "\n".join(f"[{name}] {text}" for name, text in log.rows)
    say("done", **done)


if __name__ == "__main__":
    judge(json.load(sys.stdin), Path(sys.argv[1]))
