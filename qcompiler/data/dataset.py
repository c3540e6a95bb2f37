"""A dataset: feeds in order, one at a time, with what the user must know about them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from operator import length_hint
from typing import Protocol

from qcompiler.data.chunk import Reader
from qcompiler.data.layout import plan_chunk, samples_per_feed
from qcompiler.data.spec import Feeds, InputSpec
from qcompiler.data.steps import feeds


class Dataset(Protocol):
    """Feeds for a model; iterating again gives the same, except over a one-shot iterator."""

    @property
    def source(self) -> str:
        """What the data came from, for messages and the report: ``models/resnet20.calib.npz``."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user must know (cache fed empty, ...); complete after one iteration."""

    @property
    def synthetic(self) -> bool:
        """The values are invented, so ranges found with them say nothing about accuracy."""

    def __iter__(self) -> Iterator[Feeds]:
        """One feed a step, ready for ``session.run``: batch axis 1, or N where the model fixes it.

        Raises:
            InputError: The data is wrong; the message says which sample, which input, expected and
                found.
        """


class Stream:
    """The dataset over a reader.

    ``operator.length_hint(stream, 0)`` estimates the number of feeds (0: unknown) without reading
    data: the feeds of the first chunk times the number of chunks.
    """

    synthetic = False

    def __init__(
        self, reader: Reader, specs: Sequence[InputSpec], limit: int | None = None
    ) -> None:
        """Bind a reader to a model.

        Args:
            reader: Where the arrays come from.
            specs: The model's inputs.
            limit: Give at most so many samples (rounded up to the model's fixed batch); None for
                all.
        """
        self._reader = reader
        self._specs = tuple(specs)
        self._limit = limit
        self._notes: dict[str, None] = {}

    @property
    def source(self) -> str:
        """What the user gave."""
        return self._reader.source

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user must know, each once, as discovered; complete after one iteration."""
        return tuple(self._notes)

    def __iter__(self) -> Iterator[Feeds]:
        """Feeds in order; see ``Dataset``.

        Yields:
            Complete feeds in the model's input order.
        """
        with closing(self._reader.chunks()) as chunks:
            yield from feeds(chunks, self._specs, self.source, self._notes.setdefault, self._limit)

    @property
    def exact_length(self) -> int | None:
        """Number of feeds if it is known for certain without reading the data; else None.

        Raises:
            InputError: Names, dtypes or shapes of the first chunk are wrong.
        """
        return length_hint(self) if self._reader.chunk_count == 1 else None

    def __length_hint__(self) -> int:
        """Estimated number of feeds, 0 if unknown.

        Raises:
            InputError: Names, dtypes or shapes of the first chunk are wrong.
        """
        count = self._reader.chunk_count
        if count is None:
            return 0
        with closing(self._reader.chunks()) as chunks:
            for chunk in chunks:
                lanes = plan_chunk(chunk, self._specs, chunk.start or 0)
                total = math.floor(lanes[0].steps * count) if lanes else 0
                most = (
                    total
                    if self._limit is None
                    else math.ceil(self._limit / samples_per_feed(lanes))
                )
                return min(total, most)
        return 0
