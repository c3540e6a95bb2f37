"""What a build can be asked for besides its target, and which library can do it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qcompiler.backends.tensorrt import FULL, RTX
from qcompiler.engine.shapes import Shapes
from qcompiler.engine.target_string import EngineTarget
from qcompiler.errors import UnsupportedError, UsageError

FLAGS = {
    "weight-streaming": "WEIGHT_STREAMING",
    "refit": "REFIT",
    "strip-plan": "STRIP_PLAN",
    "version-compatible": "VERSION_COMPATIBLE",
    "locked": "ERROR_ON_TIMING_CACHE_MISS",
}
"""Option -> member of ``BuilderFlag``."""

COMPATIBILITY = {
    "none": "NONE",
    "ampere-plus": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}
"""Value of ``--hardware-compatibility`` -> member of ``HardwareCompatibilityLevel``."""

_DRIVER = f"{RTX.title} compiles this only where a GPU and its driver are, and then on that GPU"
_TIMING = f"{RTX.title} measures no kernels while it builds, so its timing cache holds nothing"
_ON_FULL = "build with tensorrt on a machine with the GPU"
_NOT_ON_RTX = {
    "refit": (_DRIVER, _ON_FULL),
    "strip-plan": (_DRIVER, _ON_FULL),
    "version-compatible": (
        f"{RTX.title} has no version-compatible plans (it returns none, without a message); "
        "build once for each release",
        _ON_FULL,
    ),
    "hardware-compatibility": (
        f"{RTX.title} ignores it; its plans run on every GPU of the compute capabilities that the "
        "target names",
        "name them, as in tensorrt-rtx:sm86,sm89",
    ),
    "timing-cache": (_TIMING, "--runtime-cache keeps the kernels that it finishes on the GPU"),
    "locked": (_TIMING, "its plans are equal without"),
}
_NOT_ON_FULL = {
    "runtime-cache": (
        f"the plans of {FULL.title} hold finished kernels; nothing is left to compile",
        "--timing-cache makes its builds fast and repeatable",
    ),
}


@dataclass(frozen=True)
class BuildOptions:
    """What a build is asked for besides its target.

    Attributes:
        shapes: Shapes of dynamic inputs.
        workspace: Bytes a kernel may use as scratch; None for the library's own limit.
        level: Builder optimization level, 0 to 5; None for the library's own.
        flags: Keys of :data:`FLAGS`.
        compatibility: A key of :data:`COMPATIBILITY`; None for the library's own.
        timing_cache: Folder of timing caches (TensorRT); None to measure every kernel anew.
        runtime_cache: Folder of runtime caches (TensorRT for RTX, on its GPU); None for none.
        twice: Whether to build a second time and compare.
        timeout: Seconds.
        memory: Bytes of memory of the child process; 0 is no bound.
    """

    shapes: Shapes = field(default_factory=Shapes)
    workspace: int | None = None
    level: int | None = None
    flags: tuple[str, ...] = ()
    compatibility: str | None = None
    timing_cache: Path | None = None
    runtime_cache: Path | None = None
    twice: bool = False
    timeout: float = 600.0
    memory: int = 16 * 2**30

    def asked(self) -> list[str]:
        """Options that not every library has, as spelled on the command line."""
        values = {
            "hardware-compatibility": self.compatibility,
            "timing-cache": self.timing_cache,
            "runtime-cache": self.runtime_cache,
        }
        return [*self.flags, *(name for name, value in values.items() if value is not None)]


def check(target: EngineTarget, options: BuildOptions) -> None:
    """Refuse what cannot work, before any work is done.

    Raises:
        UsageError: A number is out of range, or an option needs another.
        UnsupportedError: The library of this target has no such option.
        BackendError: The library is not installed, or in another release.
    """
    if options.level is not None and not 0 <= options.level <= 5:
        raise UsageError("the optimization level is a number from 0 to 5")
    if options.timeout <= 0:
        raise UsageError("the timeout must be above 0 seconds")
    for flag in options.flags:
        if flag not in FLAGS:
            raise UsageError(f"unknown flag {flag!r}", hint=f"one of {', '.join(FLAGS)}")
    level = options.compatibility
    if level is not None and level not in COMPATIBILITY:
        raise UsageError(
            f"unknown hardware compatibility {level!r}", hint=f"one of {', '.join(COMPATIBILITY)}"
        )
    lacking = _NOT_ON_RTX if target.library == RTX else _NOT_ON_FULL
    for name in options.asked():
        if name in lacking:
            why, instead = lacking[name]
            raise UnsupportedError(
                f"--{name} does not work with {target.library.title}: {why}",
                where=str(target),
                hint=f"leave --{name} out; {instead}",
            )
    if "locked" in options.flags and options.timing_cache is None:
        raise UsageError("--locked needs --timing-cache FOLDER, which it takes all times from")
    target.require()
