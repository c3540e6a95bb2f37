"""Checks of names, dtypes, shapes and values; a failure says sample, input, expected and found."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

import numpy as np

from qcompiler.data.chunk import Chunk, Column, Origin
from qcompiler.data.spec import Array, Axis, Feeds, InputSpec, Role, list_inputs, show
from qcompiler.errors import InputError

# Casts that lose nothing, and float64, which is merely NumPy's default for everything computed.
_CASTS = {"int64": ("int32",), "float32": ("float16", "float64")}


def check_names(chunk: Chunk, specs: Sequence[InputSpec], sample: int) -> None:
    """Every column must be an input, and every input a column, except a cache to be fed empty.

    Args:
        chunk: The columns.
        specs: The model's inputs.
        sample: Number of the chunk's first sample, for the message.

    Raises:
        InputError: A name is unknown or missing.
    """
    names = [spec.name for spec in specs]
    for name in chunk.columns:
        if name not in names:
            close = difflib.get_close_matches(name, names, n=1)
            guess = f"did you mean {close[0]!r}? " if close else ""
            raise InputError(
                f"sample {sample}: {name!r} is no input of the model",
                where=chunk.where,
                hint=f"{guess}the model's inputs are: {list_inputs(specs)}",
            )
    missing = [
        spec for spec in specs if spec.name not in chunk.columns and spec.length_axis is None
    ]
    if missing:
        raise missing_error(missing, list(chunk.columns), Origin(chunk.where, sample))


def missing_error(
    missing: Sequence[InputSpec], present: Sequence[str], origin: Origin
) -> InputError:
    """The error for inputs that the data lacks.

    Args:
        missing: Inputs without data.
        present: Names that the data has.
        origin: The first sample that lacks them.

    Returns:
        The exception, to be raised.
    """
    plural = "s" if len(missing) > 1 else ""
    return InputError(
        f"sample {origin.sample}: the data lacks the model's input{plural} {list_inputs(missing)}",
        where=origin.where,
        hint=f"the data has {', '.join(map(repr, present)) or 'no arrays'}; add one array for each "
        "input, by its name",
    )


def check_column(column: Column, spec: InputSpec, complete: bool, origin: Origin) -> None:
    """Dtype and row shape of a column of the right rank, from its header alone.

    Args:
        column: Shape ``[rows, *spec.shape[1:]]``, or ``[rows, *spec.shape]`` if ``complete``.
        spec: The input it feeds.
        complete: Each row is a complete input.
        origin: Place and first sample, for the message.

    Raises:
        InputError: The dtype is another one and no safe cast exists, or a fixed axis differs.
    """
    found = column.dtype.newbyteorder("=")
    if not _castable(found, spec.dtype):
        raise _mismatch(
            column, spec, complete, origin, f"cast it: array.astype(numpy.{spec.dtype.name})"
        )
    if spec.shape is None or not column.shape:
        return
    wanted = spec.shape if complete else spec.shape[1:]
    if not _fits(wanted, column.shape[1:]):
        raise _mismatch(column, spec, complete, origin, _shape_hint(column.shape, spec, complete))


def rank_error(column: Column, spec: InputSpec, origin: Origin) -> InputError:
    """The error for an array that has neither the input's rank nor one axis more.

    Args:
        column: The array.
        spec: The input it should feed.
        origin: Place and first sample.

    Returns:
        The exception, to be raised.
    """
    if spec.rank is not None and len(column.shape) == spec.rank - 1:
        hint = "the first axis counts the samples: add it with array[None]"
    else:
        hint = (
            "give the input's rank with the samples along the first axis, "
            "or one axis more with one complete input an entry"
        )
    return _mismatch(column, spec, False, origin, hint)


def check_row(row: Array, spec: InputSpec, origin: Origin) -> Array:
    """Cast one row to the input's dtype and look for NaN and infinity.

    An additive mask hides with minus infinity, so infinities are allowed in a mask.

    Args:
        row: One row of a column that passed ``check_column``.
        spec: The input it feeds.
        origin: Place and sample, for the message.

    Returns:
        The row as ``spec.dtype``, in C order, of unchanged shape.

    Raises:
        InputError: A value is NaN, infinite, or too large for the dtype.
    """
    with np.errstate(over="ignore"):
        cast = np.asarray(row, dtype=spec.dtype, order="C")
    if not _is_float(spec.dtype):
        return cast
    good = ~np.isnan(cast) if spec.role is Role.MASK else np.isfinite(cast)
    if not good.all():
        index = tuple(int(i) for i in np.unravel_index(int(np.argmin(good)), cast.shape))
        value = row[index]
        why = (
            f"{value} does not fit {spec.dtype.name}"
            if np.isfinite(value)
            else f"the value is {value}"
        )
        raise InputError(
            f"sample {origin.sample}, input {spec.name!r}: expected finite numbers, but at index "
            f"{list(index)} {why}",
            where=origin.where,
            hint="repair the sample or remove it; one such value spoils every range after it",
        )
    return cast


def check_feed(feed: Feeds, specs: Sequence[InputSpec], origin: Origin) -> None:
    """A complete feed: shapes as declared, and one size for each symbol.

    Args:
        feed: Input name -> complete input.
        specs: The model's inputs.
        origin: Place and first sample, for the message.

    Raises:
        InputError: An axis has another size than declared, or one symbol has two sizes.
    """
    sizes: dict[str, tuple[int, str, int]] = {}
    for spec in specs:
        shape = feed[spec.name].shape
        if spec.shape is None:
            continue
        if len(shape) != len(spec.shape) or not _fits(spec.shape, shape):
            raise InputError(
                f"sample {origin.sample}, input {spec.name!r}: expected {spec}, "
                f"found {show(feed[spec.name].dtype, shape)}",
                where=origin.where,
            )
        for axis, (symbol, size) in enumerate(zip(spec.shape, shape, strict=True)):
            if not isinstance(symbol, str):
                continue
            first, name, at = sizes.setdefault(symbol, (size, spec.name, axis))
            if first != size:
                raise InputError(
                    f"sample {origin.sample}: axis {symbol!r} is {first} in input {name!r} (axis "
                    f"{at}) "
                    f"but {size} in input {spec.name!r} (axis {axis})",
                    where=origin.where,
                    hint="the model declares them equal: pad or cut one of the two",
                )


def _castable(found: np.dtype[Any], wanted: np.dtype[Any]) -> bool:
    if wanted.kind in "OUST":
        return found.kind in "OUST"
    return found == wanted or found.name in _CASTS.get(wanted.name, ())


def _fits(wanted: Sequence[Axis], found: Sequence[int]) -> bool:
    return all(
        size == axis for axis, size in zip(wanted, found, strict=True) if isinstance(axis, int)
    )


def _is_float(dtype: np.dtype[Any]) -> bool:
    return "float" in dtype.name  # also bfloat16 and float8, whose kind is not "f"


def _mismatch(
    column: Column, spec: InputSpec, complete: bool, origin: Origin, hint: str
) -> InputError:
    wanted = ("samples", *(spec.shape or ())) if complete else spec.shape
    return InputError(
        f"sample {origin.sample}, input {spec.name!r}: expected {show(spec.dtype, wanted)}, "
        f"found {show(column.dtype, column.shape)}",
        where=origin.where,
        hint=hint,
    )


def _shape_hint(found: tuple[int, ...], spec: InputSpec, complete: bool) -> str:
    lead = (0,) if complete else ()
    shape = found[1:] if complete else found
    for order in ((0, 3, 1, 2), (0, 2, 3, 1)):
        moved = tuple(shape[axis] for axis in order) if len(shape) == len(order) else ()
        if moved and spec.shape and _fits(spec.shape[1:], moved[1:]):
            turned = lead + tuple(axis + len(lead) for axis in order)
            return f"the channel axis is elsewhere: array.transpose{turned}"
    if complete:
        return (
            "this array has one axis more than the input, so each entry must be one complete input"
        )
    return "this array has the input's rank: its first axis counts samples, the others must match"
