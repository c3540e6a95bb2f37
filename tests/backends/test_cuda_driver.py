"""The GPU and its driver, told by a driver library that answers as the real one does."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qcompiler.backends import cuda_driver
from qcompiler.backends.cuda_driver import Device, DriverError, Session
from tests.backends.cuda_stub import compiled

Function = Callable[..., int]


def _put(value: int) -> Function:
    """A C function that writes ``value`` to its first argument."""

    def function(pointer: object, *_rest: object) -> int:
        pointer._obj.value = value  # type: ignore[attr-defined]
        return 0

    return function


def _text(value: bytes) -> Function:
    def function(buffer: ctypes.Array[ctypes.c_char], *_rest: object) -> int:
        buffer.value = value
        return 0

    return function


def _attribute(pointer: object, which: int, _handle: object) -> int:
    return _put({75: 9, 76: 0}[which])(pointer)


CUDA: dict[str, Function] = {
    "cuInit": lambda _flags: 0,
    "cuDeviceGet": _put(0),
    "cuDeviceGetName": _text(b"NVIDIA H100 80GB HBM3"),
    "cuDeviceGetAttribute": _attribute,
    "cuDriverGetVersion": _put(13020),
}
NVML: dict[str, Function] = {
    "nvmlInit_v2": lambda: 0,
    "nvmlSystemGetDriverVersion": _text(b"580.159.04"),
    "nvmlShutdown": lambda: 0,
}


@pytest.mark.parametrize(
    ("nvml", "driver"),
    [
        (NVML, "580.159.04"),
        (None, "cuda13.2"),
        (NVML | {"nvmlInit_v2": lambda: 999}, "cuda13.2"),
        (NVML | {"nvmlSystemGetDriverVersion": lambda *_: 999}, "cuda13.2"),
    ],
)
def test_name_capability_and_driver(
    monkeypatch: pytest.MonkeyPatch, nvml: dict[str, Function] | None, driver: str
) -> None:
    libraries = {"libcuda.so.1": CUDA, "libnvidia-ml.so.1": nvml}
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(cuda_driver, "_library", libraries.__getitem__)
    assert cuda_driver.device() == Device("NVIDIA H100 80GB HBM3", "SM90", driver)


@pytest.mark.parametrize(
    "cuda",
    [None, CUDA | {"cuInit": lambda _flags: 100}, CUDA | {"cuDeviceGet": lambda *_: 101}],
)
def test_no_driver_or_no_gpu(
    monkeypatch: pytest.MonkeyPatch, cuda: dict[str, Function] | None
) -> None:
    monkeypatch.setattr(cuda_driver, "_library", lambda _name: cuda)
    assert cuda_driver.device() is None


def test_a_library_that_is_not_there() -> None:
    assert cuda_driver._library("libnothing-of-this-name.so.1") is None


# ---------------------------------------------------------------------------- memory and time


@pytest.fixture
def stub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ctypes.CDLL:
    """The driver in C, in place of the real one."""
    library = ctypes.CDLL(str(compiled(tmp_path, "libstub.so")))
    monkeypatch.setattr(cuda_driver, "_library", lambda name: library if "cuda" in name else None)
    return library


def test_bytes_come_back_from_the_device_and_everything_is_given_back(stub: ctypes.CDLL) -> None:
    with Session() as session:
        addresses = [session.allocate(size) for size in (5, 0, 1 << 20)]
        assert min(addresses) > 0
        session.upload(addresses[0], b"ab\0cd")
        session.upload(addresses[1], b"")
        assert session.download(addresses[0], 5) == b"ab\0cd"
        assert session.download(addresses[1], 0) == b""
        session.event()
        # Context, stream, three buffers, one event.
        assert stub["stub_live"]() == 6
    assert stub["stub_live"]() == 0


def test_events_tell_the_time_of_the_device(stub: ctypes.CDLL) -> None:
    with Session() as session:
        start, stop = session.event(), session.event()
        session.record(start)
        stub["stub_spend"](ctypes.c_double(2.5))
        session.record(stop)
        assert session.milliseconds(start, stop) == 2.5
        assert session.stream > 2**32


def test_a_failure_is_named_as_the_driver_names_it(stub: ctypes.CDLL) -> None:
    told = r"cuMemAlloc_v2 .*: CUDA_ERROR_OUT_OF_MEMORY"
    with pytest.raises(DriverError, match=told), Session() as session:
        session.allocate(1 << 33)
    assert stub["stub_live"]() == 0


def test_the_stub_is_a_gpu(stub: ctypes.CDLL) -> None:
    assert cuda_driver.device() == Device("NVIDIA Stub", "SM89", "cuda13.2")


def test_without_a_gpu_there_is_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "_library", lambda _name: None)
    with pytest.raises(DriverError, match="no GPU"):
        Session()
