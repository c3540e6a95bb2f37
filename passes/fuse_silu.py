"""Fuse x * sigmoid(a x) into ``Swish``.

::

    before   y = Mul(x, Sigmoid(x))               SiLU
             y = Mul(x, Sigmoid(Mul(x, a)))       "quick GELU" of CLIP, a = 1.702
    after    y = Swish<alpha = a>(x)

Every exporter writes SiLU this way (TorchScript and dynamo exports of ``nn.SiLU``, tf2onnx of
``tf.nn.silu``): ONNX has the op only since opset 24.  Below that nothing is done, and nothing is
lost: TensorRT fuses the two nodes into one pointwise kernel (ONNX operators, Swish-24).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.graph import Graph
from qcompiler.match import any_of, is_float, matches, op, put, scalar, value_of, var
from qcompiler.pipeline import Effect, Pass

_X = var("x")
_PATTERN = op("Mul")(_X, op("Sigmoid")(any_of(op("Mul")(_X, scalar("alpha")), _X)))


@dataclass(frozen=True)
class FuseSilu(Pass):
    """``x * Sigmoid(x) -> Swish(x)``, from opset 24 on."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"

    def run(self, graph: Graph) -> int:
        """Replace every exploded SiLU."""
        if graph.opset < 24:
            return 0
        count = 0
        for found in matches(graph, _PATTERN):
            x = found["x"]
            if not found.keeps_shape("x") or not is_float(x, double=True):
                continue
            factor = found.tensors.get("alpha")
            alpha = 1.0 if factor is None else value_of(graph, factor)
            put(graph, found, "Swish", [x], {"alpha": alpha})
            count += 1
        return count
