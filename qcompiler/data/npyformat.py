"""NumPy's ``.npy`` format, row by row from any byte stream: a file or a compressed zip member.

The header is read and checked against the stream's size before any memory is taken, so a header
that promises more than there is costs nothing. Pickled objects are never loaded.
"""

from __future__ import annotations

import lzma
import math
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import numpy as np
from numpy.lib import format as npy

from qcompiler.data.chunk import Column
from qcompiler.data.spec import Array, show
from qcompiler.errors import InputError

_T = TypeVar("_T")

# What zipfile, its decompressors and numpy's header parser raise for damaged bytes.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
    SyntaxError,
)


@dataclass(frozen=True)
class Stored:
    """One array in ``.npy`` format.

    Attributes:
        open: Opens it for one sequential pass, at its first byte.
        size: Its bytes, header included.
        what: What to call it in messages, e.g. ``array 'x'``.
        where: The file.
    """

    open: Callable[[], IO[bytes]]
    size: int
    what: str
    where: str


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]


def stored_column(stored: Stored) -> Column:
    """Read the header and offer the rows as a stream that holds one row at a time.

    An array in Fortran order has no contiguous rows and is read whole.

    Args:
        stored: The array.

    Returns:
        Its column; every pass over the rows opens the array anew.

    Raises:
        InputError: It is not in ``.npy`` format, holds Python objects, or is truncated or damaged.
    """
    try:
        with stored.open() as stream:
            header = _read_header(stream, stored)
            start = stream.tell()
    except _DAMAGE as error:
        raise _damaged(stored, str(error)) from error
    promised = math.prod(header.shape) * header.dtype.itemsize
    if min(header.shape, default=0) < 0 or start + promised != stored.size:
        raise _damaged(
            stored,
            f"its header says {show(header.dtype, header.shape)}, {promised} bytes; it has "
            f"{stored.size - start}",
        )
    return Column(header.dtype, header.shape, lambda: _rows(stored, header))


def _read_header(stream: IO[bytes], stored: Stored) -> _Header:
    version = npy.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = npy.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = npy.read_array_header_2_0(stream)
    else:
        raise ValueError(f"format version {version[0]}.{version[1]} is for structured arrays")
    if dtype.hasobject:
        raise InputError(
            f"{stored.what} holds Python objects (a pickle), which are never loaded because they "
            "can run code",
            where=stored.where,
            hint="save numbers: numpy.asarray(values, dtype=numpy.float32); samples of different "
            "length go into a "
            "folder with one .npz a sample",
        )
    return _Header(tuple(shape), fortran, dtype)


def _rows(stored: Stored, header: _Header) -> Iterator[Array]:
    try:
        stream = stored.open()
    except _DAMAGE as error:
        raise _damaged(stored, str(error)) from error
    with stream:
        if header.fortran and len(header.shape) > 1:
            whole = _guarded(stored, lambda: npy.read_array(stream, allow_pickle=False))
            yield from whole
            return
        _guarded(stored, lambda: _read_header(stream, stored))
        shape = header.shape[1:]
        for _ in range(header.shape[0] if header.shape else 1):
            yield _guarded(stored, lambda: _read(stream, header.dtype, shape))


def _guarded(stored: Stored, read: Callable[[], _T]) -> _T:
    try:
        return read()
    except _DAMAGE as error:
        raise _damaged(stored, str(error)) from error


def _read(stream: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    size = math.prod(shape) * dtype.itemsize
    if size == 0:
        return np.empty(shape, dtype)
    data = stream.read(size)
    if len(data) != size:
        raise EOFError(f"a row needs {size} bytes, {len(data)} are left")
    return np.frombuffer(data, dtype).reshape(shape)


def _damaged(stored: Stored, why: str) -> InputError:
    return InputError(
        f"{stored.what} cannot be read as a NumPy array: {why}",
        where=stored.where,
        hint="the file may be truncated or damaged: write it again with numpy.save or numpy.savez",
    )
