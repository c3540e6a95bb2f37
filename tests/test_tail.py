"""What computes behind the last product, and for float32 outputs only, stays in float32."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from qcompiler.engine.trial import placeholder
from qcompiler.load import load
from qcompiler.passes.cast_precision import CastPrecision
from qcompiler.pipeline import Pipeline
from qcompiler.recipe import find
from qcompiler.scan import scan
from qcompiler.tail import tail
from qcompiler.targets import find as find_target

BOXES = """
<ir_version: 10, opset_import: ["" : 21]>
boxes (float[1, 4] x) => (float[1, 3] scores, float[1, 8] corners)
<float[4, 3] W = {1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3}, float[4, 8] V = {
 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8},
 float stride = {32.0}, float half = {0.5}, int64[2] parts = {4, 4}>
{
  [logits] y = MatMul (x, W)
  [soft] scores = Softmax (y)
  [raw] r = MatMul (x, V)
  [split] c, s = Split <axis = 1> (r, parts)
  [center] cs = Mul (c, stride)
  [size] e = Exp (s)
  [halve] h = Mul (e, half)
  [low] l = Sub (cs, h)
  [high] u = Add (cs, h)
  [corners] corners = Concat <axis = 1> (l, u)
}
"""
KEPT = ["soft", "center", "size", "halve", "low", "high", "corners"]


def test_softmax_and_the_arithmetic_of_boxes_are_the_tail() -> None:
    graph = load(onnx.parser.parse_model(BOXES))
    graph.infer()
    assert list(tail(graph)) == KEPT  # not the Split: it rounds nothing


def test_no_tail_in_front_of_float16_outputs() -> None:
    graph = load(onnx.parser.parse_model(BOXES))
    graph.infer()
    assert tail(graph, "float16") == {}


@pytest.mark.parametrize(
    ("body", "outputs", "kept"),
    [
        # Part of the product's kernel.
        ("y = MatMul (x, W)\n z = Sigmoid (y)", "float[2, 4] z", []),
        # Data movement alone rounds nothing.
        ("y = MatMul (x, W)\n z = Transpose (y)", "float[4, 2] z", []),
        # A norm ends it.
        ("y = Softmax (x)\n z = ReduceSum (y)", "float[1, 1] z", []),
        # Another product reads the value.
        ("y = Softmax (x)\n z = MatMul (y, W)", "float[2, 4] y, float[2, 4] z", []),
        # An output that the tail reads on.
        ("y = Softmax (x)\n z = Sqrt (y)", "float[2, 4] y, float[2, 4] z", ["y", "z"]),
        # Nobody reads it.
        ("y = Softmax (x)\n z = Relu (x)", "float[2, 4] z", []),
    ],
)
def test_where_the_tail_ends(body: str, outputs: str, kept: list[str]) -> None:
    text = (
        '<ir_version: 10, opset_import: ["" : 21]>\n'
        f"g (float[2, 4] x) => ({outputs})\n"
        "<float[4, 4] W = {1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3, 4, 5, 6, 7, 8}>\n{\n " + body + "\n}"
    )
    graph = load(onnx.parser.parse_model(text))
    graph.infer()
    assert list(tail(graph)) == [f"node_of_{name}" for name in kept]


def test_coordinates_beyond_the_grid_of_float16_come_out_exact() -> None:
    """32 * 40.03 = 1280.96 is 1281 in float16, whose numbers stand one apart there."""
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[1, 2] x) => (float[1, 2] z)
    <float[2, 2] W = {40, 0, 0, 40}, float stride = {32.0}, float offset = {0.3125}>
    {
      y = MatMul (x, W)
      [place] p = Mul (y, stride)
      [move] z = Add (p, offset)
    }
    """
    x = np.array([[1.0, 0.5]], np.float32)
    errors = []
    for spare in (False, True):
        graph = load(onnx.parser.parse_model(text))
        graph.infer()
        keep = tuple(tail(graph)) if spare else ()
        Pipeline((CastPrecision(keep=keep),)).run(graph)
        (z,) = ReferenceEvaluator(graph.proto()).run(None, {"x": x})
        errors.append(np.abs(np.asarray(z) - [[1280.3125, 640.3125]]).max())
    assert errors == [0.3125, 0.0]


def test_the_trial_engines_have_the_tail_of_the_graph_that_is_written() -> None:
    graph = load(onnx.parser.parse_model(BOXES))
    graph.infer()
    recipe, target = find("fp16"), find_target("tensorrt-rtx")
    plan = placeholder(graph, scan(graph, recipe, target), recipe)
    assert list(plan.keep) == KEPT
