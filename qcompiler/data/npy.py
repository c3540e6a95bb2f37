"""``.npy`` files: the model has one input, or the files are named like the inputs."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qcompiler.data.check import check_names
from qcompiler.data.chunk import Chunk, Column
from qcompiler.data.npyformat import Stored, stored_column
from qcompiler.data.spec import InputSpec, list_inputs
from qcompiler.errors import InputError


@dataclass(frozen=True)
class NpyReader:
    """Chunks of ``.npy`` files.

    Attributes:
        source: What the user gave.
        groups: For each chunk, input name -> file.
    """

    source: str
    groups: Sequence[Mapping[str, Path]]

    @property
    def chunk_count(self) -> int:
        """Number of chunks."""
        return len(self.groups)

    def chunks(self) -> Generator[Chunk, None, None]:
        """Read the headers of one group after the other; rows are read as they are asked for.

        Yields:
            One chunk a group, numbered from 0 within it.

        Raises:
            InputError: A file is no ``.npy``, is truncated, or holds Python objects.
        """
        for group in self.groups:
            where = str(next(iter(group.values()))) if len(group) == 1 else self.source
            yield Chunk(where, {name: _column(path) for name, path in group.items()})


def npy_reader(source: str, files: Sequence[Path], specs: Sequence[InputSpec]) -> NpyReader:
    """Choose what a file is: an input of that name, or samples of the only input.

    Args:
        source: What the user gave.
        files: The files, sorted.
        specs: The model's inputs.

    Returns:
        If every file's stem is an input's name, one chunk with all files; otherwise one chunk a
        file.

    Raises:
        InputError: The model has several inputs and the files are not named like them.
    """
    names = {spec.name for spec in specs}
    if all(path.stem in names for path in files):
        return NpyReader(source, [{path.stem: path for path in files}])
    needed = [spec for spec in specs if spec.length_axis is None] or list(specs)
    if len(needed) == 1:
        return NpyReader(source, [{needed[0].name: path} for path in files])
    if any(path.stem in names for path in files):
        # Some are named like inputs, so all are meant to be: the check says which is wrong.
        check_names(Chunk(source, {path.stem: _column(path) for path in files}), specs, 0)
    raise InputError(
        f"an .npy file has no input names, and the model has {len(needed)} inputs: "
        f"{list_inputs(needed)}",
        where=source,
        hint="name the files after the inputs (x.npy, mask.npy), or use one .npz: "
        "numpy.savez(path, x=..., mask=...)",
    )


def _column(path: Path) -> Column:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"cannot read the file: {error.strerror}", where=str(path)) from error
    return stored_column(Stored(lambda: path.open("rb"), size, "the file", str(path)))
