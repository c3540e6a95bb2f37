"""Which roundings spoil the outputs: a lossy subtraction is found, plain noise is not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompiler import targets
from qcompiler.graph import Graph, label
from qcompiler.narrow import BFLOAT16, FLOAT16, Narrow
from qcompiler.noise import needed, switched
from qcompiler.passes.cast_precision import CastPrecision
from qcompiler.pipeline import Pipeline
from qcompiler.prepare import prepare
from qcompiler.rounded import rounded
from tests import hand_made
from tests.contract.running import session

RNG = np.random.default_rng(11)
X = RNG.standard_normal((4, 32)).astype(np.float32)
# 1000 is added and taken away again: half of float16's bits go to it, every value fits.
CANCELS = """g (float[4,32] x) => (float[4,32] y) <float k = {1000}> {
  [before] a = MatMul (x, W)
  [up] b = Add (a, k)
  [moves] c = Reshape (b, s)
  [down] d = Sub (c, k)
  [after] y = MatMul (d, V)
}"""
PLAIN = """g (float[4,32] x) => (float[4,32] y) {
  a = MatMul (x, W)
  b = Tanh (a)
  y = MatMul (b, V)
}"""


def _graph(text: str) -> Graph:
    source = hand_made.model(text, W=(32, 32), V=(32, 32), s=np.array([4, 32]))
    graph, _ = prepare(source, targets.find("tensorrt"))
    return graph


def _decibels(exact: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(10 * np.log10(np.square(exact).sum() / np.square(exact - other).sum()))


def test_what_is_lost_between_two_nodes_is_kept_in_float32_from_one_to_the_other() -> None:
    graph = _graph(CANCELS)
    found = needed(graph, FLOAT16, (), {"x": X})
    assert {"up", "moves", "down"} <= set(found)
    assert found["up"].startswith("rounding 'b' alone leaves ")
    assert list(found) == [label(n) for n in graph.nodes if label(n) in found]


def test_keeping_them_is_worth_it() -> None:
    """Judged on the finished graphs, with every tensor rounded: 20 dB, twice the bits."""
    decibels = []
    for keep in ((), tuple(needed(_graph(CANCELS), FLOAT16, (), {"x": X}))):
        graph = _graph(CANCELS)
        (exact,) = session(graph.proto()).run(None, {"x": X})
        Pipeline((CastPrecision(keep=keep),)).run(graph)
        simulated = rounded(graph, FLOAT16)
        assert simulated is not None
        (found,) = session(simulated).run(None, {"x": X})
        decibels.append(_decibels(exact, found))
    assert decibels[0] < 20 < 50 < decibels[1]


def test_plain_noise_is_left_alone() -> None:
    assert needed(_graph(PLAIN), FLOAT16, (), {"x": X}) == {}
    assert needed(_graph(PLAIN), BFLOAT16, (), {"x": X}) == {}


def test_what_is_kept_already_is_not_looked_for() -> None:
    keep = ("up", "moves", "down", "before", "after")
    assert needed(_graph(CANCELS), FLOAT16, keep, {"x": X}) == {}


def test_an_overflow_is_found_as_well() -> None:
    text = """g (float[4,32] x) => (float[4,32] y) <float k = {1000}, float l = {0.001}> {
      a = Mul (x, k)
      [up] b = Mul (a, k)
      [down] c = Mul (b, l)
      d = Mul (c, l)
      y = MatMul (d, W)
    }"""
    graph = hand_made.graph(text, W=(32, 32))
    found = needed(graph, FLOAT16, (), {"x": X})
    assert found == dict.fromkeys(
        ("up", "down"), "rounding 'b' alone leaves nothing of the outputs"
    )


@pytest.mark.parametrize("low", [FLOAT16, BFLOAT16], ids=lambda low: low.name)
def test_the_switches_are_the_roundings_of_the_cast_graph(low: Narrow) -> None:
    """All of them on: the same numbers as the finished graph, rounded after every node."""
    graph = _graph(PLAIN)
    proto, sites = switched(graph, low, ())
    flags = np.ones(len(sites), np.bool_)
    (ours,) = session(proto).run(None, {"x": X, "qcompiler.flags": flags})
    (float32,) = session(proto).run(None, {"x": X, "qcompiler.flags": ~flags})
    assert np.array_equal(float32, session(graph.proto()).run(None, {"x": X})[0])
    Pipeline((CastPrecision(to=low.name),)).run(graph)
    simulated = rounded(graph, low)
    assert simulated is not None
    assert np.array_equal(ours, session(simulated).run(None, {"x": X})[0])
