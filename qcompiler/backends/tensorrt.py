r"""NVIDIA's own ONNX parser and engine builder, driven from one place, without a GPU if it can be.

Two libraries share one Python interface. **TensorRT for RTX** (module ``tensorrt_rtx``) installs
from PyPI (extra ``rtx``), and it parses, validates and compiles a network ahead of time for named
compute capabilities on any CPU. **TensorRT** (module ``tensorrt``, 10.x and 11.x) builds for the
GPU of the machine it runs on. Three answers come from either, in this order:

1. *parse*: does every node, type, axis and scale pass the importer and the network's validation?
   Most Q/DQ rules (a non-zero INT8 zero point, an INT32 bias behind DequantizeLinear, a scale of
   the wrong shape) are decided here, with the name of the node;
2. *build*: does a plan exist for this compute capability? Data types the card lacks (FP8 below
   SM89) are decided here;
3. *listing*: the ``Layers:`` message of the log names each kernel with the types of its operands.

What TensorRT for RTX cannot answer without a GPU is accuracy and speed. Its acceptance carries over
to TensorRT 11.x in the parser and the validation; the choice of kernels may not.

Every build has a child process of its own (:mod:`~qcompiler.backends.tensorrt_process`) and reads
the model from its file. A network with free axes needs an optimization profile
(:mod:`~qcompiler.backends.tensorrt_profile`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from qcompiler.backends.tensorrt_process import Ended, Limits, Line, run
from qcompiler.backends.tensorrt_profile import Input, Profile, complete
from qcompiler.errors import BackendError, InputError, UnsupportedError

CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
"""The compute capabilities that TensorRT for RTX builds for (its enum ``ComputeCapability``)."""

Choose = Callable[[tuple[Input, ...]], Profile]
"""Inputs of the parsed network -> bounds of those with a free axis."""


@dataclass(frozen=True)
class Library:
    """One of the two libraries.

    Attributes:
        name: As in a target: ``tensorrt-rtx`` or ``tensorrt``.
        title: As NVIDIA calls it.
        module: Python module.
        distributions: What may have installed it.
        install: How to install any release of it.
    """

    name: str
    title: str
    module: str
    distributions: tuple[str, ...]
    install: str


RTX = Library(
    "tensorrt-rtx",
    "TensorRT for RTX",
    "tensorrt_rtx",
    ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    "pip install 'onnx-qcompiler[rtx]'",
)
FULL = Library(
    "tensorrt",
    "TensorRT",
    "tensorrt",
    ("tensorrt-cu13", "tensorrt-cu12", "tensorrt-cu11", "tensorrt"),
    "pip install tensorrt-cu13 --extra-index-url https://pypi.nvidia.com "
    "(on a Jetson: apt install tensorrt)",
)
LIBRARIES = {library.name: library for library in (RTX, FULL)}


@dataclass(frozen=True)
class CacheFiles:
    """A cache that a build reads and writes.

    Attributes:
        kind: ``timing`` (of TensorRT: how long each kernel took) or ``runtime`` (of TensorRT for
            RTX: kernels finished on this GPU).
        old: File to read; it need not exist.
        new: File to write afterwards; None to leave the cache as it is.
    """

    kind: str
    old: Path
    new: Path | None


@dataclass(frozen=True)
class Request:
    """One build.

    Attributes:
        model: An ONNX file; external data is read from its folder.
        library: Which library.
        capabilities: Names in :data:`CAPABILITIES`; empty for TensorRT, which asks its GPU.
        plan: File to write the plan to, None to throw it away.
        workspace: Bytes a kernel may use as scratch, None for the library's own limit.
        level: Builder optimization level, 0 to 5, None for the library's own.
        flags: Members of ``BuilderFlag``.
        compatibility: Member of ``HardwareCompatibilityLevel``; empty for the library's own.
        cache: What the library may reuse; None for nothing.
        keep_log: Whether to keep the library's messages.
        inspect: Whether to ask the engine inspector, which needs the GPU.
    """

    model: Path
    library: Library = RTX
    capabilities: tuple[str, ...] = ("SM89",)
    plan: Path | None = None
    workspace: int | None = None
    level: int | None = None
    flags: tuple[str, ...] = ()
    compatibility: str = ""
    cache: CacheFiles | None = None
    keep_log: bool = False
    inspect: bool = False


@dataclass(frozen=True)
class Verdict:
    """What the parser and the builder made of one model.

    Attributes:
        accepted: True if the builder returned a plan.
        stage: Where it ended: ``parse`` or ``build`` (refused there), ``crash``, ``timeout``,
            ``memory`` or ``built``.
        errors: Messages of the parser, each beginning with the node's operator and name where one
            is to blame, or of the builder; empty if accepted.
        seconds: Wall time of the child process, library start (about 0.2 s) included.
        library: Name and version of the judge, such as ``tensorrt-rtx 1.7.1.116``.
        plan_bytes: Size of the plan in bytes; 0 if there is none.
        log: Every message of the library, a line a message, ``[SEVERITY] text``, with the
            ``Layers:`` listing and without the model's path; empty unless asked for.
        peak_bytes: Most anonymous memory of the child seen; 0 if it could not be seen.
        inspector: What the engine inspector said, as JSON; empty unless asked for, and where the
            engine could not be loaded.
    """

    accepted: bool
    stage: str
    errors: tuple[str, ...]
    seconds: float
    library: str
    plan_bytes: int
    log: str = ""
    peak_bytes: int = 0
    inspector: str = ""


def available(library: Library = RTX) -> bool:
    """Whether the library is installed; does not import it."""
    found = importlib.util.find_spec(library.module)
    return found is not None and found.origin is not None  # a mere folder of that name has none


def installed(library: Library = RTX) -> str:
    """Version of the installed library.

    Raises:
        BackendError: It is not installed.
    """
    if available(library):
        for name in library.distributions:
            try:
                return importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
    raise BackendError(f"{library.title} is not installed", hint=library.install)


def build(
    model: Path,
    *,
    capability: str = "SM89",
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    timeout: float = 300.0,
    keep_log: bool = False,
) -> Verdict:
    """Judge a model with TensorRT for RTX; the plan is thrown away.

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
    if capability not in CAPABILITIES:
        raise InputError(
            f"unknown compute capability {capability!r}", hint=f"one of {', '.join(CAPABILITIES)}"
        )
    given = {name: (tuple(s),) * 3 for name, s in (shapes or {}).items()}
    request = Request(model, capabilities=(capability,), keep_log=keep_log)
    return judge(request, lambda inputs: complete(inputs, given), Limits(timeout))


def judge(
    request: Request,
    choose: Choose,
    limits: Limits,
    tick: Callable[[], None] = lambda: None,
) -> Verdict:
    """Parse and build one model in a child process.

    Args:
        request: What to build.
        choose: Called once, after the parse, with the network's inputs.
        limits: Bounds on the child.
        tick: Called about a hundred times a second while the child runs.

    Returns:
        The verdict, whatever the library did.

    Raises:
        BackendError: The library is not installed, or does not load.
        InputError: The file does not exist, or ``choose`` raised it.
        UnsupportedError: This release has no such option, or refuses the cache.
    """
    version = f"{request.library.name} {installed(request.library)}"
    path = Path(request.model).absolute()
    if not path.is_file():
        raise InputError("no such model file", where=str(request.model))

    def answer(line: Line) -> dict[str, object]:
        inputs = tuple(
            Input(x["name"], tuple(x["shape"]), tuple(x["symbols"])) for x in line["inputs"]
        )
        try:
            return {"profile": choose(inputs)}
        except InputError as error:
            raise InputError(error.message, where=str(request.model), hint=error.hint) from error

    message = {
        "module": request.library.module,
        "model": str(path),
        "capabilities": request.capabilities,
        "plan": str(request.plan.absolute()) if request.plan else "",
        "workspace": request.workspace,
        "level": request.level,
        "flags": request.flags,
        "compatibility": request.compatibility,
        "cache": _spelled(request.cache),
    }
    wanted = {"log": request.keep_log, "inspector": request.inspect}
    ended = run(message, answer, limits, tick, keep=[name for name, yes in wanted.items() if yes])
    problem = ended.last.get("problem")
    if problem and ended.last["phase"] == "library":
        raise BackendError(
            f"{request.library.title} does not load: {problem}", hint=request.library.install
        )
    if problem and ended.last["phase"] == "lacks":
        raise UnsupportedError(
            f"{version} {problem}",
            where=str(request.model),
            hint="leave the option out, or delete the cache if it is one",
        )
    return _verdict(ended, limits, version, path)


def describe(plan: Path, library: Library, limits: Limits | None = None) -> str:
    """Load a plan and ask the engine inspector about it, in a child process.

    A plan that brings host code of its own (a version-compatible one) is not loaded: it would run.

    Args:
        plan: The plan.
        library: What built it, in the same release unless the plan says otherwise.
        limits: Bounds on the child.

    Returns:
        Its JSON.

    Raises:
        BackendError: The library is missing, does not load, died, or cannot load the plan, which
            needs the GPU that the plan is for.
        InputError: The file does not exist.
    """
    version = f"{library.name} {installed(library)}"
    if not plan.is_file():
        raise InputError("no such plan", where=str(plan))
    limits = limits or Limits()
    message = {"module": library.module, "describe": str(plan.absolute())}
    ended = run(message, lambda _line: {}, limits, lambda: None, keep=["inspector"])
    problem = ended.last.get("problem", "")
    if ended.last["phase"] == "done" and ended.texts["inspector"]:
        return ended.texts["inspector"]
    if ended.last["phase"] == "done":
        problem = "; ".join(ended.last["errors"]) or "it gives no reason"
    raise BackendError(
        f"{version} cannot load this plan: {problem or unfinished(ended, limits)[1]}",
        where=str(plan),
        hint="a plan is loaded by the release that built it, on the GPU that it was built for; "
        "elsewhere, export its layers there with trtexec --exportLayerInfo",
    )


def _spelled(cache: CacheFiles | None) -> dict[str, str] | None:
    if cache is None:
        return None
    new = str(cache.new.absolute()) if cache.new else ""
    return {"kind": cache.kind, "old": str(cache.old.absolute()), "new": new}


def _verdict(ended: Ended, limits: Limits, version: str, path: Path) -> Verdict:
    last = ended.last
    accepted, plan_bytes = False, 0
    if last["phase"] == "done":
        accepted, stage, plan_bytes = last["accepted"], last["stage"], last["plan_bytes"]
        errors = tuple(_without_path(text, path) for text in last["errors"])
    elif last["phase"] == "raised":
        # A Python exception; that of std::bad_alloc is no fault of the library.
        stage = "build" if last["problem"].startswith("MemoryError") else "crash"
        errors = (f"the library raised {last['problem']}", *last["errors"])
    else:
        stage, error = unfinished(ended, limits)
        errors = (error,)
    return Verdict(
        accepted,
        stage,
        errors,
        ended.seconds,
        version,
        plan_bytes,
        log=_without_path(ended.texts["log"], path),
        peak_bytes=ended.peak,
        inspector=ended.texts["inspector"],
    )


def unfinished(ended: Ended, limits: Limits) -> tuple[str, str]:
    """Stage and message of a child that died or was killed.

    Args:
        ended: How it ended.
        limits: What it was allowed.
    """
    doing = {"library": "loading", "load": "loading", "parse": "parsing", "inputs": "parsing"}
    doing |= {"build": "building", "run": "running"}
    phase = doing[ended.last["phase"]]
    if ended.killed == "timeout":
        return "timeout", f"not finished after {limits.seconds:g} s, while {phase}"
    if ended.killed == "memory":
        return "memory", f"more than {limits.bytes / 2**20:.0f} MiB of memory, while {phase}"
    how = signal.Signals(-ended.code).name if ended.code < 0 else f"exit code {ended.code}"
    return "crash", f"the library ended with {how} while {phase}"


def _without_path(text: str, path: Path) -> str:
    """Replace the model's path by its file name, so that two machines say the same."""
    return text.replace(str(path), path.name).replace(str(path.parent) + "/", "")
