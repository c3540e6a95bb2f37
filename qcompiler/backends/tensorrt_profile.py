"""The optimization profile of a network: (min, opt, max) of every free axis of every input.

Axes of the same symbol get the same bounds, for the network demands that they agree. A symbol that
is the first axis of some input is a batch and gets (1, 4, 8); any other gets (1, 64, 128). Shapes
given for one input fix its symbols in all other inputs: relations between symbols that a graph does
not state, as a decoder's :math:`total = past + seq`, hold if the given numbers respect them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from qcompiler.errors import InputError

BATCH = (1, 4, 8)
OTHER = (1, 64, 128)

Shape = tuple[int, ...]
Bounds = tuple[int, int, int]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
"""Input -> (min, opt, max) shape."""


@dataclass(frozen=True)
class Input:
    """An input of the parsed network.

    Attributes:
        name: Its name.
        shape: Its dimensions; -1 where free.
        symbols: A name for each axis; an axis that the model does not name has one of its own.
    """

    name: str
    shape: Shape
    symbols: tuple[str, ...]


def complete(inputs: Sequence[Input], given: Profile) -> dict[str, tuple[Shape, Shape, Shape]]:
    """Bounds of every input that has a free axis.

    Args:
        inputs: All inputs of the network.
        given: Bounds of some inputs, free axes or not.

    Returns:
        Input -> (min, opt, max); nothing for inputs without a free axis.

    Raises:
        InputError: A name is unknown, a shape does not fit, min <= opt <= max does not hold, or
            two inputs are given different bounds for one symbol.
    """
    known = {tensor.name: tensor for tensor in inputs}
    for name, shapes in sorted(given.items()):
        _check(name, known, shapes)
    bounds = _defaults(inputs)
    fixed: dict[str, tuple[str, Bounds]] = {}
    for name, shapes in given.items():
        for symbol, low, opt, high in zip(known[name].symbols, *shapes, strict=True):
            other, found = fixed.setdefault(symbol, (name, (low, opt, high)))
            if found != (low, opt, high):
                raise InputError(
                    f"axis '{symbol}' has the bounds {list(found)} in input '{other}' and "
                    f"{[low, opt, high]} in '{name}'",
                    hint="axes of one name must agree; give both inputs the same sizes there",
                )
            bounds[symbol] = (low, opt, high)
    return {t.name: _shapes(t, bounds) for t in inputs if -1 in t.shape}


def _defaults(inputs: Sequence[Input]) -> dict[str, Bounds]:
    batches = {tensor.symbols[0] for tensor in inputs if tensor.symbols}
    symbols = {symbol for tensor in inputs for symbol in tensor.symbols}
    return {symbol: BATCH if symbol in batches else OTHER for symbol in symbols}


def _shapes(tensor: Input, bounds: Mapping[str, Bounds]) -> tuple[Shape, Shape, Shape]:
    axes = list(zip(tensor.shape, tensor.symbols, strict=True))
    low, opt, high = (
        tuple(bounds[symbol][k] if size == -1 else size for size, symbol in axes) for k in range(3)
    )
    return low, opt, high


def _check(name: str, known: Mapping[str, Input], shapes: tuple[Shape, Shape, Shape]) -> None:
    if name not in known:
        names = ", ".join(sorted(known)) or "none"
        raise InputError(f"no input is called '{name}'; the inputs are {names}")
    want = known[name].shape
    for given in shapes:
        fits = len(given) == len(want) and all(
            free in {-1, size} for free, size in zip(want, given, strict=True)
        )
        if not fits:
            raise InputError(
                f"input '{name}' has the shape {list(want)} (-1 is free); "
                f"{list(given)} does not fit",
                hint="give one size an axis",
            )
    if any(not 0 <= low <= opt <= high for low, opt, high in zip(*shapes, strict=True)):
        low, opt, high = (list(shape) for shape in shapes)
        raise InputError(
            f"input '{name}': min {low} <= opt {opt} <= max {high} does not hold on every axis"
        )
