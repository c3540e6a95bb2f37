"""Give the float inputs and outputs of a graph another element type.

A 16-bit graph with float32 inputs and outputs begins and ends with Casts. They are part of the
first and last kernel, but the copies to and from the GPU, and above all a cache of keys and values
that goes out and comes back in, have twice the bytes (a small decoder moves 30.6 MB a token instead
of 24.4)::

    before:  y = Relu (x)                                   x, y : float32
    after:   y = Cast <to = float16> (Relu (Cast <to = float> (x)))     x, y : float16

The function is the same up to the rounding of what goes in and out, so ``half(f(float(x)))``. Where
the graph computes in float16, ``drop-casts`` then removes both Casts with those that stood there.

Inputs and outputs of other types (integers, booleans, float64) stay. One that a sub-graph reads by
its name is refused, because the sub-graph is not touched.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import onnx

from qcompiler.errors import UnsupportedError, UsageError
from qcompiler.graph import Graph, Node, Tensor
from qcompiler.pipeline import Effect, Pass

# What is changed into what.
_KINDS: dict[str, tuple[np.dtype[Any], tuple[np.dtype[Any], ...]]] = {
    "float16": (np.dtype(np.float16), (np.dtype(np.float32),)),
    "float32": (np.dtype(np.float32), (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))),
}


@dataclass(frozen=True)
class CastInterface(Pass):
    """``f(x) -> Cast(f(Cast(x)))``: float inputs and outputs get another type.

    Attributes:
        to: ``float16``, ``float32``, or ``keep`` for no change.
    """

    effect: ClassVar[Effect] = Effect.LOSSY
    phase: ClassVar[str] = "apply"
    after: ClassVar[tuple[str, ...]] = ("cast-precision",)

    to: str = "keep"

    def __post_init__(self) -> None:
        if self.to not in ("keep", *_KINDS):
            raise UsageError(
                f"inputs and outputs cannot be {self.to!r}", hint="keep, float16 or float32"
            )

    def run(self, graph: Graph) -> int:
        """Change the types.

        Returns:
            Inputs and outputs changed.

        Raises:
            UnsupportedError: A sub-graph reads one of them.
        """
        if self.to == "keep":
            return 0
        new, old = _KINDS[self.to]
        inputs = [t for t in graph.inputs if t.dtype in old]
        outputs = [t for t in graph.outputs if t.dtype in old and not any(t is i for i in inputs)]
        for tensor in (*inputs, *outputs):
            if graph.is_captured(tensor):
                raise UnsupportedError(
                    "a sub-graph reads it, so it keeps its type",
                    where=tensor.name,
                    hint="keep the types of inputs and outputs (--io-dtype keep)",
                )
        for tensor in inputs:
            _input(graph, tensor, new)
        for tensor in outputs:
            _output(graph, tensor, new)
        return len(inputs) + len(outputs)


def _input(graph: Graph, tensor: Tensor, new: np.dtype[Any]) -> None:
    """Let all readers of an input read its Cast to the type it had."""
    users, old = graph.users(tensor), tensor.dtype
    assert old is not None
    graph.redeclare(tensor, new)
    if not users:
        return
    wide = _cast(graph, tensor, f"{tensor.name}_{old.name}", old)
    for node, index in users:
        graph.set_input(node, index, wide)


def _output(graph: Graph, tensor: Tensor, new: np.dtype[Any]) -> None:
    """Let an output be the Cast of what its node computes, which its readers go on reading."""
    producer, old = graph.producer(tensor), tensor.dtype
    assert old is not None
    if producer is None:
        graph.make_constant(tensor, graph.values(tensor).astype(new))
        graph.redeclare(next(t for t in graph.outputs if t.name == tensor.name), new)
        return
    inner = _renamed(graph, producer, tensor, graph.fresh(f"{tensor.name}_{old.name}"))
    inner.dtype, inner.shape = old, tensor.shape
    for node, index in graph.users(tensor):
        graph.set_input(node, index, inner)
    graph.redeclare(tensor, new)
    graph.replace(tensor, _cast(graph, inner, tensor.name, new))


def _renamed(graph: Graph, node: Node, tensor: Tensor, name: str) -> Tensor:
    """Write a node anew with another name for one output; the facade cannot rename what is pinned.

    The output itself is left without a producer.
    """
    proto = graph.node_proto(node)
    for index, output in enumerate(proto.output):
        if output == tensor.name:
            proto.output[index] = name
    graph.drop(node)
    graph.add_proto(proto)
    found = graph.tensor(name)
    assert found is not None
    return found


def _cast(graph: Graph, tensor: Tensor, output: str, dtype: np.dtype[Any]) -> Tensor:
    return graph.add(
        "Cast",
        [tensor],
        output=output,
        name=graph.fresh(f"interface_{output}"),
        dtype=dtype,
        shape=tensor.shape,
        attrs={"to": int(onnx.helper.np_dtype_to_tensor_dtype(dtype))},
    )
