"""Fuse the exploded root-mean-square normalization into ``RMSNormalization``.

::

    before   y = x / Sqrt(ReduceMean(x * x) + eps) * weight
    after    y = RMSNormalization<axis, epsilon = eps>(x, weight)

Forms: ``x * x`` as ``Mul`` or ``Pow(x, 2)``; the division as ``Div``, as ``Mul`` with
``Reciprocal(Sqrt)`` or ``1 / Sqrt`` (TorchScript's and dynamo's ``rsqrt``), or as a power of +-1/2;
with or without FP16 ``Cast`` around it, as in Hugging Face's ``LlamaRMSNorm``. A missing weight is
ones.

The op exists since opset 23 (ONNX operators, RMSNormalization-23; Zhang and Sennrich,
https://arxiv.org/abs/1910.07467). Below that the pattern stays and costs nothing: TensorRT makes
one kernel of it, with a following ``QuantizeLinear`` inside. What is said of axes and types in
``fuse-layer-norm`` holds here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qcompiler.graph import Graph
from qcompiler.match import Match, Pattern, any_of, const, matches, op, optional, put, var
from qcompiler.passes.fuse_layer_norm import inverse_root, mean_square, norm_arguments, root
from qcompiler.pipeline import Effect, Pass


def _pattern() -> Pattern:
    x = var("x")
    spread = mean_square(x)
    plain = any_of(op("Div")(x, root(spread)), op("Mul")(x, inverse_root(spread)))
    normalized = optional(op("Cast").named("cast"), plain)
    return optional(lambda p: op("Mul")(p, const("gamma")), normalized)


_PATTERN = _pattern()


@dataclass(frozen=True)
class FuseRmsNorm(Pass):
    """Exploded ``x / sqrt(mean(x^2) + eps) * weight -> RMSNormalization``, from opset 23 on."""

    effect: ClassVar[Effect] = Effect.EXACT
    phase: ClassVar[str] = "prepare"
    # The variance inside a layer norm is the mean square of x - mean.
    after: ClassVar[tuple[str, ...]] = ("fuse-layer-norm",)

    def run(self, graph: Graph) -> int:
        """Replace every exploded RMS normalization over last axes."""
        if graph.opset < 23:
            return 0
        return sum(_fuse(graph, found) for found in matches(graph, _PATTERN))


def _fuse(graph: Graph, found: Match) -> bool:
    arguments = norm_arguments(graph, found)
    if arguments is None:
        return False
    put(graph, found, "RMSNormalization", *arguments)
    return True
