"""The models that a compilation runs: the finished graph, and what it is judged on."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from qcompiler.bodies import flatten
from qcompiler.emit import emit
from qcompiler.graph import Graph
from qcompiler.narrow import BFLOAT16, NARROW
from qcompiler.rounded import rounded

_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})


@contextmanager
def runnable(graph: Graph) -> Iterator[ModelProto | Path]:
    """The graph as ONNX Runtime loads it: a proto, or files in a temporary folder if large."""
    if not graph.is_large:
        yield graph.proto()
        return
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        yield emit(graph, Path(folder) / "model.onnx")[0]


@contextmanager
def judged(
    graph: Graph, base: str, narrow: Collection[str] = ()
) -> Iterator[ModelProto | Path | None]:
    """What the accuracy of a finished graph is measured on.

    Of a 16-bit graph that is float32 arithmetic with every result rounded
    (:mod:`qcompiler.rounded`), with the inputs of the original; where that cannot be written (a
    large model, 16 bits in the sub-graph of an unknown operator), the graph itself if ONNX Runtime
    can run it.

    Args:
        graph: The finished graph.
        base: Element type of its float tensors.
        narrow: Inputs that were narrow in the original, and are here.

    Yields:
        A model, or None.
    """
    low = NARROW.get(base)
    if low is not None and not graph.is_large:
        graph.infer()
        simulated = rounded(graph, low, narrow)
        if simulated is not None:
            yield simulated
            return
    if obstacle(graph, base):
        yield None
        return
    with runnable(graph) as model:
        yield model


def obstacle(graph: Graph, base: str) -> str:
    """Why ONNX Runtime cannot run a finished graph on a CPU, as far as that is known; or empty."""
    low = NARROW.get(base)
    if low is None:
        return ""
    if low is BFLOAT16:
        return "ONNX Runtime has no bfloat16 kernels on a CPU"
    for node in flatten(graph).graph.nodes:
        if node.op in _RECURRENT and any(t.dtype == low.dtype for t in node.inputs):
            return f"ONNX Runtime crashes on a float16 {node.op} on a CPU"
    return ""


def fed(
    model: ModelProto | Path, samples: Sequence[Mapping[str, Any]]
) -> Sequence[Mapping[str, Any]]:
    """Samples with float32 arrays in float16 where a model wants that."""
    proto = model if isinstance(model, ModelProto) else onnx.load(model, load_external_data=False)
    half = {
        v.name for v in proto.graph.input if v.type.tensor_type.elem_type == TensorProto.FLOAT16
    }
    return [
        {k: v.astype(np.float16) if k in half else v for k, v in sample.items()}
        for sample in samples
    ]
