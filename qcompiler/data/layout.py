"""Which rows of a chunk make one feed: the rank rule and the fixed batch.

For an input of rank k and an array of rank r:

====== ============================ =========================================================
r == k the first axis is the batch  one row a sample; a model that fixes its batch at N takes N
r == k+1 every row is complete      one row a feed (so a 0-D input takes one entry of a vector)
r == 0 == k a constant              the same value in every feed
====== ============================ =========================================================

Let an array have R rows of which a feed takes T. The arrays of a chunk agree if R / T is the same
for all. If it is not, inputs whose own first axis is free follow the batch N that another input
fixes, and R / T is compared again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction
from itertools import repeat

import numpy as np

from qcompiler.data.check import check_column, check_names, check_row, rank_error
from qcompiler.data.chunk import Chunk, Column, Origin
from qcompiler.data.spec import Array, InputSpec
from qcompiler.errors import InputError


class Kind(StrEnum):
    """What one row of a column is."""

    BATCHED = "batched"
    """One sample without the batch axis."""
    COMPLETE = "complete"
    """One complete input."""
    CONSTANT = "constant"
    """The only value, for all feeds."""


@dataclass(frozen=True)
class Row:
    """One checked row and where it came from."""

    value: Array
    origin: Origin


@dataclass(frozen=True)
class Lane:
    """How one input is fed from one column: ``take`` of its ``count`` rows make one feed."""

    spec: InputSpec
    column: Column
    kind: Kind
    count: int
    take: int = 1

    @property
    def steps(self) -> Fraction:
        """Feeds that the column makes; a fraction if its last group is incomplete."""
        return Fraction(self.count, self.take)

    def rows(self, where: str, start: int) -> Iterator[Row]:
        """Rows in order, cast and checked.

        Args:
            where: File or item, for messages.
            start: Number of the first row's sample.

        Yields:
            Each row of ``column.shape[1:]`` as ``spec.dtype``.

        Raises:
            InputError: A value is NaN or infinite, or the data cannot be read.
        """
        if self.kind is Kind.CONSTANT:
            origin = Origin(where, start)
            value = check_row(next(self.column.rows()), self.spec, origin)
            yield from repeat(Row(value, origin), self.count)
            return
        for index, row in enumerate(self.column.rows()):
            origin = Origin(where, start + index)
            yield Row(check_row(np.asarray(row), self.spec, origin), origin)

    def join(self, rows: Sequence[Row]) -> Array:
        """Make one complete input of ``take`` rows.

        Args:
            rows: ``take`` rows.

        Returns:
            For batched rows ``[take, *row]``; otherwise the row itself, which all rows must equal.

        Raises:
            InputError: The rows of one group differ in shape, or a scalar differs within a group.
        """
        values = [row.value for row in rows]
        if self.kind is not Kind.BATCHED:
            self._require(all(np.array_equal(value, values[0]) for value in values), rows, "value")
            return values[0]
        if len(values) == 1:
            return values[0][None]
        self._require(len({value.shape for value in values}) == 1, rows, "shape")
        return np.stack(values)

    def _require(self, same: bool, rows: Sequence[Row], what: str) -> None:
        if same:
            return
        first, last = rows[0].origin, rows[-1].origin
        raise InputError(
            f"samples {first.sample} to {last.sample}, input {self.spec.name!r}: expected one "
            f"{what}, because the model's "
            f"batch is fixed at {self.take}, found several",
            where=first.where,
            hint="sort or pad the samples so that those of one batch agree",
        )


def plan_chunk(chunk: Chunk, specs: Sequence[InputSpec], start: int) -> tuple[Lane, ...]:
    """Check a chunk against the model, from names and headers alone, and say how it is fed.

    Args:
        chunk: The columns.
        specs: The model's inputs.
        start: Number of the chunk's first sample, for messages.

    Returns:
        One lane for each input that the chunk has, in the model's order, all with the same
        ``steps``.

    Raises:
        InputError: A name, dtype or shape is wrong, or the arrays disagree on the number of
            samples.
    """
    check_names(chunk, specs, start)
    origin = Origin(chunk.where, start)
    lanes = [
        _lane(chunk.columns[spec.name], spec, origin)
        for spec in specs
        if spec.name in chunk.columns
    ]
    batch = max((lane.take for lane in lanes), default=1)
    for plan in (lanes, [_follow(lane, batch) for lane in lanes]):
        steps = {lane.steps for lane in plan if lane.kind is not Kind.CONSTANT}
        if len(steps) <= 1:
            return tuple(_spread(lane, batch, next(iter(steps), Fraction(1))) for lane in plan)
    counts = ", ".join(
        f"{lane.spec.name!r} has {lane.count}" for lane in lanes if lane.kind is not Kind.CONSTANT
    )
    raise InputError(
        f"sample {start}: the arrays disagree on the number of samples: {counts}",
        where=chunk.where,
        hint="the first axis counts the samples; an input whose first axis is not the batch needs "
        "one axis more, "
        "with one complete input an entry",
    )


def samples_per_feed(lanes: Sequence[Lane]) -> int:
    """Number of samples in one feed of these lanes: the batch that the model fixes, or 1."""
    return min((lane.take for lane in lanes if lane.kind is Kind.BATCHED), default=1)


def _lane(column: Column, spec: InputSpec, origin: Origin) -> Lane:
    rank = len(column.shape)
    count = column.shape[0] if column.shape else 1
    if rank == spec.rank == 0:
        kind, take = Kind.CONSTANT, 1
    elif rank == spec.rank or (spec.rank is None and rank > 0):
        kind, take = Kind.BATCHED, spec.fixed_batch or 1
    elif spec.rank is not None and rank == spec.rank + 1:
        kind, take = Kind.COMPLETE, 1
    else:
        raise rank_error(column, spec, origin)
    check_column(column, spec, kind is Kind.COMPLETE, origin)
    return Lane(spec, column, kind, count, take)


def _follow(lane: Lane, batch: int) -> Lane:
    free = lane.kind is Kind.BATCHED and lane.spec.fixed_batch is None
    scalar = lane.kind is Kind.COMPLETE and lane.spec.rank == 0
    return replace(lane, take=batch) if free or scalar else lane


def _spread(lane: Lane, batch: int, steps: Fraction) -> Lane:
    """Repeat a constant for each sample, so that a group over two chunks sees it change."""
    if lane.kind is not Kind.CONSTANT:
        return lane
    return replace(lane, count=int(steps * batch), take=batch)
