"""Small graphs written by hand: ONNX text for the nodes, and constants by shape or by value."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import onnx.parser
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from qcompiler import recipe as recipes
from qcompiler import targets
from qcompiler.graph import Graph
from qcompiler.load import load
from qcompiler.plan import Decision, Point, Points, Slot
from qcompiler.recipe import Recipe
from qcompiler.scan import scan

Array = NDArray[Any]
INT8 = recipes.find("int8")


def f32(values: Any) -> Array:
    """Numbers as a float32 array."""
    return np.asarray(values, np.float32)


def normal(name: str, shape: Sequence[int], dtype: Any = np.float32) -> Array:
    """Normal numbers that depend on the name only, scaled so that products keep their size."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    fan_in = math.prod(shape) / max(shape[0], 1) if shape else 1
    values = generator.standard_normal(tuple(shape)) / math.sqrt(max(fan_in, 1.0))
    return np.asarray(values.astype(dtype))


def model(text: str, *, opset: int = 21, **constants: Any) -> ModelProto:
    """A model from the text of its graph.

    Args:
        text: ``g (inputs) => (outputs) { nodes }``.
        opset: Of the default domain.
        constants: Name -> shape of normal float32 numbers, or the array itself.
    """
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{text}')
    for name, given in constants.items():
        values = given if isinstance(given, np.ndarray) else normal(name, given)
        made.graph.initializer.append(numpy_helper.from_array(values, name))
    return made


def graph(text: str, **constants: Any) -> Graph:
    """The same as a graph with inferred shapes, not prepared: what is written is scanned."""
    loaded = load(model(text, **constants))
    loaded.infer()
    return loaded


def scanned(
    text: str,
    target: str = "tensorrt",
    recipe: Recipe = INT8,
    **constants: Any,
) -> Points:
    """What scan proposes for a graph."""
    return scan(graph(text, **constants), recipe, targets.find(target))


def table(entries: Iterable[Point | Decision]) -> dict[str, list[Slot]]:
    """Tensor -> slots."""
    return {entry.tensor: list(entry.slots) for entry in entries}


def nodes(entries: Iterable[Point | Decision], role: str) -> set[str]:
    """Names of the nodes with a slot of this role."""
    return {s.node for entry in entries for s in entry.slots if s.role == role}


def by_tensor(entries: Iterable[Point], tensor: str) -> Point:
    """The point of a tensor."""
    return next(p for p in entries if p.tensor == tensor)
