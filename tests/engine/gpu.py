"""A machine with a GPU for tests: the driver in C, here and in child processes."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from qcompiler.backends import cuda_driver
from tests.backends.cuda_stub import NAME, compiled


def put(folder: Path, monkeypatch: pytest.MonkeyPatch, capability: int = 89) -> None:
    """Let this process and its children find the driver of an ``NVIDIA Stub``."""
    compiled(folder, NAME)
    path = [str(folder), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join(path))
    monkeypatch.setenv("CUDA_STUB_CAPABILITY", str(capability))
    loaded = ctypes.CDLL(str(compiled(folder, "libstub.so")))
    monkeypatch.setattr(cuda_driver, "_library", lambda name: loaded if "cuda" in name else None)
