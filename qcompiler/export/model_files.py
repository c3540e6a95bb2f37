"""A model file and the weights beside it, found and copied as they are."""

from __future__ import annotations

import shutil
from pathlib import Path, PurePosixPath

import onnx
from onnx import TensorProto

from qcompiler import protos, weights
from qcompiler.errors import InputError


def external_files(model: Path) -> dict[str, Path]:
    """The files that hold the external data of a model.

    Args:
        model: An ONNX file that :func:`~qcompiler.load.load` accepts.

    Returns:
        Location relative to the model's folder, with ``/`` -> file; sorted.

    Raises:
        InputError: One is missing, or lies outside the model's folder (rule A08).
    """
    proto = onnx.load(model, load_external_data=False)
    nodes = [n for f in proto.functions for n in f.node]
    tensors = [
        *protos.constants_inside(proto.graph),
        *(t for n in nodes for t in protos.constants_of(n)),
    ]
    found = {}
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL:
            path, _, _ = weights.external_place(tensor, model.parent)
            found[path.relative_to(model.parent).as_posix()] = path
    return dict(sorted(found.items()))


def copy_model(model: Path, folder: Path, name: str) -> Path:
    """Copy a model with its external data; no byte changes, links become files.

    Args:
        model: An ONNX file.
        folder: An existing folder.
        name: File name of the copy.

    Returns:
        The copy.

    Raises:
        InputError: As :func:`external_files`, or the weights file has the name of the copy.
    """
    for location, file in external_files(model).items():
        if location == name:
            raise InputError(
                f"the weights file is called {name}, as the copy of the model must be",
                where=str(file),
                hint="save the model with its external data under another name",
            )
        target = folder / PurePosixPath(location)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    copy = folder / name
    shutil.copyfile(model, copy)
    return copy
