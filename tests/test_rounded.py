"""A 16-bit graph as float32 arithmetic: rounded where a GPU rounds."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from models import build
from qcompiler import targets
from qcompiler.load import load
from qcompiler.narrow import BFLOAT16, FLOAT16, Narrow
from qcompiler.passes.cast_interface import CastInterface
from qcompiler.passes.cast_precision import CastPrecision
from qcompiler.pipeline import Pipeline
from qcompiler.prepare import prepare
from qcompiler.rounded import rounded
from tests import hand_made
from tests.contract.running import feeds_for, session

SQUARE = "g (float[2] x) => (float[2] y) { s = Mul (x, x) y = Sqrt (s) }"


def test_what_overflows_on_a_gpu_overflows() -> None:
    """ONNX Runtime drops the Casts between the two and never sees 1,000,000 in float16."""
    graph = hand_made.graph(SQUARE)
    Pipeline((CastPrecision(),)).run(graph)
    feeds = {"x": np.array([1000, 3.14159], np.float32)}
    (direct,) = session(graph.proto()).run(None, feeds)
    simulated = rounded(graph, FLOAT16)
    assert simulated is not None
    (found,) = session(simulated).run(None, feeds)
    assert np.isfinite(direct).all()
    assert np.isinf(found[0])
    half = np.float16(3.14159)
    assert found[1] == np.float32(np.sqrt(np.float32(half * half)).astype(np.float16))


def test_bfloat16_runs() -> None:
    graph = hand_made.graph(SQUARE)
    Pipeline((CastPrecision(to="bfloat16"),)).run(graph)
    simulated = rounded(graph, BFLOAT16)
    assert simulated is not None
    (found,) = session(simulated).run(None, {"x": np.array([1000, 3], np.float32)})
    x = np.array([1000, 3]).astype(ml_dtypes.bfloat16).astype(np.float32)
    square = (x * x).astype(ml_dtypes.bfloat16).astype(np.float32)
    assert np.array_equal(found, np.sqrt(square).astype(ml_dtypes.bfloat16).astype(np.float32))


@pytest.mark.parametrize("low", [FLOAT16, BFLOAT16], ids=lambda low: low.name)
@pytest.mark.parametrize("name", build.names())
def test_models_keep_their_outputs(name: str, low: Narrow) -> None:
    """Within the floor of 35 dB for float16; 18 dB less for bfloat16 with 3 bits less."""
    graph, _ = prepare(build.load(name), targets.find("tensorrt"))
    before = graph.proto()
    Pipeline((CastPrecision(to=low.name),)).run(graph)
    graph.infer()
    simulated = rounded(graph, low)
    assert simulated is not None
    assert {t.data_type for t in simulated.graph.initializer} & {low.element} == set()
    feeds = feeds_for(session(before))
    floor = 35 + 20 * np.log10(FLOAT16.unit / low.unit)
    for x, y in zip(
        session(before).run(None, feeds), session(simulated).run(None, feeds), strict=True
    ):
        assert y.dtype == x.dtype
        noise = np.square(x.astype(np.float64) - y).sum()
        assert 10 * np.log10(np.square(x.astype(np.float64)).sum() / max(noise, 1e-300)) > floor


def test_against_the_reference_of_onnx() -> None:
    """It rounds behind every operator too, and pointwise operators leave no other freedom."""
    text = """g (float[64] x) => (float[64] y) <float k = {0.3}> {
      a = Mul (x, k)
      b = Add (a, x)
      c = Neg (b)
      d = Max (c, k)
      y = Sub (d, a)
    }"""
    graph = hand_made.graph(text)
    Pipeline((CastPrecision(),)).run(graph)
    feeds = {"x": hand_made.normal("x", (64,))}
    simulated = rounded(graph, FLOAT16)
    assert simulated is not None
    (expected,) = ReferenceEvaluator(graph.proto()).run(None, feeds)
    assert np.array_equal(session(simulated).run(None, feeds)[0], expected)


def test_inputs_and_outputs_in_16_bits() -> None:
    """They are read and written in float32, unless the original had 16 bits."""
    graph = hand_made.graph(SQUARE)
    Pipeline((CastPrecision(), CastInterface(to="float16"))).run(graph)
    x = np.array([2.0001, 3], np.float32)
    for narrow, feed in ((), x), (("x",), x.astype(np.float16)):
        simulated = rounded(graph, FLOAT16, narrow)
        assert simulated is not None
        (found,) = session(simulated).run(None, {"x": feed})
        assert found.dtype == np.float32
        assert found.tolist() == [2.0, 3.0]


def test_bodies_are_rounded_too() -> None:
    """What a branch computes has 11 bits, and so have the steps of a loop."""
    graph = hand_made.graph(
        """g (float[1] x, bool c) => (float[1] y, float[1] z) <int64 trips = {3}, bool go = {1}> {
          y = If (c) <
            then_branch = t () => (float[1] p) { e = Mul (x, x) p = Sqrt (e) },
            else_branch = e () => (float[1] q) { q = Identity (x) }
          >
          z = Loop (trips, go, x) <
            body = b (int64 i, bool on, float[1] s) => (bool more, float[1] t) {
              more = Identity (on)
              h = Tanh (s)
              t = Exp (h)
            }
          >
        }"""
    )
    Pipeline((CastPrecision(),)).run(graph)
    simulated = rounded(graph, FLOAT16)
    assert simulated is not None
    feeds = {"x": np.array([1000.4], np.float32), "c": np.array(True)}
    square, loop = session(simulated).run(None, feeds)
    assert np.isinf(square[0])
    s = np.array([1000.4], np.float16)
    for _ in range(3):
        s = np.exp(np.tanh(s.astype(np.float32)).astype(np.float16).astype(np.float32))
        s = s.astype(np.float16)
    assert np.array_equal(loop, s.astype(np.float32))


def test_the_body_of_an_unknown_operator_is_not_rewritten() -> None:
    model = hand_made.model(
        """g (float16[2] x) => (float16[2] y) {
          a = Neg (x)
          y = other.Twice <body = t () => (float16[2] p) { p = Exp (a) }> (x)
        }"""
    )
    model.opset_import.add(domain="other", version=1)
    graph = load(model)
    graph.infer()
    assert rounded(graph, FLOAT16) is None
