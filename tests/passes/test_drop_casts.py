"""A pair of Casts goes if and only if no value is lost between them."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from qcompiler.graph import Graph
from qcompiler.load import load
from qcompiler.passes.drop_casts import DropCasts
from qcompiler.pipeline import Pipeline

TYPES = [
    np.dtype(t)
    for t in (
        np.bool_, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.uint64,
        np.float16, ml_dtypes.bfloat16, np.float32, np.float64,
    )
]  # fmt: skip


def _pair(old: np.dtype[Any], new: np.dtype[Any], last: np.dtype[Any]) -> Graph:
    a, b, c = (onnx.helper.np_dtype_to_tensor_dtype(t) for t in (old, new, last))
    nodes = [
        onnx.helper.make_node("Neg" if old.kind != "b" else "Not", ["x"], ["n"]),
        onnx.helper.make_node("Cast", ["n"], ["w"], to=b),
        onnx.helper.make_node("Cast", ["w"], ["y"], to=c),
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "g",
        [onnx.helper.make_tensor_value_info("x", a, [4])],
        [onnx.helper.make_tensor_value_info("y", c, [4])],
    )
    opset = [onnx.helper.make_opsetid("", 21)]
    made = load(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), strict=False)
    made.infer()
    return made


def _values(dtype: np.dtype[Any]) -> NDArray[Any]:
    """All values of a small type; of a large one powers of two, their neighbours, and the ends."""
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.itemsize <= 2:
        kind = np.uint8 if dtype.itemsize == 1 else np.uint16
        values = np.arange(256**dtype.itemsize, dtype=np.uint32).astype(kind).view(dtype)
        return values if dtype.kind in "ui" else values[np.isfinite(values.astype(np.float32))]
    if dtype.kind == "f":
        powers = np.ldexp(1.0, np.arange(-120, 120))
        return np.concatenate([powers * (1 + k * np.finfo(dtype).eps) for k in range(3)]).astype(
            dtype
        )
    powers = 2 ** np.arange(8 * dtype.itemsize - 1, dtype=np.uint64)
    values = np.concatenate([powers - 1, powers, powers + 1]).astype(dtype)
    limits = np.iinfo(dtype)
    return np.concatenate([values, np.array([limits.min, limits.max], dtype)])


def _survives(old: np.dtype[Any], new: np.dtype[Any]) -> bool:
    values = _values(old)
    with np.errstate(all="ignore"):
        # Python compares integers with floats exactly, numpy rounds 2^64 - 1 to a float first.
        return bool(values.astype(new).tolist() == values.tolist())


@pytest.mark.parametrize("old", TYPES, ids=str)
def test_there_and_back(old: np.dtype[Any]) -> None:
    for new in TYPES:
        if new == old:
            continue
        graph = _pair(old, new, old)
        (step,) = Pipeline((DropCasts(),)).run(graph)
        assert bool(step.rewrites) is _survives(old, new), new
        assert sum(n.op == "Cast" for n in graph.nodes) == (0 if step.rewrites else 2)


@pytest.mark.parametrize("last", [np.int64, np.bool_, np.float64], ids=str)
def test_on_to_another_type(last: Any) -> None:
    graph = _pair(np.dtype(np.float16), np.dtype(np.float32), np.dtype(last))
    (step,) = Pipeline((DropCasts(),)).run(graph)
    assert step.rewrites == 1
    assert [n.op for n in graph.nodes] == ["Neg", "Cast"]


def test_an_8_bit_float_is_not_looked_at() -> None:
    float8, float16 = np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(np.float16)
    for old, new in ((float16, float8), (float8, float16)):
        graph = _pair(old, new, old)
        assert [s.rewrites for s in Pipeline((DropCasts(),)).run(graph)] == [0]
