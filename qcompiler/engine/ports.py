"""The inputs and outputs of a model as a server must know them: name, element type, shape."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from qcompiler.graph import Tensor


class Port(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One input or output.

    Attributes:
        name: Its name.
        dtype: Element type as numpy or ml_dtypes calls it (``float32``, ``bfloat16``,
            ``float8_e4m3fn``), ``string``, or empty for what is no tensor.
        shape: One entry an axis: a size, the name of a free axis, or null for a free axis without
            a name. Null: the rank is unknown.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


def ports(tensors: Iterable[Tensor]) -> tuple[Port, ...]:
    """Inputs or outputs of a graph, in its order."""
    return tuple(_port(tensor) for tensor in tensors)


def _port(tensor: Tensor) -> Port:
    dtype = tensor.dtype
    name = "" if dtype is None else "string" if dtype.kind in "OSUT" else dtype.name
    shape = (
        None if tensor.shape is None else tuple(d or None if d == "" else d for d in tensor.shape)
    )
    return Port(tensor.name, name, shape)
