r"""Reads the JSON of TensorRT's engine inspector: the kernels of a finished engine.

``IEngineInspector.getEngineInformation`` and ``trtexec --exportLayerInfo`` write one object, whose
``Layers`` are in execution order. Two layouts are in use (the migration guide of TensorRT 11 tells
the differences)::

    10.x  {"Layers": [...], "Bindings": ["input_0", ...]}
          tensor: {"Name", "Dimensions", "Format/Datatype": "Row major linear FP16 format"}
    11.x  {"Layers": [...], "I/O Tensors": [{"Name", "IOMode", "DataType", ...}]}
          tensor: {"Name", "Dimensions", "Format": "Row major linear", "Datatype": "Half"}

Of a layer, ``Metadata`` names the ONNX nodes; of an older kernel without them its own name is read,
in which TensorRT joins fused nodes by `` + ``. Weights of the older kernels are no tensors but a
type and a count; they become a constant of the shape that the kernel's parameters give. What is
read has the words of :mod:`~qcompiler.engine.listing`, so that every report takes both alike.

An engine that was built without detailed profiling verbosity has names only.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from qcompiler.backends import tensorrt
from qcompiler.backends.tensorrt import FULL
from qcompiler.engine.listing import Layer, Listing, Memory, Tensor
from qcompiler.engine.report import EngineReport, engine_report
from qcompiler.engine.target_string import EngineTarget
from qcompiler.errors import InputError

Object = Mapping[str, Any]

# What the two layouts, and prose about formats, call the types of the listing.
_TYPES = {
    "float": "Float",
    "float32": "Float",
    "fp32": "Float",
    "half": "Half",
    "float16": "Half",
    "fp16": "Half",
    "bfloat16": "BFloat16",
    "bf16": "BFloat16",
    "int8": "Int8",
    "uint8": "UInt8",
    "int32": "Int32",
    "int64": "Int64",
    "bool": "Bool",
    "fp8": "FP8",
    "float8": "FP8",
    "fp8ue8m0": "FP8UE8M0",
    "e8m0": "FP8UE8M0",
    "int4": "Int4",
    "fp4": "FP4E2M1",
    "fp4e2m1": "FP4E2M1",
}
_WORD = re.compile(r"[A-Za-z0-9]+")
# Kernels that are not of the graph compiler, by what they compute; the words of the listing.
_KINDS = {
    "Convolution": "convolution",
    "Deconvolution": "deconv",
    "MatrixMultiply": "gemm",
    "FullyConnected": "gemm",
    "Reformat": "reformat",
    "NoOp": "noop",
}
_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=\[|[\x1e\x1f]|__|\s*$)")
_POINTWISE = re.compile(r"PWN\((.*)\)$")  # fused pointwise nodes: PWN(PWN(sigmoid), mul)
_MAGIC = b"trt"  # behind a letter that differs: vtrt is of TensorRT for RTX
_DETAILED = "build with detailed profiling verbosity (trtexec --profilingVerbosity=detailed)"


class Inspected(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An engine as its inspector tells it.

    Attributes:
        layers: The kernels, in execution order.
        report: The verdict on them; without memory, of which the inspector says nothing.
    """

    layers: tuple[Layer, ...]
    report: EngineReport


def inspected(
    path: Path, model: Path | None = None, target: EngineTarget | None = None
) -> Inspected:
    """Read the inspector's JSON, or ask it, and report.

    Args:
        path: The JSON, or a plan, which is then loaded here.
        model: The very model that the engine was built from; None if it is not at hand.
        target: The library that loads a plan; TensorRT if it is not said.

    Raises:
        InputError: A file cannot be read, or is not of its kind.
        BackendError: The library is missing, or cannot load the plan; a tensor has a type of
            unknown width.
    """
    if is_plan(path):
        layers = parse(describe(path, target or EngineTarget(FULL, "", ())))
    else:
        layers = read(path)
    return Inspected(layers=layers, report=engine_report(Listing(layers, Memory(0, 0, 0)), model))


def is_plan(path: Path) -> bool:
    """Whether a file begins as a plan does; False if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return stream.read(4)[1:] == _MAGIC
    except OSError:
        return False


def describe(plan: Path, target: EngineTarget) -> str:
    """What the engine inspector of a library says of a plan, on this machine's GPU.

    Raises:
        InputError: The file does not exist.
        BackendError: The library is missing, or cannot load the plan.
    """
    target.require()
    return tensorrt.describe(plan, target.library)


def read(path: Path) -> tuple[Layer, ...]:
    """Kernels of a file that trtexec or the engine inspector wrote.

    Raises:
        InputError: The file cannot be read, or is not of this kind.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise InputError(
            "not the JSON of an engine inspector",
            where=str(path),
            hint="a plan itself is no JSON; export its layers with trtexec --exportLayerInfo",
        ) from error
    try:
        return parse(text)
    except InputError as error:
        where = f"{path}: {error.where}" if error.where else str(path)
        raise InputError(error.message, where=where, hint=error.hint) from error


def parse(text: str) -> tuple[Layer, ...]:
    """Kernels, one for each layer, in execution order.

    Args:
        text: What the inspector said.

    Raises:
        InputError: It is no JSON, has no layers, holds names only, or a type is not known.
    """
    try:
        found = json.loads(text, strict=False)  # separators of metadata stand there unescaped
    except json.JSONDecodeError as error:
        raise InputError(
            f"not the JSON of an engine inspector: {error.msg}",
            where=f"line {error.lineno}",
            hint="use LayerInformationFormat.JSON or trtexec --exportLayerInfo",
        ) from error
    layers = found.get("Layers") if isinstance(found, dict) else None
    if not isinstance(layers, list) or not layers:
        raise InputError("no layers in the JSON of an engine inspector", hint=_DETAILED)
    if not all(isinstance(layer, dict) and "LayerType" in layer for layer in layers):
        raise InputError("the engine inspector knows only the names of the layers", hint=_DETAILED)
    return tuple(_layer(layer) for layer in layers)


def _layer(found: Object) -> Layer:
    name = str(found.get("Name", ""))
    try:
        constants = _tensors(found.get("Constants")) + _weights(found)
        return Layer(
            name,
            _kind(found),
            _tensors(found.get("Inputs")),
            constants,
            _tensors(found.get("Outputs")),
            _nodes(found),
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"a layer of the engine inspector has an unknown form: {error}",
            where=f"layer {name}",
            hint="this release does not know the layout; please report it",
        ) from error


def _kind(found: Object) -> str:
    parameter = str(found.get("ParameterType", ""))
    kind = str(found["LayerType"])
    return _KINDS.get(parameter) or _KINDS.get(kind) or kind


def _tensors(found: Any) -> tuple[Tensor, ...]:  # noqa: ANN401 - JSON
    return tuple(_tensor(tensor) for tensor in found or ())


def _tensor(found: Object) -> Tensor:
    format_ = str(found.get("Format") or found.get("Format/Datatype") or "")
    said = found.get("Datatype") or found.get("DataType") or found.get("Format/Datatype")
    dims = tuple(int(size) for size in found["Dimensions"])
    strides = tuple(int(step) for step in found.get("Strides", ()))
    return Tensor(
        str(found["Name"]), dims, _type(str(said or format_)), format_.rstrip("."), strides
    )


def _type(said: str) -> str:
    """The type in a word or in prose.

    Raises:
        ValueError: There is none.
    """
    for word in _WORD.findall(said):
        if word.lower() in _TYPES:
            return _TYPES[word.lower()]
    raise ValueError(f"no known data type in {said!r}")


def _weights(found: Object) -> tuple[Tensor, ...]:
    """Constants that are told as a type and a count."""
    made = []
    for key in ("Weights", "Bias"):
        said = found.get(key)
        if isinstance(said, dict) and int(said.get("Count", 0)):
            count = int(said["Count"])
            dims = _kernel(found, count) if key == "Weights" else (count,)
            made.append(Tensor(key, dims, _type(str(said["Type"])), ""))
    return tuple(made)


def _kernel(found: Object, count: int) -> tuple[int, ...]:
    """Shape of a kernel of ``count`` elements: output maps, inputs of a group, window."""
    window = tuple(int(size) for size in found.get("Kernel", ()))
    maps = int(found.get("OutMaps", 0))
    fixed = maps * math.prod(window)
    if not fixed or count % fixed:
        return (1, count)
    return (maps, count // fixed, *window)


def _nodes(found: Object) -> tuple[str, ...]:
    """ONNX nodes of a layer, each once."""
    named = _NODE.findall(str(found.get("Metadata") or ""))
    if not named and ("ParameterType" in found or "Metadata" not in found):
        for part in str(found.get("Name", "")).split(" + "):
            match = _POINTWISE.match(part)
            named += match[1].replace("PWN(", "").replace(")", "").split(", ") if match else [part]
    return tuple(dict.fromkeys(name.strip() for name in named))
