"""Which GPU and which driver this machine has, asked of the driver itself.

The CUDA driver library comes with the driver, so nothing need be installed; where it is missing
there is no GPU to use. The device is the first that CUDA shows (``CUDA_VISIBLE_DEVICES`` decides),
which is the one that TensorRT builds for.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Protocol

_NAMES = {"win32": ("nvcuda.dll", "nvml.dll")}
_LINUX = ("libcuda.so.1", "libnvidia-ml.so.1")
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_LENGTH = 256


@dataclass(frozen=True)
class Device:
    """A GPU and its driver.

    Attributes:
        name: As the driver spells it, ``NVIDIA H100 80GB HBM3``.
        capability: Its compute capability, ``SM90``.
        driver: Version of the driver, ``580.95.05``; ``cuda13.0`` where only the CUDA version that
            it supports can be told.
    """

    name: str
    capability: str
    driver: str


class _Library(Protocol):
    """A loaded C library."""

    def __getitem__(self, name: str) -> _Function: ...


class _Function(Protocol):
    """A C function that returns a status, 0 for success."""

    def __call__(self, *arguments: object) -> int: ...


def device() -> Device | None:
    """The first GPU; None if there is no driver, or no GPU."""
    cuda_name, nvml_name = _NAMES.get(sys.platform, _LINUX)
    cuda = _library(cuda_name)
    handle = ctypes.c_int()
    if cuda is None or cuda["cuInit"](0) or cuda["cuDeviceGet"](ctypes.byref(handle), 0):
        return None
    name = ctypes.create_string_buffer(_LENGTH)
    cuda["cuDeviceGetName"](name, _LENGTH, handle)
    major, minor = (_attribute(cuda, which, handle) for which in (_MAJOR, _MINOR))
    driver = _driver_version(_library(nvml_name)) or _cuda_version(cuda)
    return Device(name.value.decode(), f"SM{major}{minor}", driver)


def _library(name: str) -> _Library | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _attribute(cuda: _Library, which: int, handle: ctypes.c_int) -> int:
    found = ctypes.c_int()
    cuda["cuDeviceGetAttribute"](ctypes.byref(found), which, handle)
    return found.value


def _driver_version(nvml: _Library | None) -> str:
    """As ``nvidia-smi`` shows it; empty where the management library is missing (Jetson)."""
    if nvml is None or nvml["nvmlInit_v2"]():
        return ""
    text = ctypes.create_string_buffer(_LENGTH)
    failed = nvml["nvmlSystemGetDriverVersion"](text, _LENGTH)
    nvml["nvmlShutdown"]()
    return "" if failed else text.value.decode()


def _cuda_version(cuda: _Library) -> str:
    found = ctypes.c_int()
    cuda["cuDriverGetVersion"](ctypes.byref(found))
    return f"cuda{found.value // 1000}.{found.value % 1000 // 10}"
