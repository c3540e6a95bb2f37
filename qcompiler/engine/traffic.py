"""What a kernel moves: bytes read and written, by the dimensions and types in the listing.

This counts tensors, not cache lines: what a kernel reads twice from memory, or finds in a cache,
cannot be seen at build time. The figure compares two engines of one model; it is no run time.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from qcompiler.engine.listing import Layer, Tensor
from qcompiler.errors import BackendError

BITS = {
    "Float": 32,
    "Half": 16,
    "BFloat16": 16,
    "Int8": 8,
    "UInt8": 8,
    "Bool": 8,
    "FP8": 8,
    "FP8UE8M0": 8,
    "Int4": 4,
    "FP4E2M1": 4,
    "Int32": 32,
    "Int64": 64,
}
"""Bits of an element, by the listing's name of its type."""

# Order streams, jump, or compute shapes on the host.
_CONTROL = frozenset(
    {"shape_call", "signal", "wait", "jmp", "cjmp", "ShapeHostToDevice", "noop", "Constant"}
)
# These are kernels only where they work on more than a shape or a flag.
_SCALAR = frozenset({"memset", "copy", "cast", "reshape", "add", "sub", "mul", "div"})
_SHAPE_ELEMENTS = 8
# The four letters by which the name of a generated kernel lists what it does.
_STEPS = re.compile(r"[A-Z][a-z0-9]*|[^A-Z]+")
_MOVES = frozenset({"Tran", "Move", "Resh", "Repl", "Conc", "Slic", "Cast"})
_DECORATION = re.compile(r"^__myl_|_myl\d+.*$")


def is_bookkeeping(layer: Layer) -> bool:
    """Whether a layer moves no tensor: streams, jumps, and arithmetic on shapes."""
    if layer.kind in _CONTROL:
        return True
    largest = max((elements(t, 1) for t in (*layer.inputs, *layer.outputs)), default=0)
    return layer.kind in _SCALAR and largest <= _SHAPE_ELEMENTS


def steps(layer: Layer) -> tuple[str, ...]:
    """What a generated kernel does, in its name's letters: ``("Mul", "Add", "Relu")``."""
    return tuple(_STEPS.findall(_DECORATION.sub("", layer.name)))


def is_movement(layer: Layer) -> bool:
    """Whether a kernel computes nothing: it copies, reorders or converts."""
    if layer.kind in ("copy", "memset", "reformat"):
        return True
    return layer.kind == "kgen" and _MOVES.issuperset(steps(layer))


def elements(tensor: Tensor, batch: int) -> int:
    """Number of elements, each dynamic dimension taken as ``batch``."""
    return math.prod(batch if d < 0 else d for d in tensor.dims)


def size(tensor: Tensor, batch: int) -> int:
    """Bytes of a tensor, rounded up to a whole one.

    Raises:
        BackendError: The type has no known width.
    """
    return _bytes(elements(tensor, batch), tensor)


def read(layer: Layer, batch: int) -> int:
    """Bytes of inputs and constants.

    A tensor that is listed twice is read once, except that two slices of a wider tensor are two
    reads. Of a table it gathers from, a kernel reads as many elements as its largest output has.
    """
    total = sum(size(t, batch) for t in _once(layer.inputs, batch))
    constants = _once(layer.constants, batch)
    if "Gath" not in steps(layer):
        return total + sum(size(t, batch) for t in constants)
    rows = max((elements(t, batch) for t in layer.outputs), default=0)
    return total + sum(_bytes(min(elements(t, batch), rows), t) for t in constants)


def written(layer: Layer, batch: int) -> int:
    """Bytes of outputs."""
    return sum(size(t, batch) for t in _once(layer.outputs, batch))


def _bytes(count: int, tensor: Tensor) -> int:
    if tensor.dtype not in BITS:
        raise BackendError(
            f"the type {tensor.dtype!r} has no known width",
            where=f"tensor {tensor.name}",
            hint="this release does not know the library; please report it",
        )
    return -(-count * BITS[tensor.dtype] // 8)


def _once(tensors: Iterable[Tensor], batch: int) -> list[Tensor]:
    """Tensors without repeats of a dense one."""
    found: list[Tensor] = []
    seen: set[tuple[str, tuple[int, ...], str]] = set()
    for tensor in tensors:
        key = (tensor.name, tensor.dims, tensor.dtype)
        if key in seen and _is_dense(tensor, batch):
            continue
        seen.add(key)
        found.append(tensor)
    return found


def _is_dense(tensor: Tensor, batch: int) -> bool:
    """Whether the elements fill the memory that they span."""
    pairs = zip(tensor.dims, tensor.strides, strict=False)
    span = max(((batch if d < 0 else d) * (batch if s < 0 else s) for d, s in pairs), default=1)
    return span <= elements(tensor, batch)
