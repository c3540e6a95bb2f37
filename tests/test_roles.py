"""Language-model heads and routers are found by structure and left in float."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from qcompiler.plan import Points
from qcompiler.roles import logits
from tests.hand_made import INT8, graph, nodes, scanned

TABLE = "e = Gather (table, ids)"


def _scanned(body: str, outputs: str = "float[4,256] y", *, heads: bool = False) -> Points:
    return scanned(
        f"g (int64[4] ids, float[4,32] x) => ({outputs}) {{ {body} }}",
        recipe=msgspec.structs.replace(INT8, heads=heads),
        table=(256, 32),
        W=(32, 256),
        V=(32, 32),
        b=(256,),
        R=(32, 16),
        half=np.array(0.5, np.float32),
        k=np.array([2]),
    )


@pytest.mark.parametrize(
    "tail",
    [
        "[head] y = MatMul (e, W)",
        "[head] h = MatMul (e, W)  y = Add (h, b)",
        "[head] h = MatMul (e, W)  i = Mul (h, half)  y = Softmax (i)",
        "[head] y = Gemm <transB = 1> (e, table)",
    ],
)
def test_s19_the_head_projects_onto_the_rows_of_an_embedding_table(tail: str) -> None:
    points = _scanned(f"{TABLE} {tail}")
    assert "language-model head" in points.skipped["head"]
    assert nodes(points.weights, "weight") == set()
    assert nodes(_scanned(f"{TABLE} {tail}", heads=True).weights, "weight") == {"head"}


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("[one] y = MatMul (x, W)", "float[4,256] y"),  # no table
        (f"{TABLE} [one] y = MatMul (e, V)", "float[4,32] y"),  # of another size
        (f"{TABLE} [one] h = MatMul (e, W) y = Relu (h)", "float[4,256] y"),  # a hidden layer
    ],
)
def test_what_only_looks_like_one_is_quantized(body: str, outputs: str) -> None:
    assert nodes(_scanned(body, outputs).weights, "weight") == {"one"}


@pytest.mark.parametrize(
    "tail",
    [
        "v, y = TopK (r, k)",
        "s = Softmax (r)  v, y = TopK (s, k)",
        "s = Sigmoid (r)  t = Mul (s, half)  v, y = TopK (t, k)",
        "y = ArgMax (r)",
    ],
)
def test_s19_a_router_picks(tail: str) -> None:
    body = f"[router] r = MatMul (x, R) {tail}"
    points = _scanned(body, "int64[A,B] y")
    assert "a router" in points.skipped["router"]
    assert nodes(_scanned(body, "int64[A,B] y", heads=True).weights, "weight") == {"router"}


@pytest.mark.parametrize(
    ("tail", "found"),
    [
        ("y = MatMul (e, W)", {"y"}),
        ("h = MatMul (e, W)  y = Add (h, b)", {"y"}),
        ("h = MatMul (e, W)  y = Softmax (h)", set()),  # probabilities
        ("h = MatMul (e, W)  y = Relu (h)", set()),
        ("h = MatMul (x, W)  y = MatMul (h, T)", set()),  # of no vocabulary
    ],
)
def test_the_logits_are_what_a_head_computes(tail: str, found: set[str]) -> None:
    text = f"g (int64[4] ids, float[4,32] x) => (float[4,n] y) {{ {TABLE} {tail} }}"
    made = graph(text, table=(256, 32), W=(32, 256), b=(256,), T=(256, 32))
    assert logits(made) == found
