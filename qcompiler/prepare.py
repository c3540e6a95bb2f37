"""A model -> the graph that scan expects: the exact passes, in order."""

from __future__ import annotations

from pathlib import Path

from onnx import ModelProto

from qcompiler.errors import UnsupportedError
from qcompiler.graph import Graph
from qcompiler.load import load
from qcompiler.passes.convert_opset import ConvertOpset
from qcompiler.pipeline import Pass, Pipeline, Step, find_pass
from qcompiler.progress import Journal, Silent
from qcompiler.targets.base import Target
from qcompiler.verify import check_onnx, require_valid

# Exact passes before quantization, in order; opset conversion stands after the first two.
PREPARE: tuple[str, ...] = (
    "lift-constants",
    "fold-constants",
    "convert-opset",
    "drop-identity",
    "drop-casts",
    "fold-weight-moves",
    "fuse-layer-norm",
    "fuse-rms-norm",
    "fuse-gelu",
    "fuse-silu",
    "fuse-hard-swish",
    "fold-batch-norm",
    "fold-scales",
    "fold-norm-scales",
    "split-shared-weights",
)
# Q/DQ needs this opset at least: per-axis scales and an axis attribute came with it.
LEAST_OPSET = 13


def prepare(
    source: str | Path | bytes | ModelProto, target: Target, journal: Journal | None = None
) -> tuple[Graph, tuple[Step, ...]]:
    """Load a model and bring it into the form that scan expects; exact passes only.

    Raises:
        InputError: Not a model, or a damaged one.
        UnsupportedError: Its operator set is newer than the target reads, or cannot be raised to
            the least that Q/DQ needs.
    """
    graph = load(source)
    return graph, prepare_graph(graph, target, journal or Journal(Silent()))


def prepare_graph(graph: Graph, target: Target, journal: Journal) -> tuple[Step, ...]:
    """``prepare`` of a graph that is loaded already, in place.

    Raises:
        UnsupportedError: As ``prepare``.
    """
    valid = check_onnx(graph) == ""
    graph.infer()
    if graph.opset > target.max_opset:
        raise UnsupportedError(
            f"the model uses opset {graph.opset}; {target.name} reads up to {target.max_opset}",
            hint=f"export it with opset {target.max_opset} or lower",
        )
    passes = tuple(
        ConvertOpset(to=target.opset) if name == "convert-opset" else find_pass(name)()
        for name in (*PREPARE, *target.prepares)
    )
    steps = _run_prepare(graph, passes, journal)
    if valid:
        require_valid(graph, "prepare")
    return steps


def _run_prepare(graph: Graph, passes: tuple[Pass, ...], journal: Journal) -> tuple[Step, ...]:
    """Run the passes; a graph whose opset cannot be raised goes on at its own, if that suffices."""
    steps: tuple[Step, ...] = ()
    for entry in passes:
        try:
            steps += Pipeline((entry,)).run(graph)
        except UnsupportedError as error:
            if graph.opset < LEAST_OPSET:
                raise
            journal.warn(f"stays at opset {graph.opset}: {error.message}")
    return steps
