"""Run one command in a process of its own and say what it cost."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The checkout; commands run here, so that ``python -m qcompiler`` is the checkout's own."""


@dataclass(frozen=True)
class Run:
    """What one process did.

    Attributes:
        code: Exit code; negative for a signal; None if it was killed for time.
        out: Standard output.
        err: Standard error.
        seconds: Wall time.
        cpu: User plus system time in seconds, of the process and of the children it waited for.
        peak: Largest resident set in bytes, of the process or of one of these children. The kernel
            counts the parent's memory at the moment of the fork: keep the measuring process small.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    cpu: float
    peak: int

    @property
    def reason(self) -> str:
        """One line on why the command failed: its first ``error`` line, else its last line."""
        if self.code is None:
            return f"killed after {self.seconds:.0f} s"
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        errors = [line for line in lines if line.lower().startswith("error")]
        return (errors or lines[-1:] or [f"exit code {self.code}"])[0]


def run(
    command: Sequence[str], *, timeout: float = 600.0, env: Mapping[str, str] | None = None
) -> Run:
    """Run a command in the checkout, killing its whole process group after ``timeout`` seconds."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        killed = threading.Event()

        def kill() -> None:
            killed.set()
            os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(timeout, kill)
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            timer.cancel()
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    return Run(
        code=None if killed.is_set() else process.returncode,
        out=texts[0],
        err=texts[1],
        seconds=seconds,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=usage.ru_maxrss * 1024,
    )
