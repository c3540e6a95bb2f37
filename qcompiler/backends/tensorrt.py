r"""NVIDIA's own ONNX parser and engine builder as a judge of a graph, without a GPU.

TensorRT for RTX installs from PyPI (extra ``rtx``), and it parses, validates and compiles a network
ahead of time for a named compute capability on any CPU. Three answers come from it, in this order:

1. *parse*: does every node, type, axis and scale pass the importer and the network's validation?
   Most Q/DQ rules (a non-zero INT8 zero point, an INT32 bias behind DequantizeLinear, a scale of
   the wrong shape) are decided here, with the name of the node;
2. *build*: does a plan exist for this compute capability? Data types the card lacks (FP8 below
   SM89) are decided here;
3. *listing*: the ``Layers:`` message of the log names each kernel with the types of its operands.

What it cannot answer without a GPU is accuracy and speed.

A network with free axes needs an optimization profile. Axes of the same symbol get the same bounds:
(1, 4, 8) where the symbol is the first axis of an input (a batch), else (1, 64, 128). Where a model
ties symbols together without saying so, as a decoder with :math:`total = past + seq` does, give
concrete ``shapes`` of some inputs: they become min, opt and max of these axes, and of the same
symbols elsewhere.

Acceptance by this library carries over to TensorRT 11.x in the parser and the validation; the
choice of kernels may not.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qcompiler.errors import BackendError, InputError

CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
"""The compute capabilities one can build for."""

_CHILD = Path(__file__).with_name("tensorrt_child.py")
_DISTRIBUTIONS = ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx")
_HINT = "pip install 'onnx-qcompiler[rtx]'"


@dataclass(frozen=True)
class Verdict:
    """What the parser and the builder made of one model for one compute capability.

    Attributes:
        accepted: True if the builder returned a plan.
        stage: Where it ended: ``parse`` or ``build`` (refused there), ``crash``, ``timeout`` or
            ``built``.
        errors: Messages of the parser, each beginning with the node's operator and name where one
            is to blame, or of the builder; empty if accepted.
        seconds: Wall time of the child process, library start (about 0.2 s) included.
        library: Name and version of the judge, such as ``tensorrt-rtx 1.7.1.116``.
        plan_bytes: Size of the plan in bytes; 0 if there is none.
        log: Every message of the library, a line a message, ``[SEVERITY] text``, with the
            ``Layers:`` listing and without the model's path; empty unless asked for.
    """

    accepted: bool
    stage: str
    errors: tuple[str, ...]
    seconds: float
    library: str
    plan_bytes: int
    log: str = ""


def available() -> bool:
    """Whether the library of the extra ``rtx`` is installed; does not import it."""
    return importlib.util.find_spec("tensorrt_rtx") is not None


def library() -> str:
    """Name and version of the installed judge.

    Raises:
        BackendError: It is not installed.
    """
    if available():
        for name in _DISTRIBUTIONS:
            try:
                return f"tensorrt-rtx {importlib.metadata.version(name)}"
            except importlib.metadata.PackageNotFoundError:
                continue
    raise BackendError("TensorRT for RTX is not installed", hint=_HINT)


def build(
    model: Path,
    *,
    capability: str = "SM89",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    timeout: float = 300.0,
    keep_log: bool = False,
) -> Verdict:
    """Parse and build a model in a child process.

    Args:
        model: An ONNX file; external data is read from its folder.
        capability: One of :data:`CAPABILITIES`.
        shapes: Input name -> concrete shape, for inputs whose free axes the default profile does
            not suit.
        timeout: Seconds after which the child is killed.
        keep_log: Keep the library's messages in :attr:`Verdict.log`.

    Returns:
        The verdict. A refusal, a crash of the library and a timeout are verdicts too.

    Raises:
        BackendError: The library is not installed, or does not load.
        InputError: The file does not exist, ``capability`` is unknown, or ``shapes`` does not fit
            the model's inputs.
    """
    version = library()
    path = Path(model).absolute()
    if not path.is_file():
        raise InputError("no such model file", where=str(model))
    known = ", ".join(CAPABILITIES)
    if capability not in CAPABILITIES:
        raise InputError(f"unknown compute capability {capability!r}", hint=f"one of {known}")
    given = {name: [int(size) for size in shape] for name, shape in sorted((shapes or {}).items())}
    request = {"model": str(path), "capability": capability, "shapes": given, "keep_log": keep_log}
    start = time.perf_counter()
    lines, code = _run(request, timeout)
    seconds = time.perf_counter() - start
    last = lines[-1] if lines else {"phase": "library"}
    if problem := last.get("problem"):
        if last["phase"] == "library":
            raise BackendError(f"TensorRT for RTX does not load: {problem}", hint=_HINT)
        raise InputError(
            str(problem),
            where=str(model),
            hint="shapes names each input and gives one size an axis",
        )
    if last["phase"] != "done":
        return _unfinished(str(last["phase"]), code, timeout, seconds, version)
    return Verdict(
        accepted=bool(last["accepted"]),
        stage=str(last["stage"]),
        errors=tuple(_without_path(text, path) for text in last["errors"]),
        seconds=seconds,
        library=version,
        plan_bytes=int(last["plan_bytes"]),
        log=_without_path(str(last.get("log", "")), path),
    )


def _run(request: Mapping[str, object], timeout: float) -> tuple[list[dict[str, Any]], int | None]:
    """Run the child; returns the lines it wrote and its exit code, None if killed for time."""
    with tempfile.TemporaryDirectory(prefix="qcompiler-rtx-") as folder:
        out = Path(folder, "verdict.jsonl")
        # -P: the folder of the child file holds modules named like the libraries it needs.
        command = [sys.executable, "-P", str(_CHILD), str(out)]
        code: int | None = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = subprocess.run(
                command,
                input=json.dumps(request).encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # internal errors go there too, and the log has them
                timeout=timeout,
                check=False,
            ).returncode
        text = out.read_text(encoding="utf-8") if out.exists() else ""
    return [
        json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")
    ], code


def _unfinished(
    phase: str, code: int | None, timeout: float, seconds: float, version: str
) -> Verdict:
    """The verdict on a child that died or was killed in ``phase``."""
    doing = {"library": "loading", "parse": "parsing", "build": "building"}[phase]
    if code is None:
        stage, error = "timeout", f"not finished after {timeout:g} s, while {doing}"
    else:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        stage, error = "crash", f"the library ended with {how} while {doing}"
    return Verdict(False, stage, (error,), seconds, version, 0)


def _without_path(text: str, path: Path) -> str:
    """Replace the model's path by its file name, so that two machines say the same."""
    return text.replace(str(path), path.name).replace(str(path.parent) + "/", "")
