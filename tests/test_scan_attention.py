"""Attention is quantized entirely or not at all (rules F02, F18)."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from models import build
from qcompiler import recipe as recipes
from qcompiler import targets
from qcompiler.attention import attentions
from qcompiler.calibrate import Statistics
from qcompiler.decide import decide
from qcompiler.graph import label
from qcompiler.observers.histogram import Histogram
from qcompiler.plan import Points
from qcompiler.prepare import prepare
from qcompiler.scan import scan
from tests.hand_made import graph, scanned, table

HALF = recipes.find("int8+fp16")
WEIGHTS = {"Q": (64, 64), "K": (64, 64), "V": (64, 64), "O": (64, 64)}
BODY = """
  q1 = MatMul (x, Q)  q2 = Reshape (q1, heads)  q = Transpose <perm = [0, 2, 1, 3]> (q2)
  k1 = MatMul (x, K)  k2 = Reshape (k1, heads)  k = Transpose <perm = [0, 2, 3, 1]> (k2)
  v1 = MatMul (x, V)  v2 = Reshape (v1, heads)  v = Transpose <perm = [0, 2, 1, 3]> (v2)
  [scores] s = MatMul (q, k)  t = Mul (s, scale)  p = Softmax <axis = -1> (t)
  [result] r = MatMul (p, v)
  c1 = Transpose <perm = [0, 2, 1, 3]> (r)  c = Reshape (c1, flat)
"""
END = "[out] y = MatMul (c, O)"


def _scanned(
    head: int = 16, end: str = END, *, outputs: str = "float[1,24,64] y", target: str = "tensorrt"
) -> Points:
    return scanned(
        f"g (float[1,24,64] x) => ({outputs}) {{ {BODY} {end} }}",
        target,
        HALF,
        heads=np.array([1, 24, 64 // head, head]),
        flat=np.array([1, 24, 64]),
        scale=np.array(0.25, np.float32),
        **WEIGHTS,
    )


def _slots(points: Points, node: str) -> set[tuple[str, int, str]]:
    found = table(points.activations)
    return {(t, s.index, s.role) for t, slots in found.items() for s in slots if s.node == node}


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx"])
def test_f02_query_key_probabilities_value_and_the_projection(target: str) -> None:
    points = _scanned(target=target)
    assert _slots(points, "scores") == {("q", 0, "activation"), ("k", 1, "activation")}
    assert _slots(points, "result") == {("p", 0, "activation"), ("v", 1, "activation")}
    assert _slots(points, "out") == {("c", 0, "activation")}
    assert points.needs == {"scores": ("result",), "result": ("scores", "out")}
    assert not {"scores", "result"} & points.skipped.keys()


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"head": 8}, "heads of 16, 32, 64, not 8"),
        ({"end": "y = Relu (c)"}, "what reads its result stays in float"),
        ({"end": END + " z = Relu (c)", "outputs": "float[1,24,64] y, float[1,24,64] z"},
         "what reads its result stays in float"),
        ({"end": END, "outputs": "float[1,24,64] y, float[1,24,64] c"},
         "what reads its result stays in float"),
    ],
)  # fmt: skip
def test_otherwise_both_products_stay_in_float(said: dict[str, str], why: str) -> None:
    points = _scanned(**said)  # type: ignore[arg-type]
    assert why in points.skipped["scores"]
    assert points.skipped["scores"] == points.skipped["result"]
    assert points.needs == {}
    assert not _slots(points, "scores") | _slots(points, "result")


def test_excluding_either_product_excludes_both() -> None:
    made = graph(
        f"g (float[1,24,64] x) => (float[1,24,64] y) {{ {BODY} {END} }}",
        heads=np.array([1, 24, 4, 16]),
        flat=np.array([1, 24, 64]),
        scale=np.array(0.25, np.float32),
        **WEIGHTS,
    )
    for node in ("scores", "result"):
        points = scan(made, HALF.excluding([node]), targets.find("tensorrt"))
        assert {points.skipped[n] for n in ("scores", "result")} == {f"excluded by '{node}'"}


def test_with_a_float32_base_attention_is_left_alone() -> None:
    prepared, _ = prepare(build.load("attention"), targets.find("tensorrt"))
    points = scan(prepared, recipes.find("int8"), targets.find("tensorrt"))
    for attention in attentions(prepared):
        assert {label(n) for n in attention.nodes} <= points.skipped.keys()
    assert points.needs == {}


@pytest.mark.parametrize("lost", ["q", "p", "c"])
def test_what_needs_a_node_that_stays_in_float_does_too(lost: str) -> None:
    """One operand with infinities takes its node, and with it the whole attention."""
    points = _scanned()
    seen = {p.tensor: Histogram.empty().update(np.ones(4, np.float32)) for p in points.activations}
    seen[lost] = Histogram.empty().update(np.array([1, np.inf], np.float32))
    made = graph(
        f"g (float[1,24,64] x) => (float[1,24,64] y) {{ {BODY} {END} }}",
        heads=np.array([1, 24, 4, 16]),
        flat=np.array([1, 24, 64]),
        scale=np.array(0.25, np.float32),
        **WEIGHTS,
    )
    plan = decide(made, points, Statistics(points.model_digest, "", False, 1, seen), HALF)
    assert {"scores", "result"} <= plan.skipped.keys()
    assert ("out" in plan.skipped) is (lost == "c")
    assert not plan.quantized_nodes() & {"scores", "result"}


def test_a_node_moved_to_skipped_by_hand_is_not_counted() -> None:
    points = _scanned()
    seen = {p.tensor: Histogram.empty().update(np.ones(4, np.float32)) for p in points.activations}
    made = graph(
        f"g (float[1,24,64] x) => (float[1,24,64] y) {{ {BODY} {END} }}",
        heads=np.array([1, 24, 4, 16]),
        flat=np.array([1, 24, 64]),
        scale=np.array(0.25, np.float32),
        **WEIGHTS,
    )
    plan = decide(made, points, Statistics(points.model_digest, "", False, 1, seen), HALF)
    assert {"scores", "result", "out"} <= plan.quantized_nodes()
    edited = msgspec.structs.replace(plan, skipped={**plan.skipped, "scores": "by hand"})
    assert "scores" not in edited.quantized_nodes()
