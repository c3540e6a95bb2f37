"""Feeds from Python: a mapping of arrays, an iterable of feeds, or a function that returns one."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.data.chunk import Chunk, array_column
from qcompiler.data.spec import Array
from qcompiler.errors import InputError

EXAMPLE = "yield one dict a sample: {'input': array}"
"""What a loader should do, for hints."""


@dataclass(frozen=True)
class MappingReader:
    """Arrays by input name, all samples at once; nothing is copied.

    Attributes:
        source: For messages.
        arrays: Input name -> array-like.
    """

    source: str
    arrays: Mapping[str, object]

    @property
    def chunk_count(self) -> int:
        """One chunk."""
        return 1

    def chunks(self) -> Generator[Chunk, None, None]:
        """The one chunk.

        Yields:
            All arrays.

        Raises:
            InputError: A value is no array.
        """
        yield item_chunk(self.arrays, self.source, start=0)


@dataclass(frozen=True)
class ItemsReader:
    """One chunk for each item of an iterator.

    Attributes:
        source: For messages.
        begin: Starts a pass, or raises InputError if that is not possible again.
        chunk_count: Number of items if known, and beginning a pass costs nothing.
    """

    source: str
    begin: Callable[[], Iterator[object]]
    chunk_count: int | None = None

    def chunks(self) -> Generator[Chunk, None, None]:
        """Ask for one item after the other.

        Yields:
            One chunk an item.

        Raises:
            InputError: An item is not a dict of arrays, or a second pass is impossible.
        """
        for number, item in enumerate(self.begin()):
            yield item_chunk(item, f"{self.source}, item {number}", start=None)


class Once:
    """Hands an iterator out one time; the second time says what to pass instead."""

    def __init__(self, source: str, iterator: Iterator[object]) -> None:
        """Keep the iterator.

        Args:
            source: For the message.
            iterator: What to hand out.
        """
        self._source = source
        self._iterator: Iterator[object] | None = iterator

    def __call__(self) -> Iterator[object]:
        """The iterator.

        Returns:
            The iterator, the first time.

        Raises:
            InputError: It was handed out before.
        """
        iterator, self._iterator = self._iterator, None
        if iterator is None:
            raise InputError(
                "the data is a generator, which can be read only once, and it was read already",
                where=self._source,
                hint="pass a list, or the function that makes the generator (without calling it)",
            )
        return iterator


def python_reader(
    source: Mapping[str, object] | Iterable[object] | Callable[[], object],
) -> MappingReader | ItemsReader:
    """Choose the reader for a Python object.

    Args:
        source: A mapping of arrays; any iterable of feeds; or a function without arguments that
            returns either.

    Returns:
        The reader. A list, another re-iterable or a function can be read again, an iterator only
        once.

    Raises:
        InputError: It is none of these.
    """
    label = type(source).__name__
    if isinstance(source, Mapping):
        return MappingReader(label, source)
    if isinstance(source, (np.ndarray, str, bytes)):
        raise InputError(
            f"the data is a bare {label} without input names", hint="pass {'input': array}"
        )
    if isinstance(source, Iterator):
        return ItemsReader(label, Once(label, source))
    if isinstance(source, Sequence):
        return ItemsReader(label, lambda: iter(source), len(source))
    if isinstance(source, Iterable):
        return ItemsReader(label, lambda: iter(source))
    if callable(source):
        name = getattr(source, "__qualname__", label)
        return ItemsReader(name, lambda: iter_result(source(), name))
    raise InputError(
        f"the data is {_article(source)}, which is no source of samples",
        hint="pass a path, a dict of arrays, an iterable of dicts, or a function that returns one",
    )


def iter_result(result: object, source: str) -> Iterator[object]:
    """Items of what a data function returned.

    Args:
        result: A generator or another iterable of feeds; a mapping of arrays counts as one item.
        source: For the message.

    Returns:
        The items.

    Raises:
        InputError: It cannot be iterated.
    """
    if isinstance(result, Mapping):
        return iter([result])
    if not isinstance(result, Iterable):
        raise InputError(
            f"expected an iterator of dicts from the data function, found {_article(result)}",
            where=source,
            hint=EXAMPLE,
        )
    return iter(result)


def item_chunk(item: object, where: str, start: int | None) -> Chunk:
    """Turn one mapping of array-likes into a chunk.

    Args:
        item: Input name -> array, tensor (on the CPU), list or number.
        where: For messages.
        start: Number of its first sample; None numbers on.

    Returns:
        The chunk; arrays are not copied.

    Raises:
        InputError: It is no mapping, a key is no string, or a value is no array of numbers.
    """
    if not isinstance(item, Mapping):
        raise InputError(
            f"expected a dict {{input name: array}}, found {_article(item)}",
            where=where,
            hint=EXAMPLE,
        )
    for key in item:
        if not isinstance(key, str):
            raise InputError(
                f"expected input names as keys, found {key!r}, {_article(key)}",
                where=where,
                hint=EXAMPLE,
            )
    return Chunk(
        where, {key: array_column(_array(key, value, where)) for key, value in item.items()}, start
    )


def _array(name: str, value: object, where: str) -> Array:
    try:
        array = np.asarray(value)
    except Exception as error:  # a foreign __array__ may raise anything
        raise InputError(
            f"input {name!r}: {_article(value)} cannot be made a NumPy array: {error}",
            where=where,
            hint="give numpy arrays: tensor.detach().cpu().numpy(); rows of one array have one "
            "length",
        ) from error
    strings = array.dtype.hasobject and all(isinstance(item, str | bytes) for item in array.flat)
    if array.dtype.hasobject and not strings:
        raise InputError(
            f"input {name!r}: expected numbers, found an array of Python objects",
            where=where,
            hint="give one dtype and one length for all rows: numpy.asarray(values, "
            "dtype=numpy.float32)",
        )
    return array


def _article(value: object) -> str:
    name = type(value).__name__
    return f"an {name}" if name[0].lower() in "aeiou" else f"a {name}"
