"""One child process under a bound on its time and on its memory, watched while it runs.

The memory bound is on pages that only this process owns and that the kernel cannot drop:
``RssAnon + VmSwap`` of ``/proc/PID/status``. A limit on the address space (``RLIMIT_AS``) would
also count memory maps of weights and libraries, which cost nothing until they are read and can be
dropped again. The child is looked at every 10 ms; what it allocates in between is the overshoot.
Where there is no ``/proc`` the memory is not bounded.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_CHILD = Path(__file__).with_name("tensorrt_child.py")  # needs nothing of this package
RUN = ("-m", "qcompiler.backends.tensorrt_run_child")
"""The child that runs engines."""

_ROOT = Path(__file__).parents[2]
_LOOK = 0.01
_KEPT = ("log", "inspector")

Line = dict[str, Any]


@dataclass(frozen=True)
class Limits:
    """How much a child may use.

    Attributes:
        seconds: Wall time.
        bytes: Anonymous memory, in bytes; 0 is no bound.
    """

    seconds: float = 600.0
    bytes: int = 0


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    Attributes:
        last: The last line it wrote.
        code: Its exit code; negative is a signal.
        killed: ``timeout`` or ``memory`` if it was killed for that, else empty.
        seconds: Wall time.
        peak: Most anonymous memory seen, in bytes; 0 if it could not be seen.
        texts: What it wrote to each file that was kept; empty if it wrote none.
    """

    last: Line
    code: int
    killed: str
    seconds: float
    peak: int
    texts: Mapping[str, str]


def run(
    request: Mapping[str, object],
    answer: Callable[[Line], Mapping[str, object]],
    limits: Limits,
    tick: Callable[[], None],
    *,
    keep: Collection[str] = (),
    program: Sequence[str] = (),
) -> Ended:
    """Run the child on one request.

    Args:
        request: The first line it reads; the names of ``keep`` are added.
        answer: Called with the line ``inputs``; returns the second line the child reads.
        limits: Bounds; past them the child is killed.
        tick: Called at every look.
        keep: Which of the files ``log`` (its messages) and ``inspector`` (what the engine inspector
            says) the child shall write.
        program: :data:`RUN`, or nothing for the child that builds.

    Returns:
        How it ended. The child is gone then, whatever happened, an exception of ``answer`` or
        ``tick`` included.
    """
    with tempfile.TemporaryDirectory(prefix="qcompiler-build-") as folder:
        out = Path(folder, "lines.jsonl")
        files = {name: str(Path(folder, name)) if name in keep else "" for name in _KEPT}
        start = time.perf_counter()
        with _child(out, program) as (process, stdin):
            _write(stdin, {**request, **files})
            answered, killed, peak = False, "", 0
            while process.poll() is None:
                if not answered and (line := _find(out, "inputs")) is not None:
                    answered = True
                    _write(stdin, answer(line))
                used = anonymous_bytes(process.pid)
                peak = max(peak, used)
                killed = _exceeded(limits, time.perf_counter() - start, used)
                if killed:
                    process.kill()
                    break
                tick()
                time.sleep(_LOOK)
            code = process.wait()
        seconds = time.perf_counter() - start
        lines = _lines(out)
        texts = {name: _text(path) for name, path in files.items()}
    return Ended(lines[-1] if lines else {"phase": "library"}, code, killed, seconds, peak, texts)


@contextlib.contextmanager
def _child(
    out: Path, program: Sequence[str]
) -> Iterator[tuple[subprocess.Popen[bytes], IO[bytes]]]:
    """The process and its standard input; it is dead when the block ends."""
    # -P: the folder of the child file holds modules named like the libraries it needs.
    process = subprocess.Popen(
        [sys.executable, "-P", *(program or [str(_CHILD)]), str(out)],
        env=_environment() if program else None,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,  # internal errors go there too, and the log has them
    )
    assert process.stdin is not None
    try:
        yield process, process.stdin
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


def _environment() -> dict[str, str]:
    """This one, in which the child finds the package even where it is not installed."""
    path = [*filter(None, [os.environ.get("PYTHONPATH")]), str(_ROOT)]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def _write(stdin: IO[bytes], line: Mapping[str, object]) -> None:
    """Send a line; a child that is already dead is noticed by its exit code."""
    with contextlib.suppress(BrokenPipeError):
        stdin.write(json.dumps(line).encode() + b"\n")
        stdin.flush()


def _lines(out: Path) -> list[Line]:
    """The complete lines written so far."""
    return [json.loads(x) for x in _text(str(out)).splitlines(True) if x.endswith("\n")]


def _text(path: str) -> str:
    return Path(path).read_text(encoding="utf-8") if path and Path(path).exists() else ""


def _find(out: Path, phase: str) -> Line | None:
    return next((line for line in _lines(out) if line["phase"] == phase), None)


def _exceeded(limits: Limits, seconds: float, used: int) -> str:
    if seconds > limits.seconds:
        return "timeout"
    return "memory" if limits.bytes and used > limits.bytes else ""


def anonymous_bytes(pid: int) -> int:
    """``RssAnon + VmSwap`` of a process, in bytes; 0 if it cannot be read."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    rows = (line.split() for line in status.splitlines())
    return sum(int(row[1]) * 1024 for row in rows if row and row[0] in {"RssAnon:", "VmSwap:"})
