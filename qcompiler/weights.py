"""Tensors on disk: read one at a time, write append-only, never the whole model in memory.

ONNX stores a constant either inside the model file or, for models over protobuf's 2 GiB limit, as
*external data*: a file beside the model, an offset and a length (onnx.proto3, ``TensorProto.
external_data``).  This module reads both with the checks that a hostile file makes necessary and
writes the second form.  A tensor read from disk is a memory map; its pages belong to the kernel.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes  # noqa: F401  (registers bfloat16, float8, int4 with numpy)
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from qcompiler.errors import InputError

Array = NDArray[Any]

# Page-aligned tensors can be mapped on their own.
ALIGNMENT = 4096
# Smaller constants stay in the model file: shape inference must be able to read them.
INLINE_BYTES = 1024
_PACKED_BITS: dict[int, int] = {
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.FLOAT4E2M1: 4,
    TensorProto.INT2: 2,
    TensorProto.UINT2: 2,
}
_COMPLEX = (TensorProto.COMPLEX64, TensorProto.COMPLEX128)
_CHUNK = 1 << 24


def stored_bytes(proto: TensorProto) -> int:
    """Bytes that a tensor of this type and shape takes, packed types included.

    Raises:
        InputError: A dimension is negative or the element type is unknown.
    """
    if any(d < 0 for d in proto.dims):
        raise InputError(
            f"constant has a negative dimension: {list(proto.dims)}",
            where=proto.name,
            hint="the file is damaged; export the model again",
        )
    count: int = math.prod(proto.dims)
    if proto.data_type in _PACKED_BITS:
        bits: int = _PACKED_BITS[proto.data_type]
        return (count * bits + 7) // 8
    try:
        itemsize: int = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type).itemsize
    except KeyError:
        raise InputError(
            f"constant has the unknown element type {proto.data_type}",
            where=proto.name,
            hint="the model was written by a newer onnx; upgrade the onnx package",
        ) from None
    return count * itemsize


def check_tensor(proto: TensorProto, folder: Path | None) -> None:
    """Refuse a tensor whose declared size is not what is stored, before anything is allocated.

    Args:
        proto: An initializer.
        folder: Folder of the model file, against which external data resolve; None if the model
            did not come from a file.

    Raises:
        InputError: Size and shape disagree, or external data are missing, too short, or lie
            outside the model's folder (rule A08).
    """
    if proto.data_type == TensorProto.STRING:
        return
    expected = stored_bytes(proto)
    if proto.data_location == TensorProto.EXTERNAL:
        path, offset, length = external_place(proto, folder)
        size = path.stat().st_size
        if length != expected or offset + length > size:
            raise InputError(
                f"external data hold {min(length, max(size - offset, 0))} bytes, the shape "
                f"{list(proto.dims)} needs {expected}",
                where=f"{proto.name} in {path.name}",
                hint="the weights file is truncated or belongs to another model; fetch both again",
            )
        return
    if proto.HasField("raw_data"):
        found = len(proto.raw_data)
    else:
        field = onnx.helper.tensor_dtype_to_field(proto.data_type)
        values, count = len(getattr(proto, field)), math.prod(proto.dims)
        per_value = {"int32_data": 8 // _PACKED_BITS.get(proto.data_type, 8)}.get(field, 1)
        complex_parts = 2 if proto.data_type in _COMPLEX else 1
        needed = -(-count * complex_parts // per_value)
        found = expected * values // needed if needed else values
    if found != expected:
        raise InputError(
            f"constant of shape {list(proto.dims)} needs {expected} bytes, the file holds {found}",
            where=proto.name,
            hint="the file is damaged or was stripped of its weights; export the model again",
        )


def external_place(proto: TensorProto, folder: Path | None) -> tuple[Path, int, int]:
    """Where an external tensor lies: file, offset and length in bytes.

    A link is followed only to a file inside the model's folder or inside the folder that the
    model file itself is a link to (the layout of a Hugging Face cache).

    Raises:
        InputError: No location, a path that leaves the folder, or no such file.
    """
    entries = {e.key: e.value for e in proto.external_data}
    location = entries.get("location", "")
    where = f"{proto.name}, external data {location!r}"
    if folder is None:
        raise InputError(
            "the model keeps weights in another file, but its own folder is not known",
            where=where,
            hint="pass the path of the model instead of its bytes",
        )
    relative = Path(location)
    if not location or relative.is_absolute() or ".." in relative.parts:
        raise InputError(
            "external data must lie inside the model's folder",
            where=where,
            hint="move the weights file beside the model and save the model again",
        )
    path = folder / relative
    if not path.is_file():
        raise InputError(
            "the weights file of the model is missing",
            where=f"{proto.name}, {path}",
            hint="put the file beside the model under exactly this name",
        )
    links = (p.resolve().parent for p in folder.glob("*.onnx") if p.is_symlink())
    homes = [folder.resolve(), *links]
    real = path.resolve()
    if not any(real.is_relative_to(home) for home in homes):
        raise InputError(
            "external data are a link that leaves the model's folder",
            where=f"{where} -> {real}",
            hint="copy the weights file beside the model",
        )
    return path, *_extent(entries, path, where, stored_bytes(proto))


def _extent(entries: dict[str, str], path: Path, where: str, needed: int) -> tuple[int, int]:
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", needed))
    except ValueError:
        offset = length = -1
    if offset < 0 or length < 0:
        raise InputError(
            "external data have an offset or length that is no positive number",
            where=where,
            hint=f"the model file is damaged; save it again ({path.name})",
        )
    return offset, length


def read(proto: TensorProto, folder: Path | None) -> Array:
    """The values of a constant, read-only; a memory map if they are external data.

    Args:
        proto: An initializer or a ``Constant`` attribute.
        folder: Folder of the model file.

    Returns:
        Array of the tensor's shape; 16-bit, 8-bit and 4-bit floats as their ``ml_dtypes`` type.

    Raises:
        InputError: As ``check_tensor``.
    """
    check_tensor(proto, folder)
    if proto.data_location != TensorProto.EXTERNAL:
        array = numpy_helper.to_array(proto)
    else:
        path, offset, length = external_place(proto, folder)
        if length == 0 or proto.data_type in _PACKED_BITS:
            inline = TensorProto(name=proto.name, data_type=proto.data_type, dims=proto.dims)
            with path.open("rb") as file:
                file.seek(offset)
                inline.raw_data = file.read(length)
            array = numpy_helper.to_array(inline)
        else:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(proto.data_type)
            array = np.memmap(path, dtype, "r", offset, tuple(proto.dims))
    array.flags.writeable = False
    return array


def copy_bytes(proto: TensorProto, folder: Path | None, out: BinaryIO) -> int:
    """Append the raw little-endian bytes of a constant to ``out``; return how many."""
    if proto.data_location == TensorProto.EXTERNAL:
        path, offset, length = external_place(proto, folder)
        left = length
        with path.open("rb") as file:
            file.seek(offset)
            while left:
                chunk = file.read(min(left, _CHUNK))
                out.write(chunk)
                left -= len(chunk)
        return length
    raw = (
        proto.raw_data
        if proto.HasField("raw_data")
        else numpy_helper.from_array(numpy_helper.to_array(proto)).raw_data
    )
    out.write(raw)
    return len(raw)


class SideCar:
    """An append-only file of tensors; ``put`` returns the proto that points into it.

    Args:
        path: File to write.
        location: Name that protos call it by; the file's own name without one.
    """

    def __init__(self, path: Path, location: str = "") -> None:
        self.path = path
        self.location = location or path.name
        self._file = path.open("wb")
        self._end = 0

    def put(self, proto: TensorProto, folder: Path | None) -> TensorProto:
        """Copy a constant to the end of the file, page-aligned.

        Args:
            proto: Any constant, inline or external.
            folder: Folder against which its external data resolve.

        Returns:
            A proto with the same name, type and shape whose location is this file's name.
        """
        pad = -self._end % ALIGNMENT
        self._file.write(b"\0" * pad)
        offset = self._end + pad
        length = copy_bytes(proto, folder, self._file)
        self._end = offset + length
        out = TensorProto(name=proto.name, data_type=proto.data_type, dims=proto.dims)
        out.data_location = TensorProto.EXTERNAL
        entries = (("location", self.location), ("offset", str(offset)), ("length", str(length)))
        for key, value in entries:
            out.external_data.add(key=key, value=value)
        return out

    def flush(self) -> None:
        """Hand everything to the operating system, so that a memory map sees it."""
        self._file.flush()

    def discard(self) -> None:
        """Close and remove the file and its folder, which nobody needs any more."""
        self._file.close()
        shutil.rmtree(self.path.parent, ignore_errors=True)

    def close(self) -> None:
        """Write through to the disk and close."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary name in the same folder that becomes ``path`` only if the block succeeds.

    The file is flushed to the disk before the rename, so that after a crash ``path`` is either
    the old file or the complete new one.

    Raises:
        InputError: The folder does not exist or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.open("wb").close()
    except OSError as error:
        raise InputError(
            f"cannot write here: {error.strerror}",
            where=str(path),
            hint="create the folder or choose another output path",
        ) from error
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
