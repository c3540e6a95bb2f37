"""What a model wants to be fed: one ``InputSpec`` for each graph input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""An array of any shape and dtype; functions say which they need."""

Axis: TypeAlias = int | str | None
"""Size of an axis: a number, the name of a symbol, or None where nothing is known."""

Feeds: TypeAlias = Mapping[str, Array]
"""Input name -> complete input, of the rank and dtype that the model declares."""


class Role(StrEnum):
    """What an input means, as far as the graph's structure shows."""

    FLOAT = "float"
    """Real numbers: an image, a spectrogram, a recurrent state."""
    TOKENS = "tokens"
    """Indices into an embedding table."""
    MASK = "mask"
    """Attention or padding mask: 1 keeps, 0 hides (or an additive float mask)."""
    CACHE = "cache"
    """Keys or values of earlier positions, concatenated with those of this step."""
    INTEGER = "integer"
    """Other integers and booleans: positions, lengths, a sample rate."""
    OTHER = "other"
    """Strings and whatever else cannot be invented."""


@dataclass(frozen=True)
class InputSpec:
    """One input of the model.

    Attributes:
        name: Its name in the graph.
        dtype: Element type; ``object`` stands for ONNX strings.
        shape: One entry an axis: a size, a symbol, or None (nothing known). None: the rank is
            unknown.
        role: What it means.
        rows: Number of rows of the embedding table that the ids index, if the role is TOKENS.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Axis, ...] | None
    role: Role = Role.FLOAT
    rows: int | None = None

    def __str__(self) -> str:
        """Type and shape as messages print them: ``float32[batch, 3, 32, 32]``."""
        return show(self.dtype, self.shape)

    @property
    def rank(self) -> int | None:
        """Number of axes; None if unknown."""
        return None if self.shape is None else len(self.shape)

    @property
    def fixed_batch(self) -> int | None:
        """Size of the first axis if the model fixes it; else, and for a scalar, None."""
        first = self.shape[0] if self.shape else None
        return first if isinstance(first, int) else None

    @property
    def length_axis(self) -> int | None:
        """Axis of a KV cache that counts the past positions, if it is not fixed; else None.

        A cache is laid out as ``[batch, heads, length, size]`` or ``[batch, length, width]``: of
        several free axes after the first, the last but one is the length.
        """
        if self.role is not Role.CACHE or not self.shape:
            return None
        free = [
            axis for axis, size in enumerate(self.shape) if axis > 0 and not isinstance(size, int)
        ]
        if not free:
            return None
        usual = len(self.shape) - 2
        return usual if usual in free else free[0]


def show(dtype: np.dtype[Any], shape: Sequence[Axis] | None) -> str:
    """A dtype and a shape as messages print them: ``float32[batch, 3, ?, 32]``."""
    name = "string" if dtype.kind in "OUST" else dtype.name
    if shape is None:
        return f"{name}[...]"
    return f"{name}[{', '.join('?' if axis is None else str(axis) for axis in shape)}]"


def list_inputs(specs: Sequence[InputSpec]) -> str:
    """The model's inputs for a hint: ``'x' float32[batch, 4], 'mask' bool[batch]``."""
    return ", ".join(f"{spec.name!r} {spec}" for spec in specs) or "none"
