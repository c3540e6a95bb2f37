"""What stays in float32, by measured ranges: each rule fires where its values do not fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompiler.graph import Graph
from qcompiler.islands import islands, watched
from qcompiler.narrow import BFLOAT16, FLOAT16, Narrow
from qcompiler.observers.histogram import Histogram
from tests import hand_made
from tests.contract.running import session


def _islands(text: str, x: NDArray[Any], low: Narrow = FLOAT16) -> dict[str, str]:
    """Run a graph of one input, look at all that is watched, decide."""
    graph = hand_made.graph(text)
    return islands(graph, low, _seen(graph, {"x": x.astype(np.float32)}))


def _seen(graph: Graph, feeds: Mapping[str, NDArray[Any]]) -> dict[str, Histogram]:
    proto = graph.proto()
    wanted = watched(graph, FLOAT16)
    have = {o.name for o in (*proto.graph.output, *proto.graph.input)}
    for name in wanted:
        if name not in have:
            proto.graph.output.add(name=name)
    run = session(proto)
    found = dict(zip([o.name for o in run.get_outputs()], run.run(None, dict(feeds)), strict=True))
    found |= feeds
    none = np.zeros(0, np.float32)
    with np.errstate(all="ignore"):
        return {
            n: Histogram.empty().update(none, float(found[n].min()), float(found[n].max()))
            for n in wanted
        }


def test_too_large_values_stay_in_float32_wherever_they_are_read() -> None:
    """The island begins with what makes them, and ends where they fit again."""
    kept = _islands(
        """g (float[4] x) => (float[4] y) <float k = {1000}, float l = {0.00001}> {
          [small] a = Tanh (x)
          [grows] b = Mul (x, k)
          [moves] c = Reshape (b, s)
          [bounded] d = Relu (c)
          [shrinks] e = Mul (d, l)
          [after] f = Tanh (e)
          y = Add (a, f)
        }""".replace("float l = {0.00001}", "float l = {0.00001}, int64[1] s = {4}"),
        np.array([1.0, -2.0, 40.0, 80.0]),
    )
    assert list(kept) == ["grows", "moves", "bounded", "shrinks"]
    assert kept["grows"] == "its result reaches 80000; float16 ends at 65504"
    assert kept["shrinks"] == "it reads 'd', which reaches 80000; float16 ends at 65504"


@pytest.mark.parametrize(("largest", "fits"), [(32000.0, True), (33000.0, False)])
def test_half_of_the_range_is_left_for_what_was_not_seen(largest: float, fits: bool) -> None:
    kept = _islands("g (float[1] x) => (float[1] y) { y = Neg (x) }", np.array([largest]))
    assert (kept == {}) is fits


def test_squares_and_their_mean_by_what_they_reach() -> None:
    """300^2 is too much; of 3 the squares fit, and the sum of 16 of them."""
    text = """g (float[2,16] x) => (float[2,1] y) <float two = {2}, int64[1] last = {-1}> {
      [square] s = Pow (x, two)
      [mean] y = ReduceMean (s, last)
    }"""
    assert list(_islands(text, np.full((2, 16), 300.0))) == ["square", "mean"]
    assert _islands(text, np.full((2, 16), 3.0)) == {}
    # Each square is 14,400, their sum is 230,400.
    kept = _islands(text, np.full((2, 16), 120.0))
    assert kept == {"mean": "what it sums reaches 230400; float16 ends at 65504"}


@pytest.mark.parametrize(
    ("op", "value", "reason"),
    [
        ("ReduceL2 (x, last)", 100.0, "what it sums reaches 160000"),
        ("ReduceSumSquare (x, last)", 60.0, "its result reaches 57600"),
        ("ReduceSum (x, last)", 3000.0, "its result reaches 48000"),
        ("CumSum (x, one)", 3000.0, "its result reaches 48000"),
        ("ReduceLogSumExp (x, last)", 12.0, "what it sums reaches 2.60408e+06"),
        ("Exp (x)", 11.0, "its result reaches 59874.1"),
        ("Mul (x, x)", 200.0, "its result reaches 40000"),
    ],
)
def test_by_what_the_operator_accumulates(op: str, value: float, reason: str) -> None:
    text = f"""g (float[2,16] x) => (float y) <int64[1] last = {{-1}}, int64 one = {{1}}> {{
      [node] y = {op}
    }}"""
    text = text.replace("=> (float y)", "=> (float[N,M] y)")
    (why,) = _islands(text, np.full((2, 16), value)).values()
    assert why.startswith(reason)
    assert _islands(text, np.full((2, 16), value / 40)) == {}


def test_more_terms_than_a_sum_can_tell_apart() -> None:
    """1 + 1 + ... stops at 2048 in float16, at 256 in bfloat16; norms may say float32."""
    for op in ("Softmax (x)", "ReduceMean (x, last)"):
        text = f"g (float[1,N] x) => (float[1,M] y) <int64[1] last = {{-1}}> {{ y = {op} }}"
        for low, most in ((FLOAT16, 2048), (BFLOAT16, 256)):
            for terms in (most, most + 1):
                fixed = text.replace("float[1,N]", f"float[1,{terms}]")
                kept = _islands(fixed, np.ones((1, terms)), low)
                assert (kept == {}) is (terms == most)
    norm = """g (float[1,4096] x) => (float[1,4096] y) {
      y = LayerNormalization <stash_type = 1> (x, g)
    }"""
    graph = hand_made.graph(norm, g=np.ones(4096, np.float32))
    assert islands(graph, FLOAT16, _seen(graph, {"x": np.full((1, 4096), 9, np.float32)})) == {}


def test_values_that_are_next_to_nothing() -> None:
    """Squares of 0.001 are 16 steps of float16; their root would be off by 3 %."""
    kept = _islands(
        "g (float[2] x) => (float[2] y) { [square] s = Mul (x, x) [root] y = Sqrt (s) }",
        np.array([0.001, 0.0005]),
    )
    assert list(kept) == ["square", "root"]
    assert kept["square"] == "its result is 1e-06 at most: next to nothing in float16"


def test_a_small_divisor() -> None:
    """It is made in float32 and divided by in float32; large ones need nothing."""
    text = """g (float[2] x) => (float[2] y) {
      [square] s = Mul (x, x)
      [quotient] y = Div (x, s)
    }"""
    kept = _islands(text, np.array([0.001, 2.0]))
    assert list(kept) == ["square", "quotient"]
    assert kept["square"] == "'s' goes down to 1e-06 and is divided by, or a root taken of"
    assert _islands(text, np.array([0.1, 2.0])) == {}


def test_offsets_on_a_grid_stay_until_something_multiplies_them_by_weights() -> None:
    """Column 7 plus 0.02: float16 has steps of 0.004 there."""
    text = """g (float[1,8] x) => (float[1,8] y, float[1,8] z)
    <float[8] column = {0, 1, 2, 3, 4, 5, 6, 7}, float stride = {32}> {
      [add] a = Add (x, column)
      [scale] y = Mul (a, stride)
      [product] p = MatMul (y, W)
      z = Tanh (p)
    }"""
    graph = hand_made.graph(text, W=np.eye(8, dtype=np.float32))
    for size, found in ((0.02, ["add", "scale"]), (1.0, [])):
        seen = _seen(graph, {"x": np.full((1, 8), size, np.float32)})
        assert list(islands(graph, FLOAT16, seen)) == found


def test_a_mask_is_no_overflow() -> None:
    """What stands for infinity becomes 65504, and that is masked as well."""
    kept = _islands(
        """g (float[1,3] x) => (float[1,3] y) <float[3] mask = {0, 0, -1000000000}> {
          s = Add (x, mask)
          r = Reshape (s, shape)
          y = Softmax (r)
        }""".replace("{0, 0, -1000000000}>", "{0, 0, -1000000000}, int64[2] shape = {1, 3}>"),
        np.array([[1.0, 2.0, 3.0]]),
    )
    assert kept == {}


def test_only_what_can_grow_is_watched() -> None:
    graph = hand_made.graph(
        """g (float[2,2] x, int64[2] i) => (float[2,2] y) {
          a = MatMul (x, x)
          b = Relu (a)
          c = Transpose (b)
          d = Softmax (c)
          e = Sigmoid (d)
          y = Exp (e)
        }"""
    )
    assert watched(graph, FLOAT16) == ("x", "a", "y")
    assert watched(graph, BFLOAT16) == ()


def test_nothing_is_known_without_statistics() -> None:
    graph = hand_made.graph("g (float[2] x) => (float[2] y) { y = Exp (x) }")
    assert islands(graph, FLOAT16, {}) == {}
