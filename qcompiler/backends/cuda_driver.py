"""The GPU of this machine, by way of the driver itself: which it is, its memory, its clock.

The CUDA driver library comes with the driver, so nothing need be installed; where it is missing
there is no GPU to use. The device is the first that CUDA shows (``CUDA_VISIBLE_DEVICES`` decides),
which is the one that TensorRT builds for.

Functions are called by the names of the CUDA driver API; those whose parameters were widened end
in ``_v2``. Handles and addresses have 64 bits, and ctypes would pass a Python integer as 32.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Protocol, Self

_NAMES = {"win32": ("nvcuda.dll", "nvml.dll")}
_LINUX = ("libcuda.so.1", "libnvidia-ml.so.1")
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR
_LENGTH = 256
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING


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


class DriverError(RuntimeError):
    """A call of the driver failed, or there is no driver to call."""


def device() -> Device | None:
    """The first GPU; None if there is no driver, or no GPU."""
    _, nvml_name = _NAMES.get(sys.platform, _LINUX)
    found = _first()
    if found is None:
        return None
    cuda, handle = found
    name = ctypes.create_string_buffer(_LENGTH)
    cuda["cuDeviceGetName"](name, _LENGTH, handle)
    major, minor = (_attribute(cuda, which, handle) for which in (_MAJOR, _MINOR))
    driver = _driver_version(_library(nvml_name)) or _cuda_version(cuda)
    return Device(name.value.decode(), f"SM{major}{minor}", driver)


class Session:
    """Memory, a stream and events on the first GPU, in the context that TensorRT uses too.

    Everything that was taken is given back by ``close``, or at the end of a ``with`` block.

    Raises:
        DriverError: There is no GPU, or the driver refuses.
    """

    def __init__(self) -> None:
        found = _first()
        if found is None:
            raise DriverError("there is no GPU, or no driver for it")
        self._cuda, self._device = found
        self._buffers: list[int] = []
        self._events: list[ctypes.c_void_p] = []
        context, self._stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._call("cuCtxSetCurrent", context)
        self._call("cuStreamCreate", ctypes.byref(self._stream), _NON_BLOCKING)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def stream(self) -> int:
        """Handle of the stream; it waits for no other."""
        return self._stream.value or 0

    def allocate(self, size: int) -> int:
        """Address of ``size`` bytes of device memory, at least one."""
        address = ctypes.c_uint64()
        self._call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        self._buffers.append(address.value)
        return address.value

    def upload(self, address: int, data: bytes) -> None:
        """Copy bytes to the device; they are there when this returns."""
        to, size = ctypes.c_uint64(address), ctypes.c_size_t(len(data))
        if data:
            self._call("cuMemcpyHtoD_v2", to, ctypes.c_char_p(data), size)
            self._call("cuCtxSynchronize")

    def download(self, address: int, size: int) -> bytes:
        """Bytes of the device, after all that the stream has been given."""
        data = ctypes.create_string_buffer(size) if size else None
        if data is None:
            return b""
        self._call("cuStreamSynchronize", self._stream)
        self._call("cuMemcpyDtoH_v2", data, ctypes.c_uint64(address), ctypes.c_size_t(size))
        return data.raw

    def event(self) -> ctypes.c_void_p:
        """A point in the stream whose time can be told."""
        event = ctypes.c_void_p()
        self._call("cuEventCreate", ctypes.byref(event), 0)
        self._events.append(event)
        return event

    def record(self, event: ctypes.c_void_p) -> None:
        """Put an event behind all that the stream has been given."""
        self._call("cuEventRecord", event, self._stream)

    def milliseconds(self, start: ctypes.c_void_p, stop: ctypes.c_void_p) -> float:
        """Time on the device between two events, with a resolution of about 0.5 us; waits."""
        found = ctypes.c_float()
        self._call("cuEventSynchronize", stop)
        self._call("cuEventElapsedTime", ctypes.byref(found), start, stop)
        return found.value

    def close(self) -> None:
        """Give everything back. What the driver says to it is not asked: an error came before."""
        for event in self._events:
            self._cuda["cuEventDestroy_v2"](event)
        for address in self._buffers:
            self._cuda["cuMemFree_v2"](ctypes.c_uint64(address))
        self._cuda["cuStreamDestroy_v2"](self._stream)
        self._cuda["cuDevicePrimaryCtxRelease_v2"](self._device)
        self._events, self._buffers = [], []

    def _call(self, name: str, *arguments: object) -> None:
        status = self._cuda[name](*arguments)
        if status:
            told = ctypes.c_char_p()
            self._cuda["cuGetErrorName"](status, ctypes.byref(told))
            word = told.value.decode() if told.value else f"error {status}"
            raise DriverError(f"{name} of the CUDA driver: {word}")


def _first() -> tuple[_Library, ctypes.c_int] | None:
    """The driver, and the first GPU that it shows."""
    cuda = _library(_NAMES.get(sys.platform, _LINUX)[0])
    handle = ctypes.c_int()
    if cuda is None or cuda["cuInit"](0) or cuda["cuDeviceGet"](ctypes.byref(handle), 0):
        return None
    return cuda, handle


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
