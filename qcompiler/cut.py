"""Cut a tensor into parts along one axis, and drop an axis of length one, at any opset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import helper

from qcompiler.graph import Graph, Tensor


def cut(graph: Graph, source: Tensor, axis: int, parts: Sequence[tuple[int, str]]) -> list[Tensor]:
    """Append a ``Split``.

    Args:
        graph: The graph.
        source: What is cut.
        axis: Along which axis; negative counts from the end.
        parts: Width and wished name of each part.

    Returns:
        The parts, of the type of ``source``.
    """
    widths = [width for width, _ in parts]
    names = [graph.fresh(name) for _, name in parts]
    inputs, attrs = [source.name], dict[str, Any](axis=axis)
    if graph.opset < 13:  # Split-13 made an input of the attribute.
        attrs["split"] = widths
    else:
        inputs.append(graph.const(f"{source.name}_widths", np.array(widths, np.int64)).name)
    name = f"{source.name}_split"
    graph.add_proto(helper.make_node("Split", inputs, names, name=name, **attrs))
    made = [t for name in names if (t := graph.tensor(name)) is not None]
    for tensor, width in zip(made, widths, strict=True):
        tensor.dtype = source.dtype
        tensor.shape = None if source.shape is None else list(source.shape)
        if tensor.shape is not None:
            tensor.shape[axis] = width
    return made


def squeeze(graph: Graph, source: Tensor, axis: int, name: str) -> Tensor:
    """Append a ``Squeeze`` of one axis.

    Args:
        graph: The graph.
        source: A tensor whose axis has length 1.
        axis: The axis, from the front.
        name: Wished name of the result.
    """
    inputs, attrs = [source], dict[str, Any]()
    if graph.opset < 13:  # As Split.
        attrs["axes"] = [axis]
    else:
        inputs.append(graph.const(f"{source.name}_axes", np.array([axis], np.int64)))
    shape = None if source.shape is None else [*source.shape[:axis], *source.shape[axis + 1 :]]
    return graph.add("Squeeze", inputs, output=name, dtype=source.dtype, shape=shape, attrs=attrs)
