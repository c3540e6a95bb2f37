"""``.npz`` files: keys are input names, the first axis counts samples; members are read in step."""

from __future__ import annotations

import zipfile
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from qcompiler.data.chunk import Chunk, Column
from qcompiler.data.npyformat import Stored, stored_column
from qcompiler.errors import InputError


@dataclass(frozen=True)
class NpzReader:
    """One ``.npz`` file or several, each a chunk; they may differ in length and in free axes.

    Attributes:
        source: What the user gave.
        files: The files in order.
    """

    source: str
    files: Sequence[Path]

    @property
    def chunk_count(self) -> int:
        """Number of files."""
        return len(self.files)

    def chunks(self) -> Generator[Chunk, None, None]:
        """Open one file after the other; rows are decompressed as they are asked for.

        Yields:
            One chunk a file, numbered from 0 within the file.

        Raises:
            InputError: A file is no ``.npz``, is truncated or damaged, or holds Python objects.
        """
        for path in self.files:
            try:
                archive = zipfile.ZipFile(path)
            except (OSError, zipfile.BadZipFile) as error:
                raise InputError(
                    f"expected an .npz file (a zip of arrays), found something else: {error}",
                    where=str(path),
                    hint="the file may be truncated; write it with numpy.savez(path, "
                    "input_name=array)",
                ) from error
            with archive:
                yield Chunk(str(path), _columns(archive, str(path)))


def _columns(archive: zipfile.ZipFile, where: str) -> dict[str, Column]:
    columns = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        stored = Stored(partial(archive.open, info), info.file_size, f"array {name!r}", where)
        columns[name] = stored_column(stored)
    return columns
