"""A recording double of the TensorRT module, run by the real child process.

Which classes and members a release has comes from ``tests/backends/tensorrt_api.json``, which the
real bindings of that release were asked for; what is not there raises ``AttributeError``, to read
and to set. The double is installed as a package of the wanted name and release in a folder of its
own, and appends one JSON object a call to ``calls.jsonl`` there.

An engine of it copies its inputs to its outputs, times ``gain``, and takes ``us`` microseconds on
the clock of ``tests/backends/cuda_stub.c``; the plan says so (:func:`plan`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

API = Path(__file__).parents[1] / "backends" / "tensorrt_api.json"
FACTS: dict[str, dict[str, list[str]]] = json.loads(API.read_text())

_SOURCE = '''
import array, ctypes, json, os, pathlib, signal, sys, threading, time

API = {api!r}
MODE = {mode!r}
HERE = pathlib.Path(__file__).parent

def record(**call):
    with (HERE / "calls.jsonl").open("a") as stream:
        stream.write(json.dumps(call) + chr(10))

def die():
    # A signal for the process may go to another thread while this one goes on.
    signal.pthread_kill(threading.get_ident(), signal.SIGSEGV)

def text(name):
    return (HERE / name).read_text()

def real(cls):
    """Leave what this release has; the class itself goes if it has none of that name."""
    names = API.get(cls.__name__)
    if names is None:
        return None
    for name in [n for n in vars(cls) if not n.startswith("_") and n not in names]:
        delattr(cls, name)
    lacking = [n for n in names if not hasattr(cls, n)]
    assert not lacking, f"the double of {cls.__name__} has no {lacking}"
    return cls

class Recording:
    def __setattr__(self, name, value):
        if not hasattr(type(self), name):
            raise AttributeError(f"{type(self).__name__} has no {name}")
        record(set=name, value=value)

class Level:
    def __init__(self, name): self.name = name

@real
class ILogger:
    def __init__(self): pass

@real
class IHostMemory(bytes):
    nbytes = property(len)

@real
class ParserError:
    def __init__(self, node, name, op, desc): self._told = node, name, op, desc
    def node(self): return self._told[0]
    def node_name(self): return self._told[1]
    def node_operator(self): return self._told[2]
    def desc(self): return self._told[3]

@real
class ITensor:
    name, shape = "x", (-1, 4)
    def get_dimension_name(self, axis): return "N" if axis == 0 else ""

@real
class INetworkDefinition:
    num_outputs = num_inputs = 1
    def get_input(self, index): return ITensor()

@real
class OnnxParser:
    def __init__(self, network, log): self._errors, self._log, self._network = [], log, network
    num_errors = property(lambda self: len(self._errors))
    def get_error(self, index): return self._errors[index]
    def parse_from_file(self, path):
        self._network._engine = HERE / (pathlib.Path(path).stem + ".engine")
        if MODE == "crash-parse":
            die()
        if MODE == "parse":
            self._errors = [
                ParserError(3, "q", "QuantizeLinear", "Assertion failed: shiftIsAllZeros(zp): no"),
                ParserError(-1, "", "", "Failed to parse"),
            ]
        if MODE == "parse-silent":
            self._log.log(Level("ERROR"), "ModelImporter.cpp: no reason")
        return not MODE.startswith("parse")

@real
class IOptimizationProfile:
    def set_shape(self, input, min, opt, max): record(shape=[input, min, opt, max])

@real
class ITimingCache:
    def __init__(self, data): self._data = data
    def serialize(self): return IHostMemory(self._data + b"+timed")

@real
class IBuilderConfig(Recording):
    profiling_verbosity = builder_optimization_level = hardware_compatibility_level = None
    num_compute_capabilities = None
    def set_compute_capability(self, capability, index): record(capability=capability)
    def set_memory_pool_limit(self, pool, pool_size): record(pool=pool, size=pool_size)
    def set_flag(self, flag): record(flag=flag)
    def add_optimization_profile(self, profile): record(profile=True)
    def create_timing_cache(self, serialized_timing_cache):
        record(timing_cache=serialized_timing_cache.decode())
        if MODE == "cache-damaged":  # in the words of the real library, which goes on
            self._log.log(Level("WARNING"), "The timing cache will not be used!")
            self._log.log(Level("WARNING"),
                "Failed to deserialize timing cache. Returning an empty timing cache.")
            return ITimingCache(b"")
        return None if MODE == "cache-none" else ITimingCache(serialized_timing_cache)
    def set_timing_cache(self, cache, ignore_mismatch):
        self.__dict__["_cache"] = cache
        return MODE != "cache-mismatch" and not ignore_mismatch
    def get_timing_cache(self): return self._cache

@real
class Builder:
    def __init__(self, logger):
        if MODE == "no-gpu":
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._log = logger
    def create_network(self, flags=0):
        record(network=flags)
        return INetworkDefinition()
    def create_builder_config(self):
        made = IBuilderConfig()
        made.__dict__["_log"] = self._log
        return made
    def create_optimization_profile(self): return IOptimizationProfile()
    def build_serialized_network(self, network, config):
        say = lambda level, message: self._log.log(Level(level), message)
        if MODE == "crash-build":
            die()
        if MODE == "hang":
            time.sleep(60)
        if MODE == "grow":
            held = bytearray(os.urandom(1)) * 2**28
            time.sleep(60)
        if MODE == "bad-alloc":
            raise MemoryError("std::bad_alloc")
        if MODE == "memory":
            say("ERROR", "[virtualMemoryBuffer.cpp::resizePhysical::154] Error Code 2: OutOfMemory "
                "(Requested size was 8589934592 bytes.)")
        if MODE == "tactics":
            say("WARNING", "Tactic Device request: 4400MB Available: 3900MB. Device memory is "
                "insufficient to use tactic.")
        if MODE in ("none", "memory", "tactics"):
            say("ERROR", "Error Code 10: Could not find any implementation for node conv1.")
        if MODE == "locked":
            say("ERROR", "Error Code 1: Internal Error (Adding new entry to timing cache is not "
                "allowed if `BuilderFlag::kERROR_ON_TIMING_CACHE_MISS` is set.)")
        if MODE in ("none", "memory", "tactics", "silent", "locked"):
            return None
        say("VERBOSE", text("listing.txt"))
        return IHostMemory(network._engine.read_bytes() if network._engine.exists() else b"plan")

@real
class EngineInspector:
    def get_engine_information(self, format):
        record(inspected=format)
        return {"names-only": chr(123) + '"Layers": ["conv1"]' + chr(125)}.get(
            MODE, text("inspector.json"))

@real
class IRuntimeCache:
    _data = b""
    def deserialize(self, blob):
        self._data = blob
        return MODE != "cache-mismatch"
    def serialize(self):
        return None if MODE == "no-data" else IHostMemory(self._data + b"+finished")

@real
class IRuntimeConfig(Recording):
    dynamic_shapes_kernel_specialization_strategy = None
    def create_runtime_cache(self): return IRuntimeCache()
    def set_runtime_cache(self, cache):
        record(runtime_cache=cache._data.decode())
        return MODE != "no-set"

class Named:
    def __init__(self, name): self.name = name

@real
class IExecutionContext:
    def __init__(self, says): self._says, self._at, self._shapes = says, {}, {}
    def set_input_shape(self, name, shape):
        record(input=name, shape=shape)
        self._shapes[name] = shape
        return shape == self._says["inputs"][name][1]
    def get_tensor_shape(self, name): return self._says["outputs"][name][1]
    def set_tensor_address(self, name, memory): self._at[name] = memory
    def execute_async_v3(self, stream_handle):
        if self._says.get("dies"):
            die()
        if self._says.get("fails"):
            return False
        record(ran=self._says["us"])
        cuda = ctypes.CDLL("libcuda.so.1")
        cuda["stub_spend"](ctypes.c_double(self._says["us"] / 1e3))
        for source, result in zip(self._says["inputs"], self._says["outputs"]):
            count = self._says["count"]
            given = array.array("f", ctypes.string_at(self._at[source], 4 * count))
            made = array.array("f", [x * self._says["gain"] for x in given]).tobytes()
            ctypes.memmove(self._at[result], made, len(made))
        return True

@real
class ICudaEngine:
    def __init__(self, says=None):
        self._says = says or {"inputs": {}, "outputs": {}}
        self._names = [*self._says["inputs"], *self._says["outputs"]]
    def create_engine_inspector(self): return EngineInspector()
    def create_runtime_config(self): return IRuntimeConfig()
    def create_execution_context(self, config=None):
        return None if MODE == "no-context" else IExecutionContext(self._says)
    num_io_tensors = property(lambda self: len(self._names))
    def get_tensor_name(self, index): return self._names[index]
    def get_tensor_mode(self, name):
        return Named("INPUT" if name in self._says["inputs"] else "OUTPUT")
    def get_tensor_dtype(self, name):
        return Named((self._says["inputs"] | self._says["outputs"])[name][0])
    def get_tensor_location(self, name):
        return Named("HOST" if name in self._says.get("host", ()) else "DEVICE")

@real
class Runtime(Recording):
    engine_host_code_allowed = None
    def __init__(self, logger): self.__dict__["_log"] = logger
    def deserialize_cuda_engine(self, serialized_engine):
        if MODE == "crash-load":
            die()
        if MODE == "raise-load":
            raise RuntimeError("no")
        if MODE == "no-engine":
            self._log.log(Level("ERROR"), "Serialization assertion: serialization version")
            return None
        return ICudaEngine(json.loads(serialized_engine) if serialized_engine[:1] == b"{" else None)

VALUES = {values!r}
for _name, _members in API.items():
    if _name not in globals():  # an enum
        _all = dict((m, VALUES.get(m, f"{_name}.{m}")) for m in _members)
        globals()[_name] = type(_name, (), _all)
for _name in [n for n, value in globals().items() if value is None]:
    del globals()[_name]
'''

_LISTING = """Layers:
Name: conv1, LayerType: correlation, Inputs: [{ Name: x, Dimensions: [-1,4], Datatype: Float, \
Format: Row major }], Constants: [], Outputs: [{ Name: y, Dimensions: [-1,4], Datatype: Float, \
Format: Row major }], TacticName: t, StreamId: 0, Metadata: [ONNX Layer: relu]

I/O Tensors:
Total Activation Memory: 64 bytes
Total Weights Memory: 32 bytes
Max Scratch Memory: 16 bytes"""

_TENSOR = {"Dimensions": [-1, 4], "Format": "Row major linear", "Datatype": "Half"}
_INSPECTOR = {
    "Layers": [
        {
            "Name": "relu",
            "LayerType": "kgen",
            "Inputs": [{"Name": "x", **_TENSOR}],
            "Outputs": [{"Name": "y", **_TENSOR}],
            "Metadata": "[ONNX Layer: relu]",
        }
    ]
}


def plan(
    us: float,
    *,
    gain: float = 1.0,
    shape: Sequence[int] = (2, 3),
    dtype: str = "FLOAT",
    **says: object,
) -> bytes:
    """A plan that the double runs: ``x`` in, ``y`` out.

    Args:
        us: Microseconds of one execution.
        gain: ``y / x``.
        shape: Of both.
        dtype: Of both, as the library names it.
        says: ``dies`` or ``fails``: when it runs; ``host``: tensors that are read on the host.
    """
    tensor = [dtype, list(shape)]
    facts = {"inputs": {"x": tensor}, "outputs": {"y": tensor}, "us": us, "gain": gain}
    return json.dumps(facts | {"count": math.prod(shape)} | says).encode()


class Double:
    """An installed double.

    Args:
        folder: Where it lies.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._calls = folder / "calls.jsonl"

    def builds(self, model: str, plan: bytes) -> None:
        """Let the builder make this plan, not ``b"plan"``, of a model whose file has this stem."""
        (self._folder / f"{model}.engine").write_bytes(plan)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """What the child process called, in order."""
        return [json.loads(line) for line in self._calls.read_text().splitlines()]

    def called(self, key: str) -> list[Any]:
        """What was recorded under one key."""
        return [call[key] for call in self.calls if key in call]


def install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, *, version: str, mode: str = "plan"
) -> Double:
    """Put a double of a library before everything else.

    Args:
        folder: Made if it does not exist.
        monkeypatch: Takes it away again.
        version: Release of TensorRT, such as 10.13.3.9, or of TensorRT for RTX, 1.7.1.116.
        mode: ``plan`` (four bytes), or how it fails; the source above has the names.
    """
    minor = ".".join(version.split(".")[:2])
    rtx = version.startswith("1.")
    # `STRONGLY_TYPED` was renumbered in 11.0, when `EXPLICIT_BATCH` went.
    values = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": int(version.startswith("10."))}
    source = _SOURCE.replace("{mode!r}", repr(mode)).replace("{values!r}", repr(values))
    source = source.replace("{api!r}", repr(FACTS["rtx" if rtx else minor]))
    folder.mkdir(exist_ok=True)
    (folder / f"tensorrt{'_rtx' if rtx else ''}.py").write_text(source, encoding="utf-8")
    (folder / "listing.txt").write_text(_LISTING, encoding="utf-8")
    (folder / "inspector.json").write_text(json.dumps(_INSPECTOR), encoding="utf-8")
    name = "tensorrt-rtx-cu13" if rtx else "tensorrt-cu13"
    metadata = folder / f"{name.replace('-', '_')}-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(exist_ok=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return Double(folder)
