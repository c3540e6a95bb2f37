"""Two engines on the GPU of this machine, in a child process: their times by turns, their outputs.

Nothing but the driver and the library is needed. The child (``tensorrt_run_child.py``) dies alone
should an engine crash, and leaves no memory behind on the GPU.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from qcompiler.backends.tensorrt import Library, installed, unfinished
from qcompiler.backends.tensorrt_process import RUN, Ended, Limits, Line, run
from qcompiler.errors import BackendError, UnsupportedError

WARM_MS = 200.0
SAMPLE_MS = 1.0
ROUNDS = 201
BUDGET_MS = 20_000.0

Feeds = Mapping[str, NDArray[Any]]

_DTYPES: dict[str, np.dtype[Any]] = {
    "FLOAT": np.dtype(np.float32),
    "HALF": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "INT64": np.dtype(np.int64),
    "INT32": np.dtype(np.int32),
    "INT8": np.dtype(np.int8),
    "UINT8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "FP8": np.dtype(ml_dtypes.float8_e4m3fn),
}
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Ran:
    """What two engines did.

    Attributes:
        library: Name and version of what ran them.
        samples: Of each engine, seconds of one execution, a sample a round; equally many.
        calls: Executions that a sample is the mean of.
        outputs: Of each engine, output -> array.
    """

    library: str
    samples: tuple[tuple[float, ...], tuple[float, ...]]
    calls: int
    outputs: tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]


def run_both(
    plans: tuple[Path, Path],
    library: Library,
    feeds: Feeds,
    *,
    limits: Limits | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Ran:
    """Run two engines by turns on the same inputs.

    Both are executed until they have run for 200 ms, then timed in up to 201 rounds with CUDA
    events (fewer, at least 11, if that took more than 20 s); each round takes one sample of each,
    in changing order.

    Args:
        plans: Their files.
        library: What built them, in the same release.
        feeds: Input -> array, in the type and shape that both engines want.
        limits: Bounds on the child.
        tick: Called about a hundred times a second.

    Returns:
        Samples and outputs.

    Raises:
        BackendError: The library is missing or does not load; there is no GPU; an engine failed or
            died while it ran.
        UnsupportedError: An engine is not for this GPU, wants other inputs, or has an output that
            cannot be given memory beforehand.
    """
    version = f"{library.name} {installed(library)}"
    limits = limits or Limits()
    with tempfile.TemporaryDirectory(prefix="qcompiler-run-") as folder:
        request = {
            "module": library.module,
            "plans": [str(plan.absolute()) for plan in plans],
            "feeds": _written(feeds, Path(folder)),
            "results": folder,
            "warm_ms": WARM_MS,
            "sample_ms": SAMPLE_MS,
            "rounds": ROUNDS,
            "budget_ms": BUDGET_MS,
        }
        ended = run(request, lambda _line: {}, limits, tick, program=RUN)
        _require(ended, limits, version, library, plans)
        first, second = (_read(told) for told in ended.last["outputs"])
    ours, theirs = (tuple(ms / 1e3 for ms in found) for found in ended.last["samples"])
    return Ran(version, (ours, theirs), ended.last["calls"], (first, second))


def _written(feeds: Feeds, folder: Path) -> list[Line]:
    told: list[Line] = []
    for index, (name, array) in enumerate(sorted(feeds.items())):
        if array.dtype not in _NAMES:
            raise UnsupportedError(f"no engine has an input of type {array.dtype}", where=name)
        file = folder / f"input{index}.bin"
        file.write_bytes(array.tobytes())
        facts = {"name": name, "dtype": _NAMES[array.dtype], "shape": list(array.shape)}
        told.append({**facts, "file": str(file)})
    return told


def _read(told: Sequence[Line]) -> dict[str, NDArray[Any]]:
    return {
        t["name"]: np.frombuffer(Path(t["file"]).read_bytes(), _DTYPES[t["dtype"]]).reshape(
            t["shape"]
        )
        for t in told
    }


def _require(
    ended: Ended, limits: Limits, version: str, library: Library, plans: Sequence[Path]
) -> None:
    """Raise unless both engines ran."""
    last, where = ended.last, plans[0].name
    phase, problem = last["phase"], last.get("problem", "")
    if phase == "done":
        return
    if phase == "library" and problem:
        raise BackendError(f"{library.title} does not load: {problem}", hint=library.install)
    if phase == "lacks":
        raise UnsupportedError(
            f"{version} {problem}",
            where=where,
            hint="an engine runs on the GPU that it is built for, by the release that built it",
        )
    if phase == "raised":
        problem = "; ".join([problem, *last["errors"]])
    raise BackendError(
        f"{version} cannot run the engines: {problem or unfinished(ended, limits)[1]}", where=where
    )
