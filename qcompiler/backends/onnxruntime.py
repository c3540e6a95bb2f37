"""ONNX Runtime: the engine that calibrates and verifies.

Numbers are judged with graph optimizations off, because the optimizer changes them: it turns a
dequantized INT4 product into an 8-bit one and folds Q/DQ pairs.  What the optimized engine gives is
reported beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from qcompiler.errors import BackendError, UnsupportedError

Array = NDArray[Any]
Feeds = Mapping[str, Array]
Level = Literal["off", "basic", "all"]

_LEVELS = {
    "off": onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "all": onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL,
}


# Types that NumPy does not know itself: ONNX Runtime takes and gives their bits.
_BITS = {
    "tensor(bfloat16)": TensorProto.BFLOAT16,
    "tensor(float8e4m3fn)": TensorProto.FLOAT8E4M3FN,
    "tensor(float8e4m3fnuz)": TensorProto.FLOAT8E4M3FNUZ,
    "tensor(float8e5m2)": TensorProto.FLOAT8E5M2,
    "tensor(float8e5m2fnuz)": TensorProto.FLOAT8E5M2FNUZ,
}
_PACKED = ("tensor(int4)", "tensor(uint4)", "tensor(float4e2m1)")
_UNSIGNED = {1: np.uint8, 2: np.uint16}

_FETCHED = onnxruntime.RunOptions()
_FETCHED.only_execute_path_to_fetches = True


class OrtSession:
    """One loaded model; a context manager.

    Args:
        model: A ``ModelProto`` without external data, its bytes, or the path of a file.
        level: Graph optimizations.
        custom_ops: Shared libraries with custom operators that the user trusts.
        threads: Threads within an operator; 0 takes all cores.
        dims: Sizes of symbolic axes, by symbol, for shapes that never change.

    Raises:
        UnsupportedError: ONNX Runtime cannot load the model.
    """

    def __init__(
        self,
        model: ModelProto | bytes | Path,
        *,
        level: Level = "off",
        custom_ops: Sequence[Path] = (),
        threads: int = 0,
        dims: Mapping[str, int] | None = None,
    ) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = _LEVELS[level]
        options.log_severity_level = 4
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "0")
        # One hash of NaN-free memory: the arena only grows, and calibration runs one shape.
        options.enable_mem_pattern = True
        for symbol, size in sorted((dims or {}).items()):
            options.add_free_dimension_override_by_name(symbol, size)
        source = model.SerializeToString() if isinstance(model, ModelProto) else model
        try:
            for library in custom_ops:
                options.register_custom_ops_library(str(library))
            self._session = onnxruntime.InferenceSession(
                source if isinstance(source, bytes) else str(source),
                options,
                providers=["CPUExecutionProvider"],
            )
        except Exception as error:
            raise UnsupportedError(
                f"ONNX Runtime cannot load the model: {_first_line(error)}",
                hint="custom operators need their library (--custom-ops LIB); otherwise simplify "
                "or re-export the model until ONNX Runtime runs it",
            ) from error
        ports = [*self._session.get_inputs(), *self._session.get_outputs()]
        for port in ports:
            if port.type in _PACKED:
                raise UnsupportedError(
                    f"{port.name!r} is a {port.type}: ONNX Runtime neither takes nor gives these",
                    hint="let inputs and outputs of the model have 8 bits or more",
                )
        self._bits = {p.name: _BITS[p.type] for p in ports if p.type in _BITS}
        self.inputs = tuple(i.name for i in self._session.get_inputs())
        self.outputs = tuple(o.name for o in self._session.get_outputs())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        del self._session

    def run(
        self, feeds: Feeds, fetch: Sequence[str] | None = None, *, only_fetched: bool = False
    ) -> dict[str, Array]:
        """Run one feed.

        Args:
            feeds: Input name -> array; names the model does not have are ignored.
            fetch: Outputs to return; all without it.
            only_fetched: Skip the nodes that these outputs do not need.

        Returns:
            Output name -> array.

        Raises:
            BackendError: The run failed.
        """
        names = list(fetch) if fetch is not None else list(self.outputs)
        known = {k: self._given(k, feeds[k]) for k in self.inputs if k in feeds}
        try:
            values = self._session.run(names, known, _FETCHED if only_fetched else None)
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime failed while running the model: {_first_line(error)}",
                hint="check that the data have the shapes that the model expects",
            ) from error
        return {n: self._found(n, v) for n, v in zip(names, values, strict=True)}

    def _given(self, name: str, array: Array) -> object:
        """An input as ONNX Runtime takes it."""
        if name not in self._bits or array.dtype.isbuiltin == 1:
            return array
        bits = np.ascontiguousarray(array).view(_UNSIGNED[array.itemsize])
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, self._bits[name])

    def _found(self, name: str, value: Array) -> Array:
        """An output with the type that the model declares."""
        if name not in self._bits or value.dtype.kind != "u":
            return value
        return value.view(helper.tensor_dtype_to_np_dtype(self._bits[name]))


def version() -> str:
    """The version of ONNX Runtime, for reports."""
    return f"onnxruntime {onnxruntime.__version__}"


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    for marker in ("Status Message: ", "failed:", "FAIL : ", "Exception during initialization: "):
        if marker in text:
            text = text.split(marker, 1)[1]
    return text[:300]


def as_float(array: Array) -> NDArray[np.float64]:
    """An output as float64, for measures of error."""
    return np.asarray(array).astype(np.float64)
