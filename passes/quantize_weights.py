"""Store the weights of the plan as integers, with a ``DequantizeLinear`` in front of their readers.

Before: ``Conv(x, W)``.  After: ``Conv(x, DequantizeLinear(W_q, W_scale))`` with

    W_q = saturate(round_half_even(W / s_c)),   s_c = the plan's scale of output channel c

so that the file holds one byte a weight.  The scale stands on the operator's output-channel axis
(rule D06), or in blocks of K with ``block_size`` (``qcompiler/numerics/tiles.py``), or as a factor
of the operator's result, and DequantizeLinear has a scalar (``qcompiler/behind.py``).  It has the
type of the float graph (rule B24); the zero point is zero and left out (rule B04; the type of
``W_q`` says what it is).  Biases stay in float: TensorRT refuses a dequantized INT32 bias (rule
B25).

One weight read by several planned slots gets one ``DequantizeLinear``; other readers keep the
float tensor.  Weights are read, quantized and stored one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.behind import OUTSIDE, scale_result
from qcompiler.errors import InputError
from qcompiler.granularity import PerBlock
from qcompiler.graph import Graph, Tensor
from qcompiler.numerics.quantize import quantize
from qcompiler.numerics.tiles import along_axis
from qcompiler.passes.insert_qdq import nodes_by_label, require_dtype, rewire
from qcompiler.pipeline import Effect, Pass
from qcompiler.plan import Decision, QuantPlan
from qcompiler.spec import QParams, Spec


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """``W -> DequantizeLinear(W_q, scale)`` for every weight of the plan."""

    plan: QuantPlan

    effect: ClassVar[Effect] = Effect.LOSSY
    phase: ClassVar[str] = "apply"

    def run(self, graph: Graph) -> int:
        """Quantize every weight that the plan decides.

        Raises:
            InputError: The plan names a tensor or node that the graph lacks, or has the wrong
                number of scales.
        """
        nodes = nodes_by_label(graph)
        done = 0
        for decision in self.plan.weights:
            slots = self.plan.slots(decision)
            if not slots:
                continue
            weight = graph.tensor(decision.tensor)
            if weight is None or not graph.is_constant(weight):
                raise InputError(
                    "the plan quantizes a weight that the model does not have",
                    where=decision.tensor,
                    hint="the plan belongs to another model; make it again",
                )
            require_dtype(decision, weight)
            rewire(graph, nodes, slots, weight, _dequantized(graph, decision, weight))
            if decision.storage.behind:
                ratios = np.array(decision.scale, np.float32) * np.float32(OUTSIDE)
                factor = graph.const(f"{weight.name}_ratio", ratios.astype(weight.dtype))
                for slot in slots:
                    scale_result(graph, nodes[slot.node], factor)
            done += 1
        return done


def _dequantized(graph: Graph, decision: Decision, weight: Tensor) -> Tensor:
    name = decision.tensor
    values = graph.values(weight)
    qparams, spec = _stored(decision, values.shape)
    expected = spec.granularity.scale_shape(values.shape)
    if qparams.scale.shape != expected:
        raise InputError(
            f"the plan has {qparams.scale.size} scales, the weight needs {list(expected)}",
            where=name,
            hint="one scale per tensor, or one for each channel of the axis",
        )
    codes = graph.const(f"{name}_q", quantize(values, qparams, spec))
    outer = np.array(1 / OUTSIDE) if decision.storage.behind else qparams.scale
    scale = graph.const(f"{name}_scale", outer.astype(np.dtype(decision.dtype)))
    attrs = {} if outer.ndim == 0 else {"axis": decision.storage.axis}
    if attrs and decision.storage.block is not None:
        attrs["block_size"] = decision.storage.block
    return graph.add(
        "DequantizeLinear",
        [codes, scale],
        output=f"{name}_dq",
        dtype=weight.dtype,
        shape=weight.shape,
        attrs=attrs,
    )


def _stored(decision: Decision, shape: tuple[int, ...]) -> tuple[QParams, Spec]:
    """The scales as ONNX holds them: those of tiles repeated along the axis that is not K."""
    qparams, storage = decision.qparams(), decision.storage
    if storage.axis is None or storage.block is None:
        return qparams, storage.spec()
    try:
        spread = along_axis(qparams, shape, storage.block, storage.axis)
    except InputError as error:
        raise InputError(error.message, where=decision.tensor, hint=error.hint) from error
    return spread, Spec(storage.format, PerBlock(storage.axis, storage.block))
