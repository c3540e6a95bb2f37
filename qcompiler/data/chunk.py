"""What every reader hands on: named columns of rows that are read only when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from qcompiler.data.spec import Array


@dataclass(frozen=True)
class Column:
    """One array, known by its header, read row by row.

    Attributes:
        dtype: Element type.
        shape: Shape of the whole array; its first axis counts the rows. ``()`` is a single value.
        rows: Starts a pass over the rows; each has ``shape[1:]``. A 0-D array has one row, of shape
            ``()``.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    rows: Callable[[], Iterator[Array]]


@dataclass(frozen=True)
class Chunk:
    """Columns that belong together: the arrays of one file, or one item of a loader.

    Attributes:
        where: File or item, for messages.
        columns: Name -> column. The names are not yet checked against the model.
        start: Number of the first row's sample in messages; None: numbered on from the chunk
            before.
    """

    where: str
    columns: Mapping[str, Column]
    start: int | None = 0


@dataclass(frozen=True)
class Origin:
    """Where a row came from, for messages."""

    where: str
    sample: int


class Reader(Protocol):
    """A source of chunks."""

    @property
    def source(self) -> str:
        """What the user gave, for messages and the report."""

    @property
    def chunk_count(self) -> int | None:
        """Number of chunks if known and looking at the first one costs nothing; else None."""

    def chunks(self) -> Generator[Chunk, None, None]:
        """One pass over the data. A chunk is valid until the next one is asked for.

        Raises:
            InputError: The data cannot be read, or it can be read only once and was.
        """


def array_column(array: Array) -> Column:
    """A column over an array that is in memory (or memory-mapped); rows are views.

    Args:
        array: Any shape and dtype.

    Returns:
        Its rows along the first axis; of a 0-D array the value itself.
    """
    return Column(array.dtype, array.shape, lambda: iter(array if array.ndim else [array]))
