"""Caches of the libraries: one file for each library release, GPU and driver, in a folder.

**Timing cache** (TensorRT): how long each kernel took on this GPU. A build that finds all its
kernels there measures none, is many times faster, and chooses the same kernels again; without it
two builds of one model differ wherever two kernels are about equally fast.

**Runtime cache** (TensorRT for RTX): kernels that it finished on this GPU. Its plans are compiled
for a compute capability and finished when an execution context is made; with the cache that is
done once. Kernels that only an inference asks for are not in it.

Either holds for one release, GPU and driver only, and the file's name says which::

    tensorrt-11.4.0.106_nvidia-h100-80gb-hbm3_sm90_580.95.05.timing
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from qcompiler.backends import cuda_driver
from qcompiler.backends.tensorrt import CacheFiles, installed
from qcompiler.engine.sidecar import CacheFact, digest
from qcompiler.engine.target_string import EngineTarget
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.weights import atomic


@dataclass(frozen=True)
class Cache:
    """One cache file.

    Attributes:
        kind: ``timing`` or ``runtime``.
        path: The file; it need not exist.
    """

    kind: str
    path: Path

    @contextmanager
    def open(self, *, locked: bool) -> Iterator[Opened]:
        """Let a build read the cache, and keep what it wrote if it succeeds.

        Args:
            locked: Whether the cache shall stay as it is.

        Raises:
            InputError: The cache is locked and does not exist, or the folder cannot be written.
        """
        before = digest(self.path) if self.path.is_file() else ""
        if locked:
            if not before:
                raise InputError(
                    "there is no timing cache of this release, GPU and driver",
                    where=str(self.path),
                    hint="build once without --locked, which fills it",
                )
            yield Opened(self, CacheFiles(self.kind, self.path, None), before)
            return
        _make(self.path.parent)
        with atomic(self.path) as new:
            yield Opened(self, CacheFiles(self.kind, self.path, new), before)


@dataclass(frozen=True)
class Opened:
    """A cache in use."""

    cache: Cache
    files: CacheFiles
    before: str

    def fact(self) -> CacheFact:
        """What the build made of it; to be asked when it is done."""
        return CacheFact(
            kind=self.cache.kind,
            file=self.cache.path.name,
            before=self.before,
            after=digest(self.cache.path),
        )


def choose(target: EngineTarget, timing: Path | None, runtime: Path | None) -> Cache | None:
    """The cache of this library, GPU and driver.

    Args:
        target: Whose library is to be used.
        timing: Folder of timing caches.
        runtime: Folder of runtime caches.

    Returns:
        The cache in whichever folder is given; None if neither is.

    Raises:
        UnsupportedError: One is, and no GPU is visible.
    """
    folder = timing or runtime
    if folder is None:
        return None
    kind = "timing" if timing else "runtime"
    device = cuda_driver.device()
    if device is None:
        raise UnsupportedError(
            f"a {kind} cache holds for one GPU, and none is visible here",
            where=str(target),
            hint=f"leave --{kind}-cache out, or build on a machine with the GPU and its driver",
        )
    parts = (
        f"{target.library.name}-{installed(target.library)}",
        device.name,
        device.capability,
        device.driver,
    )
    return Cache(kind, folder / f"{'_'.join(_slug(part) for part in parts)}.{kind}")


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-")


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot make the folder of the cache: {error.strerror}", where=str(folder)
        ) from error
