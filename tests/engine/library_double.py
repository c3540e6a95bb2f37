"""A recording double of the TensorRT module, run by the real child process.

It is installed as a package of the wanted name and release in a folder of its own, and appends one
JSON object a call to ``calls.jsonl`` there.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

_SOURCE = """
import json, os, pathlib

CALLS = pathlib.Path(__file__).with_name("calls.jsonl")
MODE = {mode!r}

def record(**call):
    with CALLS.open("a") as stream:
        stream.write(json.dumps(call) + chr(10))

class Members:
    def __init__(self, **values):
        self.__dict__.update(values)

NetworkDefinitionCreationFlag = Members(**{creation!r})
ProfilingVerbosity = Members(DETAILED="detailed")
MemoryPoolType = Members(WORKSPACE="workspace")
BuilderFlag = Members(WEIGHT_STREAMING="ws", REFIT="refit", STRIP_PLAN="strip",
                      VERSION_COMPATIBLE="vc")

class ILogger:
    def __init__(self): pass

class Severity:
    name = "ERROR"

class Tensor:
    name, shape = "x", (-1, 4)
    def get_dimension_name(self, axis): return "N" if axis == 0 else ""

class Network:
    num_outputs = num_inputs = 1
    def get_input(self, index): return Tensor()

class OnnxParser:
    num_errors = 0
    def __init__(self, network, log): pass
    def parse_from_file(self, path): return True

class Profile:
    def set_shape(self, name, low, opt, high): record(shape=[name, low, opt, high])

class Config:
    def __setattr__(self, name, value): record(config=name, value=value)
    def set_memory_pool_limit(self, pool, size): record(pool=pool, size=size)
    def set_flag(self, flag): record(flag=flag)
    def add_optimization_profile(self, profile): record(profile=True)

class Builder:
    def __init__(self, log):
        if MODE == "no-gpu":
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.log = log
    def create_network(self, mask):
        record(network=mask)
        return Network()
    def create_builder_config(self): return Config()
    def create_optimization_profile(self): return Profile()
    def build_serialized_network(self, network, config):
        if MODE == "none":
            self.log.log(Severity, "Could not find any implementation for node conv1")
            return None
        if MODE == "silent":
            return None
        return memoryview(b"plan")
"""


class Double:
    """An installed double.

    Args:
        folder: Where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self._calls = folder / "calls.jsonl"

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What the child process called, in order."""
        return [json.loads(line) for line in self._calls.read_text().splitlines()]


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, version: str, mode: str = "plan"
) -> Double:
    """Put a double of full TensorRT, such as 10.13.3, before everything else.

    Args:
        folder: An empty folder.
        monkeypatch: Takes it away again.
        version: Release, of which the major number decides the creation flags.
        mode: ``plan`` (four bytes), ``none`` (refused with a message), ``silent`` (refused
            without) or ``no-gpu`` (no builder).
    """
    older = int(version.split(".")[0]) < 11
    creation = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1} if older else {"STRONGLY_TYPED": 0}
    source = _SOURCE.replace("{mode!r}", repr(mode)).replace("{creation!r}", repr(creation))
    (folder / "tensorrt.py").write_text(source, encoding="utf-8")
    metadata = folder / f"tensorrt_cu13-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: tensorrt-cu13\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return Double(folder)
