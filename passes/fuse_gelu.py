"""Fuse the exploded GELU into ``Gelu``.

::

    before   y = x / 2 * (1 + erf(x / sqrt(2)))                                    exact
             y = x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))           approximate
    after    y = Gelu(x)  or  Gelu<approximate = "tanh">(x)

The three factors of the product come in every association: ``(x * e) * 0.5`` (TorchScript and
dynamo exports of ``nn.GELU``), ``(0.5 * x) * e`` (tf2onnx of ``tf.nn.gelu``, Hugging Face's own
formula), ``x * (0.5 * e)``.  The argument of erf is ``x / 1.414`` or ``x * 0.7071``; the cube is
``Pow(x, 3)`` or a product; Hugging Face's ``gelu_fast`` pulls x out of the sum.  The op exists
since opset 20 (ONNX operators, Gelu-20); below that the pattern stays, which TensorRT fuses too.

One op instead of five to nine means one tensor to look at when ranges are collected, and no
quantizer can put a Q/DQ inside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from qcompiler.graph import Graph
from qcompiler.match import Pattern, any_of, is_float, matches, number, op, put, var
from qcompiler.pipeline import Effect, Pass

_X = var("x")


def _times(p: Pattern, factor: float) -> Pattern:
    """``p * factor``, also written as a division."""
    return any_of(op("Mul")(p, number(factor)), op("Div")(p, number(1 / factor)))


def _half_product(e: Pattern) -> Pattern:
    """``x * e / 2`` in its associations."""
    return any_of(
        _times(op("Mul")(_X, e), 0.5),
        op("Mul")(_times(_X, 0.5), e),
        op("Mul")(_X, _times(e, 0.5)),
    )


def _exact() -> Pattern:
    erf = op("Erf")(_times(_X, math.sqrt(0.5)))
    return _half_product(op("Add")(erf, number(1.0)))


def _tanh() -> Pattern:
    square = any_of(op("Mul")(_X, _X), op("Pow")(_X, number(2.0)))
    cube = any_of(op("Pow")(_X, number(3.0)), op("Mul")(square, _X))
    c, root = number(0.044715), math.sqrt(2 / math.pi)
    # c x^3 associates as c (x^3) or ((c x) x) x; c x^2 as c (x^2) or (c x) x.
    scaled_square = any_of(op("Mul")(square, c), op("Mul")(op("Mul")(_X, c), _X))
    scaled_cube = any_of(op("Mul")(cube, c), op("Mul")(scaled_square, _X))
    inner = any_of(
        _times(op("Add")(_X, scaled_cube), root),
        op("Mul")(_times(_X, root), op("Add")(scaled_square, number(1.0))),
    )
    return _half_product(op("Add")(op("Tanh")(inner), number(1.0)))


_FORMS = ((_exact(), "none"), (_tanh(), "tanh"))


@dataclass(frozen=True)
class FuseGelu(Pass):
    """``x/2 * (1 + erf(x/sqrt 2)) -> Gelu(x)``, and the tanh form, from opset 20 on."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"

    def run(self, graph: Graph) -> int:
        """Replace every exploded GELU."""
        if graph.opset < 20:
            return 0
        return sum(_fuse(graph, pattern, kind) for pattern, kind in _FORMS)


def _fuse(graph: Graph, pattern: Pattern, approximate: str) -> int:
    count = 0
    for found in matches(graph, pattern):
        x = found["x"]
        if not found.keeps_shape("x") or not is_float(x, double=True):
            continue
        put(graph, found, "Gelu", [x], {"approximate": approximate})
        count += 1
    return count
