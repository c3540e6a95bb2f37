"""A folder that appears under its name complete, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qcompiler.errors import InputError


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """An empty folder beside ``path`` that takes its name only if the block succeeds.

    What had the name before is moved aside for the instant of two renames, and comes back if the
    second one fails; no file system renames a folder over a full one.

    Yields:
        The folder to fill.

    Raises:
        InputError: The folder cannot be made, filled or renamed.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    before = path.with_name(f".{path.name}.{os.getpid()}.old")
    try:
        fresh.mkdir()
    except OSError as error:
        raise _refused(path, error) from error
    try:
        yield fresh
        _swap(fresh, path, before)
    except OSError as error:
        raise _refused(path, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _swap(fresh: Path, path: Path, before: Path) -> None:
    existed = path.exists()
    if existed:
        path.rename(before)
    try:
        fresh.rename(path)
    except OSError:
        if existed:
            before.rename(path)
        raise
    if before.is_dir():
        shutil.rmtree(before, ignore_errors=True)
    elif existed:
        before.unlink()


def _refused(path: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot write here: {error.strerror}",
        where=str(path),
        hint="look at rights and free space, or choose another output path",
    )
