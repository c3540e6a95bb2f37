"""Extremes of tensors in bodies: those that NumPy finds, and none of what never ran."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcompiler.body_taps import add_extremes, inside
from qcompiler.calibrate import Sample, collect
from tests import hand_made
from tests.contract.running import session

MODEL = """g (float[2] x, float[3,2] xs, bool c, int64 trips) =>
  (float[2] y, float[2] z, float[3,2] r) {
  y = If (c) <
    then_branch = t () => (float[2] p) {
      h = Mul (x, x)
      p = If (c) <
        then_branch = tt () => (float[2] pa) { pa = Add (h, x) },
        else_branch = kept () => (float[2] pb) { pb = Neg (h) }
      >
    },
    else_branch = e () => (float[2] q) { q = Exp (x) }
  >
  z, zs = Loop (trips, , x) <
    body = b (int64 i, bool on, float[2] s) => (bool more, float[2] new, float[2] seen) {
      more = Identity (on)
      new = Add (s, x)
      seen = If (c) <
        then_branch = bt () => (float[2] sa) { sa = Mul (new, new) },
        else_branch = be () => (float[2] sb) { sb = Neg (new) }
      >
    }
  >
  w, r = Scan (x, xs) <
    num_scan_inputs = 1,
    body = sb (float[2] m, float[2] o) => (float[2] n, float[2] u) {
      n = Add (m, o)
      u = Neg (n)
    }
  >
}"""
X = np.array([1.5, -2.0], np.float32)
XS = np.array([[1, 2], [-3, 4], [5, -6]], np.float32)
NONE = (np.inf, -np.inf)


def _extremes(c: bool, trips: int) -> dict[str, tuple[float, float]]:
    proto = hand_made.model(MODEL)
    wanted = {"h", "pa", "pb", "q", "s", "new", "seen", "sa", "sb", "m", "o", "n", "u", "p"}
    assert wanted < inside(proto.graph)
    found = add_extremes(proto.graph, wanted)
    assert set(found) == wanted
    for names in found.values():
        for name in names:
            proto.graph.output.add(name=name)
    feeds = {"x": X, "xs": XS, "c": np.array(c), "trips": np.array(trips)}
    run = session(proto)
    values = dict(zip([o.name for o in run.get_outputs()], run.run(None, feeds), strict=True))
    return {t: (float(values[low]), float(values[high])) for t, (high, low) in found.items()}


def _of(*arrays: Any) -> tuple[float, float]:
    joined = np.concatenate([np.ravel(a) for a in arrays])
    return float(joined.min()), float(joined.max())


@pytest.mark.parametrize("c", [True, False])
def test_of_the_branch_that_ran(c: bool) -> None:
    found = _extremes(c, 2)
    news = X + X, X + X + X
    states = np.cumsum([X, *XS], axis=0, dtype=np.float32)
    ran = {
        "s": _of(X, news[0]),
        "new": _of(*news),
        "m": _of(states[:-1]),
        "o": _of(XS),
        "n": _of(states[1:]),
        "u": _of(-states[1:]),
    }
    if c:
        squares = [n * n for n in news]
        ran |= {"h": _of(X * X), "pa": _of(X * X + X), "p": _of(X * X + X)}
        ran |= {"sa": _of(*squares), "seen": _of(*squares)}
    else:
        ran |= {"q": _of(np.exp(X)), "sb": _of(*(-n for n in news))}
        ran |= {"seen": ran["sb"]}
    assert {k for k, v in found.items() if v != NONE} == set(ran)
    for tensor, extremes in ran.items():
        assert found[tensor] == pytest.approx(extremes, rel=1e-6), tensor


def test_a_loop_without_iterations_saw_nothing() -> None:
    found = _extremes(True, 0)
    assert {k for k, v in found.items() if v == NONE} == {
        "q", "pb", "s", "new", "seen", "sa", "sb",
    }  # fmt: skip


def test_calibration_collects_them() -> None:
    """Over samples that take different branches, whatever their order."""
    names = ["x", "h", "q", "pb"]
    samples = [
        Sample.of({"x": x * X, "xs": XS, "c": np.array(x > 0), "trips": np.array(1)})
        for x in (1.0, 3.0, -2.0)
    ]
    tensors = dict.fromkeys(names, np.dtype(np.float32))
    for order in (samples, samples[::-1]):
        seen, count = collect(hand_made.model(MODEL), tensors, order, watched=names)
        assert count == 3
        ranges = {n: (h.minimum, h.maximum) for n, h in seen.items()}
        assert ranges["x"] == (-6.0, 4.5)
        assert ranges["h"] == (2.25, 36.0)
        assert ranges["q"] == pytest.approx(_of(np.exp(-2 * X)), rel=1e-6)
        assert ranges["pb"] == NONE
