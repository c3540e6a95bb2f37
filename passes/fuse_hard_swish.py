"""Fuse the exploded HardSwish and HardSigmoid.

::

    before   y = x * Clip(x + 3, 0, 6) / 6            after   y = HardSwish(x)
             y = x * HardSigmoid<1/6, 1/2>(x)         after   y = HardSwish(x)
             y = Clip(x + 3, 0, 6) / 6                after   y = HardSigmoid<1/6, 1/2>(x)

because Clip(x + 3, 0, 6) / 6 = max(0, min(1, x / 6 + 1/2)).  MobileNetV3 in TorchScript exports of
opset 13 and earlier and in hand-written modules (``x * F.relu6(x + 3) / 6``), Keras MobileNetV3
through tf2onnx (``x * (relu6(x + 3) * (1/6))``), and ``nn.Hardswish`` of dynamo exports (``x *
HardSigmoid``).  The division may come anywhere, also as a product with 1/6.

HardSwish exists since opset 14 (below that only the HardSigmoid part is fused), HardSigmoid always
(ONNX operators, HardSwish-14, HardSigmoid-6).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.graph import Graph
from qcompiler.match import Pattern, any_of, is_float, matches, number, op, put, var
from qcompiler.pipeline import Effect, Pass

_X = var("x")
_SIXTH = 1 / 6


def _near(wanted: float, default: float) -> object:
    def check(value: object) -> bool:
        found = default if value is None else value
        return isinstance(found, float) and abs(found - wanted) <= 1e-5 * wanted

    return check


def _sixth(p: Pattern) -> Pattern:
    return any_of(op("Div")(p, number(6.0)), op("Mul")(p, number(_SIXTH)))


def _clipped() -> Pattern:
    shifted = op("Add")(_X, number(3.0))
    by_inputs = op("Clip")(shifted, number(0.0), number(6.0))
    by_attributes = op("Clip", min=0.0, max=6.0)(shifted)
    return any_of(by_inputs, by_attributes)


def _hard_swish() -> Pattern:
    c = _clipped()
    gate = op("HardSigmoid", alpha=_near(_SIXTH, 0.2), beta=_near(0.5, 0.5))(_X)
    return any_of(
        op("Mul")(_X, any_of(_sixth(c), gate)),
        _sixth(op("Mul")(_X, c)),
        op("Mul")(_sixth(_X), c),
    )


_HARD_SWISH, _HARD_SIGMOID = _hard_swish(), _sixth(_clipped())


@dataclass(frozen=True)
class FuseHardSwish(Pass):
    """``x * Clip(x + 3, 0, 6) / 6 -> HardSwish(x)`` and the gate alone ``-> HardSigmoid(x)``."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"

    def run(self, graph: Graph) -> int:
        """Replace every exploded HardSwish, then the HardSigmoids that are left."""
        count = _fuse(graph, _HARD_SWISH, "HardSwish", {}) if graph.opset >= 14 else 0
        return count + _fuse(graph, _HARD_SIGMOID, "HardSigmoid", {"alpha": _SIXTH, "beta": 0.5})


def _fuse(graph: Graph, pattern: Pattern, op_type: str, attrs: Mapping[str, float]) -> int:
    count = 0
    for found in matches(graph, pattern):
        x = found["x"]
        # Neither op takes BF16 before opset 22.
        known = is_float(x, double=True) and (graph.opset >= 22 or x.dtype in _OLD_TYPES)
        if not known or not found.keeps_shape("x"):
            continue
        put(graph, found, op_type, [x], attrs)
        count += 1
    return count


_OLD_TYPES = tuple(np.dtype(t) for t in (np.float16, np.float32, np.float64))
