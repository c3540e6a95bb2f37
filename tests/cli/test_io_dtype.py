"""``--io-dtype`` and the nodes that stay in float32, as the command line shows them."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from tests.cli.conftest import Run
from tests.hand_made import model


@pytest.mark.parametrize(
    ("words", "element"),
    [((), TensorProto.FLOAT), (("--io-dtype", "float16"), TensorProto.FLOAT16)],
)
def test_types_of_inputs_and_outputs(
    run: Run, mlp: Path, words: tuple[str, ...], element: int
) -> None:
    ran = run(mlp, "--recipe", "fp16", *words)
    assert ran.code == 0
    graph = onnx.load(mlp.with_name("mlp.fp16.onnx")).graph
    assert {v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)} == {element}


def test_a_type_that_gains_nothing_is_a_usage_error(run: Run, mlp: Path) -> None:
    ran = run(mlp, "--recipe", "int8", "--io-dtype", "float16")
    assert ran.code == 2
    assert "gain nothing" in ran.err
    assert "--io-dtype keep" in ran.err


def test_nodes_kept_in_float32_are_listed(run: Run, tmp_path: Path) -> None:
    text = """g (float[4,32] x) => (float[1,1] y) <float k = {1000}> {
      a = Mul (x, k)
      [square] b = Mul (a, a)
      [root] c = Sqrt (b)
      t = Tanh (c)
      y = ReduceMax <keepdims = 1> (t)
    }"""
    path = tmp_path / "large.onnx"
    onnx.save(model(text), path)
    ran = run(path, "--recipe", "fp16")
    assert ran.code == 0
    (line,) = [line for line in ran.out.splitlines() if line.startswith("in float32")]
    assert "square" in line
    assert "root" in ran.out
