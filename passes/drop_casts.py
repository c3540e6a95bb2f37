"""Remove Casts that undo each other.

Exporters and converters that work operator by operator leave pairs behind, and so does every change
of an input's type::

    before:  a = Cast <to = float> (x)     b = Cast <to = float16> (a)      x : float16
    after:   b = x

A Cast to a type T1 that represents every value of the type T0 changes nothing, so what follows it
may read its source: ``cast2(cast1(x)) = cast2(x)`` where T0 is a subset of T1, and ``cast2(x) = x``
where T2 = T0.  Widening does (bool to anything, int8 to float16, int32 to float64, float16 and
bfloat16 to float32); narrowing does not: float32 -> float16 -> float32 rounds, and stays.  int64
has more bits than float64, and no 8-bit float is looked at, because Casts to them may saturate.

On TensorRT a pair costs no kernel inside a pointwise chain but one around a product (rule G04), and
it hides patterns that the compiler would fuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from qcompiler.graph import Graph, Node, Tensor
from qcompiler.ops import is_standard
from qcompiler.pipeline import Effect, Pass

# Bits of the significand, sign not counted: integers of as many bits are exact.
_BITS = {"float16": 11, "bfloat16": 8, "float32": 24, "float64": 53}
# Floats whose every value another one has.
_WIDER = {
    "float16": ("float32", "float64"),
    "bfloat16": ("float32", "float64"),
    "float32": ("float64",),
}


@dataclass(frozen=True)
class DropCasts(Pass):
    """``Cast(Cast(x: T0 -> T1) -> T2) -> Cast(x -> T2)`` where T1 holds T0; ``x`` if T2 = T0."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"

    def run(self, graph: Graph) -> int:
        """Shorten every chain of Casts.

        Returns:
            Casts that were removed or now read the source of the one before.
        """
        return sum(_shorten(graph, node) for node in graph.nodes)


def _shorten(graph: Graph, node: Node) -> bool:
    first = _cast(graph.producer(node.inputs[0])) if _cast(node) else None
    if first is None:
        return False
    source, result = first.inputs[0], node.outputs[0]
    if not _exact(source.dtype, node.inputs[0].dtype):
        return False
    if source.dtype != result.dtype:
        graph.set_input(node, 0, source)
        return True
    if graph.is_pinned(result) and not _can_be_renamed(graph, source):
        return False
    graph.replace(result, source)
    return True


def _cast(node: Node | None) -> Node | None:
    return node if node is not None and is_standard(node) and node.op == "Cast" else None


def _can_be_renamed(graph: Graph, tensor: Tensor) -> bool:
    return graph.producer(tensor) is not None and not graph.is_pinned(tensor)


def _exact(old: np.dtype[Any] | None, new: np.dtype[Any] | None) -> bool:
    """Whether a type has every value of another one."""
    if old is None or new is None:
        return False
    if old.name in _WIDER:
        return new.name in _WIDER[old.name]
    if old.kind not in "uib" or old.itemsize == 0:
        return False
    if old.kind == "b":
        return new.name in _BITS or new.kind in "ui"
    if new.name in _BITS:
        return 8 * old.itemsize - (old.kind == "i") <= _BITS[new.name]
    return new.kind in "ui" and bool(np.can_cast(old, new, "safe"))
