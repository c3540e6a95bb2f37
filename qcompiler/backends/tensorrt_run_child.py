"""The child process of :mod:`qcompiler.backends.tensorrt_run`: two engines on one GPU, by turns.

Run as ``python -P -m qcompiler.backends.tensorrt_run_child OUT``. It reads one JSON object from
standard input and appends one a line to ``OUT``, so that after a crash the last line says which
phase died::

    in   {"module", "plans": [A, B], "feeds": [{"name", "dtype", "shape", "file"}], "results",
          "warm_ms", "sample_ms", "rounds", "budget_ms"}
    out  {"phase": "library", "problem"}               the library does not load; the end
    out  {"phase": "lacks", "problem"}                 it cannot do what was asked; the end
    out  {"phase": "load"}
    out  {"phase": "run"}
    out  {"phase": "done", "errors", "calls", "samples": [[ms], [ms]],
          "outputs": [[{"name", "dtype", "shape", "file"}], [...]]}
    out  {"phase": "raised", "problem", "errors"}      a Python exception; the end

A file holds the raw bytes of one tensor; ``results`` is the folder that those of the outputs go
to. Types are named as the library names them (``HALF``). As in ``tensorrt_child.py`` a parameter
that holds an object of the library is annotated with its class.

A *sample* is the time between two CUDA events around so many executions (``calls``, the same for
both engines) that the faster takes about ``sample_ms``; the order of the two changes every round,
so that a clock that drifts takes both along. Short engines are bound by the launches of their
kernels, as in any program that launches them one by one and not as a CUDA graph.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qcompiler.backends.cuda_driver import Session
from qcompiler.backends.tensorrt_child import Lacks, Rows, logged_errors, logger, say

LEAST_ROUNDS = 11
MOST_CALLS = 1000
MOST_WARMING = 1000
WIDTHS = {
    "FLOAT": 4,
    "HALF": 2,
    "BF16": 2,
    "INT64": 8,
    "INT32": 4,
    "INT8": 1,
    "UINT8": 1,
    "BOOL": 1,
    "FP8": 1,
}
"""Bytes of an element of each type that a tensor of an engine may have here."""

# Classes of the library, and `Trt`, the module itself.
Trt = Any
ILogger = Any
ICudaEngine = Any
IExecutionContext = Any


@dataclass(frozen=True)
class Feed:
    """One input: its type and shape, and the file with its bytes."""

    name: str
    dtype: str
    shape: list[int]
    file: str


@dataclass(frozen=True)
class Result:
    """One output on the device."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    address: int
    size: int


@dataclass
class Bound:
    """An engine whose inputs and outputs have their memory.

    Attributes:
        context: Its execution context.
        engine: Must live as long as the context.
        results: Its outputs.
        host: Memory of inputs that are read on the host, kept alive.
    """

    context: IExecutionContext
    engine: ICudaEngine
    results: list[Result] = field(default_factory=list)
    host: list[object] = field(default_factory=list)


def load(
    trt: Trt, log: ILogger, plan: str, feeds: dict[str, Feed], cuda: Session, rows: Rows
) -> Bound:
    """An engine from its file, with its memory; host code that a plan may bring does not run.

    Raises:
        Lacks: The library does not load it, or :func:`bind` raised it.
    """
    engine = trt.Runtime(log).deserialize_cuda_engine(Path(plan).read_bytes())
    if engine is None:
        raise Lacks(f"cannot load {Path(plan).name}: {'; '.join(logged_errors(rows))}")
    return bind(engine, feeds, cuda, rows)


def bind(engine: ICudaEngine, feeds: dict[str, Feed], cuda: Session, rows: Rows) -> Bound:
    """An execution context with memory for every input and output.

    Raises:
        Lacks: An input or output is none that can be given memory here.
    """
    context = engine.create_execution_context()
    if context is None:
        raise Lacks(f"gives no execution context: {'; '.join(logged_errors(rows))}")
    bound = Bound(context, engine)
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    for name in names:
        if engine.get_tensor_mode(name).name == "INPUT":
            give(engine, context, name, feeds, cuda, bound.host)
    for name in names:
        if engine.get_tensor_mode(name).name == "OUTPUT":
            bound.results.append(take(engine, context, name, cuda))
    return bound


def give(
    engine: ICudaEngine,
    context: IExecutionContext,
    name: str,
    feeds: dict[str, Feed],
    cuda: Session,
    host: list[object],
) -> None:
    """Bind one input."""
    dtype = engine.get_tensor_dtype(name).name
    feed = feeds.get(name)
    if feed is None or feed.dtype != dtype:
        found = "nothing" if feed is None else feed.dtype
        raise Lacks(f"wants {dtype} for the input {name!r}, which is given {found}")
    if not context.set_input_shape(name, feed.shape):
        raise Lacks(f"does not take the shape {feed.shape} for the input {name!r}")
    data = Path(feed.file).read_bytes()
    if engine.get_tensor_location(name).name == "HOST":
        memory = ctypes.create_string_buffer(data, max(len(data), 1))
        host.append(memory)
        address = ctypes.addressof(memory)
    else:
        address = cuda.allocate(len(data))
        cuda.upload(address, data)
    context.set_tensor_address(name, address)


def take(engine: ICudaEngine, context: IExecutionContext, name: str, cuda: Session) -> Result:
    """Bind one output."""
    dtype = engine.get_tensor_dtype(name).name
    shape = tuple(context.get_tensor_shape(name))
    if dtype not in WIDTHS:
        raise Lacks(f"gives the output {name!r} as {dtype}, which is not compared")
    if engine.get_tensor_location(name).name == "HOST" or min(shape, default=0) < 0:
        raise Lacks(f"tells the shape of the output {name!r} only while it runs")
    size = math.prod(shape) * WIDTHS[dtype]
    address = cuda.allocate(size)
    context.set_tensor_address(name, address)
    return Result(name, dtype, shape, address, size)


def launch(context: IExecutionContext, stream: int, rows: Rows) -> None:
    """Put one execution into the stream.

    Raises:
        RuntimeError: The library refuses.
    """
    if not context.execute_async_v3(stream):
        raise RuntimeError("; ".join(logged_errors(rows)) or "the engine does not run")


class Clock:
    """Times executions with two events.

    Args:
        cuda: Where they run.
        rows: What the library logs.
    """

    def __init__(self, cuda: Session, rows: Rows) -> None:
        self._cuda, self._rows = cuda, rows
        self._start, self._stop = cuda.event(), cuda.event()

    def sample(self, bound: Bound, calls: int) -> float:
        """Milliseconds of one execution, the mean of ``calls`` in a row."""
        self._cuda.record(self._start)
        for _ in range(calls):
            launch(bound.context, self._cuda.stream, self._rows)
        self._cuda.record(self._stop)
        return self._cuda.milliseconds(self._start, self._stop) / calls


def warm(clock: Clock, bound: Bound, least: float) -> float:
    """Run until clocks and caches have settled; milliseconds of the last execution."""
    spent = last = 0.0
    for _ in range(MOST_WARMING):
        last = clock.sample(bound, 1)
        spent += last
        if spent >= least:
            break
    return last


def timed(clock: Clock, both: list[Bound], request: dict[str, Any]) -> dict[str, Any]:
    """Samples of two engines, by turns."""
    alone = [max(warm(clock, bound, request["warm_ms"]), 1e-4) for bound in both]
    budget = request["budget_ms"] / sum(alone)  # executions of both
    wanted = math.ceil(request["sample_ms"] / min(alone))
    calls = max(min(wanted, MOST_CALLS, int(budget / LEAST_ROUNDS)), 1)
    affordable = int(budget / calls)
    rounds = min(request["rounds"], max(affordable, LEAST_ROUNDS))
    samples: list[list[float]] = [[], []]
    for number in range(rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            samples[which].append(clock.sample(both[which], calls))
    return {"calls": calls, "samples": samples}


def outputs(bound: Bound, cuda: Session, folder: Path) -> list[dict[str, Any]]:
    """Write what the last execution gave, a file an output."""
    folder.mkdir()
    told = []
    for index, result in enumerate(bound.results):
        file = folder / f"{index}.bin"
        file.write_bytes(cuda.download(result.address, result.size))
        facts = {"name": result.name, "dtype": result.dtype, "shape": result.shape}
        told.append(facts | {"file": str(file)})
    return told


def compare(trt: Trt, request: dict[str, Any], out: Path, rows: Rows) -> dict[str, Any]:
    """Run both plans; returns the last line, writes those before it."""
    log = logger(trt, rows)
    say(out, "load")
    feeds = {feed["name"]: Feed(**feed) for feed in request["feeds"]}
    with Session() as cuda:
        both = [load(trt, log, plan, feeds, cuda, rows) for plan in request["plans"]]
        say(out, "run")
        found = timed(Clock(cuda, rows), both, request)
        results = Path(request["results"])
        told = [outputs(b, cuda, results / str(i)) for i, b in enumerate(both)]
        both.clear()  # contexts go before the memory that they point to
    return {**found, "outputs": told, "errors": logged_errors(rows)}


def main(out: Path) -> None:
    """Serve one request."""
    request = json.loads(sys.stdin.readline())
    try:
        trt = importlib.import_module(request["module"])
    except (ImportError, OSError) as problem:  # OSError: a shared library is missing
        say(out, "library", problem=str(problem))
        return
    rows: Rows = []
    try:
        done = compare(trt, request, out, rows)
    except Lacks as problem:
        say(out, "lacks", problem=str(problem))
        return
    except Exception as problem:  # noqa: BLE001 - whatever it is, the parent tells it
        text = f"{type(problem).__name__}: {problem}"
        say(out, "raised", problem=text, errors=logged_errors(rows))
        return
    say(out, "done", **done)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
