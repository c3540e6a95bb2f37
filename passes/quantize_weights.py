"""Store the weights of the plan as integers, with a ``DequantizeLinear`` in front of their readers.

Before: ``Conv(x, W)``.  After: ``Conv(x, DequantizeLinear(W_q, W_scale))`` with

    W_q = saturate(round_half_even(W / s_c)),   s_c = the plan's scale of output channel c

so that the file holds one byte a weight.  The scale stands on the operator's output-channel axis
(rule D06) and has the type of the float graph (rule B24); the zero point is zero and left out
(rule B04; the type of ``W_q`` says what it is).  Biases stay in float: TensorRT refuses a
dequantized INT32 bias (rule B25).

One weight read by several planned slots gets one ``DequantizeLinear``; other readers keep the
float tensor.  Weights are read, quantized and stored one at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.errors import InputError
from qcompiler.graph import Graph, Tensor
from qcompiler.numerics.quantize import quantize
from qcompiler.passes.insert_qdq import nodes_by_label, require_dtype, rewire
from qcompiler.pipeline import Effect, Pass
from qcompiler.plan import Decision, QuantPlan


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
            done += 1
        return done


def _dequantized(graph: Graph, decision: Decision, weight: Tensor) -> Tensor:
    name = decision.tensor
    values = graph.values(weight)
    qparams, spec = decision.qparams(), decision.storage.spec()
    expected = spec.granularity.scale_shape(values.shape)
    if qparams.scale.shape != expected:
        raise InputError(
            f"the plan has {qparams.scale.size} scales, the weight needs {list(expected)}",
            where=name,
            hint="one scale per tensor, or one for each channel of the axis",
        )
    codes = graph.const(f"{name}_q", quantize(values, qparams, spec))
    scale = graph.const(f"{name}_scale", qparams.scale.astype(np.dtype(decision.dtype)))
    axis = {} if decision.storage.axis is None else {"axis": decision.storage.axis}
    return graph.add(
        "DequantizeLinear",
        [codes, scale],
        output=f"{name}_dq",
        dtype=weight.dtype,
        shape=weight.shape,
        attrs=axis,
    )
