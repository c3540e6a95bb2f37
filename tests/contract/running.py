"""Run a model, and say how far two results may differ.

The tolerance is derived, not chosen: the original model is also run in double precision, and a
transformed model may be as far from *that* as the original is, plus the rounding of a few more
operations.  A pass that only reorders float arithmetic stays inside; one that computes something
else does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

Feeds = Mapping[str, NDArray[Any]]
# Symbolic axes of the models; the rest is 2.
SIZES = {"batch": 2, "sequence": 24, "past": 0, "height": 32, "width": 32}
# Roundings that a fold may add, in units of the last place of the largest value.
EXTRA_ULPS = 16
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)
_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(bool)": np.bool_,
}


def session(model: ModelProto) -> Any:
    """An ONNX Runtime session that computes what the graph says: no optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def feeds_for(opened: Any) -> dict[str, NDArray[Any]]:
    """Normal floats, ids 0 and 1, masks of ones; the same at every call."""
    generator = np.random.default_rng(0)
    out: dict[str, NDArray[Any]] = {}
    for declared in opened.get_inputs():
        shape = [a if isinstance(a, int) else SIZES.get(a, 2) for a in declared.shape]
        dtype = np.dtype(_TYPES[declared.type])
        if dtype.kind == "f":
            out[declared.name] = generator.standard_normal(shape).astype(dtype)
        elif dtype.kind == "b":
            out[declared.name] = np.ones(shape, np.bool_)
        else:
            out[declared.name] = generator.integers(0, 2, shape).astype(dtype)
    return out


def run(model: ModelProto, feeds: Feeds) -> list[NDArray[Any]]:
    """The outputs of a model in ONNX Runtime, or in onnx.reference where that lacks an operator."""
    try:
        opened = session(model)
    except onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented:
        return list(ReferenceEvaluator(model).run(None, dict(feeds)))
    return list(opened.run(None, dict(feeds)))


def assert_same_function(before: ModelProto, after: ModelProto, feeds: Feeds) -> None:
    """Outputs agree as closely as the rounding of the original allows."""
    old, new = run(before, feeds), run(after, feeds)
    if all(x.tobytes() == y.tobytes() for x, y in zip(old, new, strict=True)):
        return
    doubled = {k: v.astype(np.float64) if v.dtype.kind == "f" else v for k, v in feeds.items()}
    exact = ReferenceEvaluator(in_double(before)).run(None, doubled)
    for x, y, truth in zip(old, new, exact, strict=True):
        assert x.dtype == y.dtype
        assert x.shape == y.shape
        if x.dtype.kind != "f":
            assert np.array_equal(x, y)
            continue
        largest = float(np.abs(truth).max(initial=0.0))
        rounding = EXTRA_ULPS * _spacing(x.dtype) * largest
        noise = float(np.abs(x.astype(np.float64) - truth).max(initial=0.0))
        error = float(np.abs(y.astype(np.float64) - truth).max(initial=0.0))
        assert error <= 2 * noise + rounding, (error, noise, rounding)


def _spacing(dtype: np.dtype[Any]) -> float:
    """Distance from 1 to the next value of a float type."""
    return float(np.nextafter(dtype.type(1), dtype.type(2)) - dtype.type(1))


def in_double(model: ModelProto) -> ModelProto:
    """The same model with every float tensor in double precision."""
    out = ModelProto()
    out.CopyFrom(model)
    _widen(out.graph)
    return out


def _widen(graph: GraphProto) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for initializer in graph.initializer:
        _widen_tensor(initializer)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                _widen_tensor(attribute.t)
            elif attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = TensorProto.DOUBLE
            elif attribute.name in ("value_float", "value_floats"):
                values = np.array(attribute.floats or attribute.f, np.float64)
                attribute.Clear()
                attribute.name, attribute.type = "value", attribute.TENSOR
                attribute.t.CopyFrom(numpy_helper.from_array(values))
            elif attribute.HasField("g"):
                _widen(attribute.g)


def _widen_tensor(proto: TensorProto) -> None:
    if proto.data_type in _FLOATS:
        values = numpy_helper.to_array(proto).astype(np.float64)
        proto.CopyFrom(numpy_helper.from_array(values, proto.name))
