"""Put the activation pairs of the plan into the graph.

Before: ``Conv(x, W)``.  After: ``Conv(DequantizeLinear(QuantizeLinear(x, s, 0), s), W)``.

* One pair a tensor, shared by every planned reader (rule E15); other readers keep ``x``.
* The pair stands directly in front of its readers, behind data movement, so that nothing separates
  a convolution from its activation function (rules D20, D21).
* The scale is a scalar: a scale of shape [1] sends a whole convolution back to float in TensorRT
  for RTX (rule B18).  Q and DQ share it, so their equality is plain to see (rules B29, B30).
* The zero point of Q is explicit: without one TensorRT assumes INT8 and ONNX says UINT8 (rule B06).
  That of DQ is left out where it is zero.  It says nothing, and with it ONNX Runtime 1.32 fails to
  load a graph of static shapes: its optimizer moves such a pair through a Reshape, writes an
  ``output_dtype`` of INT8 and then turns the zero point into UINT8 (onnxruntime issue 25526).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from qcompiler.errors import InputError
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.pipeline import Effect, Pass
from qcompiler.plan import Decision, QuantPlan, Slot

# Format, type of the scale, scale and zero point: what a shared pair of constants stands for.
_Key = tuple[str, str, float, int]


@dataclass(frozen=True)
class InsertQdq(Pass):
    """``x -> DequantizeLinear(QuantizeLinear(x))`` in every planned slot."""

    plan: QuantPlan

    effect: ClassVar[Effect] = Effect.LOSSY
    phase: ClassVar[str] = "apply"

    def run(self, graph: Graph) -> int:
        """Insert every pair that the plan decides.

        Raises:
            InputError: The plan names a tensor or node that the graph lacks.
        """
        nodes = nodes_by_label(graph)
        shared: dict[_Key, tuple[Tensor, Tensor]] = {}
        done = 0
        for decision in self.plan.activations:
            slots = self.plan.slots(decision)
            if not slots or decision.storage.dynamic:
                continue
            tensor = tensor_of(graph, decision)
            pair = _pair(graph, decision, tensor, shared)
            rewire(graph, nodes, slots, tensor, pair)
            done += 1
        return done


def _pair(
    graph: Graph,
    decision: Decision,
    tensor: Tensor,
    shared: dict[_Key, tuple[Tensor, Tensor]],
) -> Tensor:
    qparams = decision.qparams()
    if qparams.scale.ndim:
        raise InputError(
            "activations are quantized per tensor, the plan has a list of scales",
            where=decision.tensor,
            hint="give one number (rule B22)",
        )
    key = (decision.storage.format, decision.dtype, float(qparams.scale), int(qparams.zero_point))
    if key not in shared:
        shared[key] = (
            graph.const(f"{tensor.name}_scale", qparams.scale.astype(np.dtype(decision.dtype))),
            graph.const(f"{tensor.name}_zero_point", qparams.zero_point),
        )
    codes = graph.add(
        "QuantizeLinear",
        [tensor, *shared[key]],
        output=f"{tensor.name}_q",
        dtype=qparams.zero_point.dtype,
        shape=tensor.shape,
    )
    return graph.add(
        "DequantizeLinear",
        [codes, shared[key][0]] if decision.storage.symmetric else [codes, *shared[key]],
        output=f"{tensor.name}_dq",
        dtype=tensor.dtype,
        shape=tensor.shape,
    )


def tensor_of(graph: Graph, decision: Decision) -> Tensor:
    """The tensor that a decision is about.

    Raises:
        InputError: The graph lacks it, or it has another type than its scale (rule B24).
    """
    tensor = graph.tensor(decision.tensor)
    if tensor is None:
        raise InputError(
            "the plan quantizes a tensor that the model does not have",
            where=decision.tensor,
            hint="the plan belongs to another model; make it again",
        )
    require_dtype(decision, tensor)
    return tensor


def nodes_by_label(graph: Graph) -> dict[str, Node]:
    """Every node under the name that plans use."""
    return {label(node): node for node in graph.nodes}


def require_dtype(decision: Decision, tensor: Tensor) -> None:
    """Refuse a plan whose scale would have another type than its tensor (rule B24).

    Raises:
        InputError: The types differ.
    """
    if str(tensor.dtype) != decision.dtype:
        raise InputError(
            f"the plan has a {decision.dtype} scale for a {tensor.dtype} tensor",
            where=decision.tensor,
            hint="give the scale the type of the tensor",
        )


def rewire(
    graph: Graph, nodes: dict[str, Node], slots: Iterable[Slot], old: Tensor, new: Tensor
) -> None:
    """Let slots read ``new`` instead of ``old``.

    Raises:
        InputError: A slot does not exist or reads another tensor.
    """
    for slot in slots:
        node = nodes.get(slot.node)
        if node is None or slot.index >= len(node.inputs) or node.inputs[slot.index] is not old:
            raise InputError(
                f"input {slot.index} of node {slot.node!r} does not read this tensor",
                where=old.name,
                hint="the plan belongs to another model; make it again",
            )
        graph.set_input(node, slot.index, new)
