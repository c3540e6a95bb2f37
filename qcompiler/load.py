"""A model file -> a ``Graph``, or one clear error.

Everything hostile or damaged is refused here, before a pass sees it: bytes that are no ONNX,
truncated files, constants whose declared size is not what is stored, external data outside the
model's folder, undefined or doubly defined tensors, cycles.  What is merely unusual (unknown ops,
shapes that onnx's checker misses) passes with a note.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from onnx import ModelProto

from qcompiler import protos, weights
from qcompiler.errors import InputError, VerifyError
from qcompiler.graph import Graph
from qcompiler.verify import DEQUANTIZE, QUANTIZE, check_qdq, check_structure


def load(source: str | Path | bytes | ModelProto, *, strict: bool = True) -> Graph:
    """Load a model for compilation; its file is never written to.

    Args:
        source: Path of an ``.onnx`` file, its bytes, or a ``ModelProto`` (copied).
        strict: Whether to refuse broken Q/DQ nodes, too; who only lists them takes them all.

    Returns:
        The graph; local functions are inlined, tensors in sub-graphs have names that no other
        tensor has, external data stay on disk.

    Raises:
        InputError: No ONNX model, a damaged one, or one that reaches outside its folder.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        model, folder, name = _parse(_read(path), str(path)), path.parent, str(path)
    elif isinstance(source, bytes):
        model, folder, name = _parse(source, "bytes"), None, "bytes"
    else:
        model, folder, name = ModelProto(), None, source.graph.name or "model"
        model.CopyFrom(source)
    _check(model, name)
    if model.functions:
        model = _inline(model, name)
    for initializer in model.graph.initializer:
        weights.check_tensor(initializer, folder)
    try:
        check_structure(model)
        protos.distinct(model.graph)
        graph = Graph.of(model, folder)
        graph.sweep()
    except VerifyError as error:
        raise InputError(
            f"this is not a valid ONNX graph: {error.message}",
            where=f"{name}, {error.where}",
            hint="run onnx.checker.check_model on it; the exporter wrote a broken graph",
        ) from error
    if any(t.data_location == onnx.TensorProto.EXTERNAL for t in model.graph.initializer):
        graph.spill()
    if strict:
        _check_quantization(graph, name)
    return graph


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(
            "no such file", where=str(path), hint="check the path of the model"
        ) from None
    except OSError as error:
        raise InputError(
            f"cannot read the model: {error.strerror}", where=str(path), hint="pass an .onnx file"
        ) from error


def _parse(data: bytes, name: str) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        text = data[:64].lstrip()
        pointer = text.startswith(b"version https://git-lfs")
        raise InputError(
            "this is a Git LFS pointer, not the model" if pointer else "this is not an ONNX file",
            where=name,
            hint="run `git lfs pull`" if pointer else "the file is truncated or of another format",
        ) from None
    return model


def _check(model: ModelProto, name: str) -> None:
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise InputError(
            "the file holds no graph", where=name, hint="it is empty or not an ONNX model"
        )
    if not any(o.domain in ("", "ai.onnx") for o in model.opset_import) and any(
        n.domain in ("", "ai.onnx") for n in model.graph.node
    ):
        raise InputError(
            "the model does not say which operator set it uses",
            where=name,
            hint="the exporter must write opset_import; export the model again",
        )


def _check_quantization(graph: Graph, name: str) -> None:
    """Refuse broken Q/DQ nodes that came with the model; later they would look like our bug."""
    if not any(n.op in (QUANTIZE, DEQUANTIZE) for n in graph.nodes):
        return
    graph.infer()
    try:
        check_qdq(graph)
    except VerifyError as error:
        raise InputError(
            f"the model is already quantized, and a quantization node {error.message}",
            where=f"{name}, {error.where}",
            hint="correct the node, or start from the float model",
        ) from error


def _inline(model: ModelProto, name: str) -> ModelProto:
    """Replace calls of local functions by their bodies, brought to the model's operator set.

    Raises:
        InputError: They call themselves, or are written for an operator set that cannot be reached.
    """
    imported = {o.domain for o in model.opset_import}
    for entry in (o for f in model.functions for o in f.opset_import):
        if entry.domain not in imported:
            imported.add(entry.domain)
            model.opset_import.add(domain=entry.domain, version=entry.version)
    reason = "they need another version of an operator set than the model"
    try:
        inlined = onnx.inliner.inline_local_functions(model, convert_version=True)
    except Exception as error:  # noqa: BLE001  (the inliner raises several unrelated types)
        inlined, reason = model, str(error).strip()
    if inlined.functions:
        raise InputError(
            f"the local functions of the model cannot be inlined: {reason}",
            where=f"{name}, function {inlined.functions[0].name}",
            hint="export the model again without functions, or with one opset for all",
        )
    return inlined
