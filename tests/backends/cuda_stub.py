"""A CUDA driver for tests: the real functions by name, in C, on memory of this machine."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_SOURCE = Path(__file__).with_name("cuda_stub.c")


NAME = "libcuda.so.1"
"""As child processes find it. This process must not load it by that name: it would stay."""


def compiled(folder: Path, name: str) -> Path:
    """The library in ``folder``; skips the test where there is no C compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("NOT CHECKED: the stub of the CUDA driver needs a C compiler (gcc)")
    found = folder / name
    command = [compiler, "-shared", "-fPIC", "-O1", str(_SOURCE), "-o", str(found)]
    subprocess.run([*command, f"-Wl,-soname,{found.name}"], check=True, capture_output=True)
    return found
