"""Laws of the facade on random graphs."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto

from qcompiler.load import load
from qcompiler.pipeline import Pipeline, find_pass
from qcompiler.text import listing
from qcompiler.verify import check_onnx, check_structure
from tests.contract.running import assert_same_function
from tests.strategies import models

FEEDS = {"x": np.random.default_rng(0).standard_normal((2, 4)).astype(np.float32)}
PREPARE = (
    "drop-identity", "convert-opset", "lift-constants", "fold-constants", "fold-batch-norm",
    "split-shared-weights",
)  # fmt: skip


@given(models())
@settings(max_examples=40, deadline=None)
def test_loading_what_was_written_changes_nothing(model: ModelProto) -> None:
    once = load(model)
    twice = load(once.proto())
    assert listing(once, names=True) == listing(twice, names=True)
    assert once.proto().SerializeToString(deterministic=True) == twice.proto().SerializeToString(
        deterministic=True
    )


@given(models(), st.lists(st.tuples(st.integers(0, 50), st.sampled_from("isrc")), max_size=6))
@settings(max_examples=60, deadline=None)
def test_any_edits_leave_a_valid_graph(model: ModelProto, edits: list[tuple[int, str]]) -> None:
    """Insert, swap, replace, make constant, anywhere: sorted, single definitions, names kept."""
    graph = load(model)
    declared = [t.name for t in (*graph.inputs, *graph.outputs)]
    for where, kind in edits:
        if not graph.nodes:
            break
        node = graph.nodes[where % len(graph.nodes)]
        result = node.outputs[0]
        if kind == "i" and node.inputs and not graph.has_body(node):
            graph.set_input(node, 0, graph.add("Neg", [node.inputs[0]], output="n"))
        elif kind == "s" and node.op == "Add":
            first, second = node.inputs
            graph.set_inputs(node, [second, first])
        elif kind == "r":
            graph.replace(result, graph.add("Abs", [graph.inputs[0]], output="a"))
        elif kind == "c" and result.shape == [2, 4]:
            graph.make_constant(result, np.ones((2, 4), np.float32))
        graph.sweep()
        check_structure(graph.proto())
    assert [t.name for t in (*graph.inputs, *graph.outputs)] == declared


@given(models())
@settings(max_examples=40, deadline=None)
def test_prepare_passes_keep_the_function(model: ModelProto) -> None:
    graph = load(model)
    graph.infer()
    passes = tuple(find_pass(name)() for name in PREPARE)
    Pipeline(passes).run(graph)
    assert check_onnx(graph) == ""
    assert_same_function(model, graph.proto(), FEEDS)
    again = Pipeline(passes[2:]).run(graph)
    assert [s.name for s in again if s.rewrites] == []
