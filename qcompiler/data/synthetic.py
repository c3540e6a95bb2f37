"""Deterministic inputs when there is no data: enough to run a model, never enough to judge it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from qcompiler.data.dataset import Dataset
from qcompiler.data.spec import Array, Axis, Feeds, InputSpec, Role, list_inputs
from qcompiler.data.steps import empty_note
from qcompiler.errors import InputError

WARNING = (
    "calibrated on synthetic data: the ranges come from random numbers and say NOTHING about "
    "accuracy; pass real samples with --data"
)
UNKNOWN_ROWS = 64
"""Bound of token ids if the embedding is unknown: character models have 65 rows and more."""
LENGTH = 16
"""Size of a free axis, such as a sequence."""
SIDE = 64
"""Size of a free axis of an image (4 or 5 axes): five halvings leave 2."""
CHANNELS = 3
"""Channels of an image whose channels, height and width are all free."""


@dataclass(frozen=True)
class _Synthetic:
    specs: tuple[InputSpec, ...]
    shapes: tuple[tuple[int, ...], ...]
    seed: int
    samples: int
    source: str = "synthetic"
    synthetic: bool = True

    @property
    def notes(self) -> tuple[str, ...]:
        empty = [
            spec
            for spec, shape in zip(self.specs, self.shapes, strict=True)
            if spec.role is Role.CACHE and 0 in shape
        ]
        notes = [empty_note(empty)] if empty else []
        return (
            f"the inputs are synthetic (seed {self.seed}): "
            "ranges and figures say nothing about accuracy",
            *notes,
        )

    def __iter__(self) -> Iterator[Feeds]:
        for sample in range(self.samples):
            yield {
                spec.name: _values(spec, shape, self.seed, sample)
                for spec, shape in zip(self.specs, self.shapes, strict=True)
            }

    def __length_hint__(self) -> int:
        return self.samples


def synthetic(inputs: Sequence[InputSpec], *, seed: int = 0, samples: int = 8) -> Dataset:
    """Invent inputs from what the graph declares.

    Values: floats standard normal; token ids uniform in ``[0, rows)`` (64 if the rows are unknown);
    masks and other integers 1; booleans true; ``uint8`` images uniform in 0..255. Sample i of an
    input depends on the seed, i and the input's name only.

    Free axes: the first is the batch, 1, and so is its symbol everywhere; the length of a KV cache
    is 0; a symbol such as ``past + seq`` is the sum of its parts; all others are 16, or 64 if an
    input with 4 or 5 axes has them. A symbol has one size everywhere. Channels of an image are
    guessed as 3 if its three last axes are free.

    Args:
        inputs: The model's inputs.
        seed: Of the generator, at least 0.
        samples: Number of feeds.

    Returns:
        The dataset, marked ``synthetic``; iterating again gives the same feeds.

    Raises:
        InputError: An input is a string, has an unknown rank or no role: data is needed.
    """
    hopeless = [spec for spec in inputs if _hopeless(spec)]
    if hopeless:
        raise InputError(
            f"no values can be invented for {list_inputs(hopeless)}",
            hint="give real inputs with --data, for example an .npz with one array for each input",
        )
    sizes = _symbol_sizes(inputs)
    shapes = tuple(
        tuple(_size(spec, axis, sizes) for axis in range(len(spec.shape or ()))) for spec in inputs
    )
    return _Synthetic(tuple(inputs), shapes, seed, samples)


def _hopeless(spec: InputSpec) -> bool:
    return spec.role is Role.OTHER or spec.shape is None or spec.dtype.kind in "OUST"


def _values(spec: InputSpec, shape: tuple[int, ...], seed: int, sample: int) -> Array:
    rng = np.random.default_rng([seed, sample, zlib.crc32(spec.name.encode())])
    if spec.role is Role.MASK or spec.dtype.kind == "b":
        return np.ones(shape, spec.dtype)
    if spec.role is Role.TOKENS:
        return np.asarray(rng.integers(0, spec.rows or UNKNOWN_ROWS, shape), spec.dtype)
    if spec.dtype == np.uint8 and len(shape) == 4:
        return rng.integers(0, 256, shape, dtype=np.uint8)
    if spec.dtype.kind in "iu":
        return np.ones(shape, spec.dtype)
    return np.asarray(rng.standard_normal(shape), spec.dtype)


def _symbol_sizes(specs: Sequence[InputSpec]) -> dict[str, int]:
    """One size a symbol."""
    uses: dict[str, list[tuple[InputSpec, int]]] = {}
    for spec in specs:
        for axis, symbol in enumerate(spec.shape or ()):
            if isinstance(symbol, str):
                uses.setdefault(symbol, []).append((spec, axis))
    sizes = {symbol: _symbol_size(found) for symbol, found in uses.items()}
    return {symbol: _sum(symbol, sizes) for symbol in sizes}


def _symbol_size(uses: Sequence[tuple[InputSpec, int]]) -> int:
    """Size by use: a cache's length before the batch, the batch before everything else."""
    if any(axis == spec.length_axis for spec, axis in uses):
        return 0
    # In a rank-1 input [seq] beside [batch, seq], seq is a length, not the batch.
    if any(axis == 0 and spec.rank != 1 for spec, axis in uses) or all(
        axis == 0 for _, axis in uses
    ):
        return 1
    return max(_free_size(spec, axis) for spec, axis in uses)


def _sum(symbol: str, sizes: dict[str, int]) -> int:
    """Size of a symbol; exporters write sums such as ``past_sequence_length + sequence_length``."""
    terms = [term.strip() for term in symbol.split("+")]
    if len(terms) == 1 or not all(term.isdecimal() or term in sizes for term in terms):
        return sizes[symbol]
    return sum(int(term) if term.isdecimal() else sizes[term] for term in terms)


def _size(spec: InputSpec, axis: int, sizes: dict[str, int]) -> int:
    size: Axis = (spec.shape or ())[axis]
    if isinstance(size, int):
        return size
    if isinstance(size, str):
        return sizes[size]
    if axis == 0:
        return 1
    return 0 if axis == spec.length_axis else _free_size(spec, axis)


def _free_size(spec: InputSpec, axis: int) -> int:
    shape = spec.shape or ()
    if len(shape) not in (4, 5) or spec.role in (Role.CACHE, Role.MASK):
        return LENGTH
    if axis == 1 and not any(isinstance(size, int) for size in shape[1:]):
        return CHANNELS
    return SIDE
