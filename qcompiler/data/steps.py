"""Rows to feeds: fill every input, feed an absent cache empty, drop an incomplete last group."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from qcompiler.data.check import check_feed, missing_error
from qcompiler.data.chunk import Chunk, Origin
from qcompiler.data.layout import Lane, Row, plan_chunk, samples_per_feed
from qcompiler.data.spec import Array, Feeds, InputSpec
from qcompiler.errors import InputError

Note = Callable[[str], object]


def feeds(
    chunks: Iterable[Chunk], specs: Sequence[InputSpec], source: str, note: Note, limit: int | None
) -> Iterator[Feeds]:
    """Stream chunks as complete feeds; at most one feed's rows are in memory.

    A group of the model's fixed batch may span chunks (a folder with one sample a file, batch 8).

    Args:
        chunks: The data, in order.
        specs: The model's inputs.
        source: For messages.
        note: Called with everything that the user must know.
        limit: Stop as soon as so many samples were given; None for all.

    Yields:
        One feed for each sample, or for each group of the model's fixed batch.

    Raises:
        InputError: The data is wrong, empty, or has fewer samples than the fixed batch.
    """
    pending: dict[str, list[Row]] = {}
    given, size = 0, 1
    for chunk in chunks:
        start = given + _waiting(pending) if chunk.start is None else chunk.start
        lanes = plan_chunk(chunk, specs, start)
        if _waiting(pending) and (
            pending.keys() != _names(lanes) or size != samples_per_feed(lanes)
        ):
            raise InputError(
                f"sample {start}: the arrays are laid out otherwise than in the samples before, "
                f"within one group of {size}",
                where=chunk.where,
                hint="give all samples the same inputs and ranks",
            )
        pending = pending if _waiting(pending) else {lane.spec.name: [] for lane in lanes}
        size = samples_per_feed(lanes)
        _note_casts(lanes, note)
        rows = [(lane, lane.rows(chunk.where, start)) for lane in lanes]
        while _fill(rows, pending):
            yield _assemble(lanes, pending, specs, Origin(chunk.where, start), note)
            given += size
            if limit is not None and given >= limit:
                return
    _finish(given, _waiting(pending), size, source, note)


def empty_note(caches: Sequence[InputSpec]) -> str:
    """What to tell the user about caches that are fed empty.

    Args:
        caches: At least one.

    Returns:
        One sentence, naming the first.
    """
    more = f" and {len(caches) - 1} more" if len(caches) > 1 else ""
    return f"the KV cache is fed empty: {caches[0].name!r}{more}"


def _names(lanes: Sequence[Lane]) -> set[str]:
    return {lane.spec.name for lane in lanes}


def _waiting(pending: dict[str, list[Row]]) -> int:
    return max(map(len, pending.values()), default=0)


def _note_casts(lanes: Sequence[Lane], note: Note) -> None:
    for lane in lanes:
        found, wanted = lane.column.dtype.newbyteorder("="), lane.spec.dtype
        if found != wanted and wanted.kind not in "OUST":
            note(f"input {lane.spec.name!r}: {found.name} data cast to {wanted.name}")


def _fill(rows: Sequence[tuple[Lane, Iterator[Row]]], pending: dict[str, list[Row]]) -> bool:
    """Read on until every input has the rows of one feed; False if the chunk ends before."""
    full = bool(rows)
    for lane, source in rows:
        waiting = pending[lane.spec.name]
        while len(waiting) < lane.take and (row := next(source, None)) is not None:
            waiting.append(row)
        full = full and len(waiting) == lane.take
    return full


def _assemble(
    lanes: Sequence[Lane],
    pending: dict[str, list[Row]],
    specs: Sequence[InputSpec],
    chunk: Origin,
    note: Note,
) -> Feeds:
    """Join the pending rows to one feed, in the model's order, and check it."""
    origin = pending[lanes[0].spec.name][0].origin if lanes else chunk
    feed = {lane.spec.name: lane.join(pending[lane.spec.name]) for lane in lanes}
    for waiting in pending.values():
        waiting.clear()
    absent = [spec for spec in specs if spec.name not in feed]
    if absent:
        sizes = _sizes(feed, specs)
        for spec in absent:
            feed[spec.name] = _empty_cache(spec, sizes, samples_per_feed(lanes), list(feed), origin)
        note(empty_note(absent))
    check_feed(feed, specs, origin)
    return {spec.name: feed[spec.name] for spec in specs}


def _sizes(feed: Feeds, specs: Sequence[InputSpec]) -> dict[str, int]:
    """Size of every symbol that the feed binds; ranks were checked when the chunk was planned."""
    return {
        symbol: size
        for spec in specs
        if spec.name in feed and spec.shape is not None
        for symbol, size in zip(spec.shape, feed[spec.name].shape, strict=True)
        if isinstance(symbol, str)
    }


def _empty_cache(
    spec: InputSpec, sizes: dict[str, int], batch: int, present: Sequence[str], origin: Origin
) -> Array:
    """A cache of length 0; its other axes must be fixed, the batch, or bound by the feed."""
    length, shape = spec.length_axis, []
    for axis, size in enumerate(spec.shape or ()):
        known = sizes.get(size) if isinstance(size, str) else size
        if axis == length:
            known = known or 0
        elif known is None and axis == 0:
            known = batch
        if known is None or (axis == length and known > 0):
            raise missing_error([spec], present, origin)
        shape.append(known)
    return np.zeros(shape, spec.dtype)


def _finish(given: int, left: int, size: int, source: str, note: Note) -> None:
    if given and left:
        note(
            f"the last {left} of {given + left} samples are dropped: the model's batch is fixed at "
            f"{size}"
        )
    elif left:
        raise InputError(
            f"the model's batch is fixed at {size}, but the data has only {left} "
            f"sample{'s' * (left > 1)}",
            where=source,
            hint=f"give at least {size} samples, or export the model with a dynamic batch axis",
        )
    elif not given:
        raise InputError(
            "the data has no samples",
            where=source,
            hint="the first axis of each array counts the samples",
        )
