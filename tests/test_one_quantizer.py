"""Exactly one Q behind a norm, whoever reads it (rule E15).

A norm's result goes to query, key and value, to gate and up, or to a layer and, in a post-norm
network, to the residual stream.  Each Q of its own would be one more kernel, and scales that differ
would keep TensorRT from joining the products.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from qcompiler import recipe as recipes
from qcompiler import targets
from qcompiler.apply import passes_of
from qcompiler.engine.trial import placeholder
from qcompiler.graph import Graph, Tensor
from qcompiler.passes.merge_qdq import MergeQdq
from qcompiler.passes.merge_siblings import MergeSiblings
from qcompiler.passes.split_heads import SplitHeads
from qcompiler.pipeline import Pipeline
from qcompiler.scan import scan
from qcompiler.verify import DEQUANTIZE, QUANTIZE
from tests.hand_made import graph

NORM = "n = LayerNormalization <axis = -1> (x, gamma, beta)"
READERS = {
    "query, key, value": """
      q = MatMul (n, A)  k = MatMul (n, B)  v = MatMul (n, C)
      s = Relu (q)  t = Mul (s, k)  y = Add (t, v)
    """,
    "gate and up": """
      a = MatMul (n, A)  b = MatMul (n, B)  s = Sigmoid (a)  t = Mul (a, s)  y = Mul (t, b)
    """,
    "a layer and the residual stream": "a = MatMul (n, A)  r = Relu (a)  y = Add (n, r)",
    "a layer and one behind a Reshape": """
      a = MatMul (n, A)  f = Reshape (n, rows)  b = MatMul (f, B)  c = Reshape (b, whole)
      y = Mul (a, c)
    """,
}
QUANTIZERS = {"a layer and one behind a Reshape": 2}


def _block(readers: str) -> Graph:
    return graph(
        f"g (float[2,24,32] x) => (float[2,24,32] y) {{ {NORM} {readers} }}",
        rows=np.array([48, 32]),
        whole=np.array([2, 24, 32]),
        gamma=(32,),
        beta=(32,),
        A=(32, 32),
        B=(32, 32),
        C=(32, 32),
    )


def _quantized(made: Graph, recipe: str) -> None:
    chosen, target = recipes.find(recipe), targets.find("tensorrt-rtx:sm89")
    Pipeline(passes_of(placeholder(made, scan(made, chosen, target), chosen))).run(made)


def _readers(made: Graph, tensor: Tensor) -> Counter[str]:
    return Counter(n.op for n, _ in made.users(tensor))


@pytest.mark.parametrize("recipe", ["int8+fp16", "fp8+fp16"])
@pytest.mark.parametrize("merged", [False, True], ids=["apart", "merged"])
@pytest.mark.parametrize("name", READERS)
def test_one_pair_serves_all_readers(name: str, merged: bool, recipe: str) -> None:
    """One Q and one DQ for each tensor; only what is moved in between has a pair of its own."""
    made = _block(READERS[name])
    if merged:
        Pipeline((MergeSiblings(), SplitHeads())).run(made)
    products = sum(n.op == "MatMul" for n in made.nodes)
    _quantized(made, recipe)
    pairs = [n for n in made.nodes if n.op == QUANTIZE]
    wanted = QUANTIZERS.get(name, 1)
    assert len(pairs) == wanted
    reached = 0
    for pair in pairs:
        assert _readers(made, pair.outputs[0]) == {DEQUANTIZE: 1}
        (back, _), *_ = made.users(pair.outputs[0])
        reached += _readers(made, back.outputs[0])["MatMul"]
    assert reached == products


def test_the_residual_stream_keeps_the_float() -> None:
    made = _block(READERS["a layer and the residual stream"])
    _quantized(made, "int8+fp16")
    add = next(n for n in made.nodes if n.op == "Add")
    sources = [made.producer(t) for t in add.inputs]
    assert DEQUANTIZE not in {n.op for n in sources if n is not None}


@pytest.mark.parametrize(("second", "left"), [(0.05, 1), (0.04, 2)], ids=["equal", "other"])
def test_pairs_of_a_quantized_model_become_one_if_their_scales_are_equal(
    second: float, left: int
) -> None:
    made = graph(
        f"""g (float[4,32] x) => (float[4,32] y) {{
          {NORM}
          q1 = QuantizeLinear (n, s1, z)  d1 = DequantizeLinear (q1, s1, z)
          q2 = QuantizeLinear (n, s2, z)  d2 = DequantizeLinear (q2, s2, z)
          a = MatMul (d1, A)  b = MatMul (d2, B)  y = Mul (a, b)
        }}""",
        gamma=(32,),
        beta=(32,),
        A=(32, 32),
        B=(32, 32),
        s1=np.array(0.05, np.float32),
        s2=np.array(second, np.float32),
        z=np.array(0, np.int8),
    )
    Pipeline((MergeQdq(),)).run(made)
    assert sum(n.op == QUANTIZE for n in made.nodes) == left
