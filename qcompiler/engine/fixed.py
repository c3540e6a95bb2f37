"""A graph at the shapes that engines are compared at.

A listing does not say what its ``-1`` stand for, so dynamic inputs are fixed at the *opt* shapes of
the profile that a build would take: those that were given, the defaults elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto

from qcompiler.backends.tensorrt_profile import Input, Shape, complete
from qcompiler.engine.shapes import Shapes
from qcompiler.graph import Graph, Tensor
from qcompiler.load import load


def opt_shapes(graph: Graph, shapes: Shapes) -> dict[str, Shape]:
    """Shapes at which engines are compared: *opt* of the profile that a build would take.

    Raises:
        InputError: The shapes do not fit the inputs.
    """
    inputs = [_input(t) for t in graph.inputs]
    return {name: opt for name, (_, opt, _) in complete(inputs, shapes.given()).items()}


def _input(tensor: Tensor) -> Input:
    dims = list(tensor.shape or ())
    shape = tuple(d if isinstance(d, int) else -1 for d in dims)
    symbols = tuple(
        d if isinstance(d, str) and d else f"{tensor.name}#{axis}" for axis, d in enumerate(dims)
    )
    return Input(tensor.name, shape, symbols)


def fixed(graph: Graph, shapes: Shapes) -> Graph:
    """A copy of a graph whose inputs have the *opt* shapes of a profile.

    Raises:
        InputError: The shapes do not fit the inputs.
    """
    return fix(graph.proto(), opt_shapes(graph, shapes))


def fix(proto: ModelProto, at: Mapping[str, Shape]) -> Graph:
    """A model with inputs of these shapes, everything else inferred anew.

    Args:
        proto: The model; changed.
        at: Input -> shape; inputs that are missing, or have another rank, stay as they are.
    """
    for value in proto.graph.input:
        dims, sizes = value.type.tensor_type.shape.dim, at.get(value.name, ())
        if len(dims) == len(sizes):
            for dim, size in zip(dims, sizes, strict=True):
                dim.dim_value = size
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        value.type.tensor_type.ClearField("shape")
    made = load(proto, strict=False)
    made.infer()
    return made
