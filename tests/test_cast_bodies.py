"""16 bits in the bodies of If, Loop and Scan: how close, what stays in float32, and why."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import HealthCheck, given, settings
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from qcompiler import driver
from qcompiler.bodies import flatten
from qcompiler.calibrate import Sample, collect
from qcompiler.driver import Result
from qcompiler.emit import emit
from qcompiler.graph import Graph, label
from qcompiler.islands import islands, watched
from qcompiler.load import load
from qcompiler.narrow import BFLOAT16, FLOAT16
from qcompiler.noise import needed
from qcompiler.passes.cast_precision import CastPrecision
from qcompiler.pipeline import Pipeline
from qcompiler.rounded import rounded
from qcompiler.verify import check_onnx
from tests import body_models, hand_made
from tests.contract.running import session

Array = NDArray[Any]
RNG = np.random.default_rng(5)


def _cast(graph: Graph, *keep: str, to: str = "float16") -> int:
    (step,) = Pipeline((CastPrecision(to=to, keep=keep),)).run(graph)
    return step.rewrites


def _basic(model: ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _types(graph: Graph, *names: str) -> list[str]:
    graph.infer()
    flat = flatten(graph).graph
    tensors = {t.name: t for n in flat.nodes for t in (*n.inputs, *n.outputs)}
    return [str(tensors[name].dtype) for name in names]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body_models.models())
def test_any_nesting_stays_valid_and_close(model: ModelProto) -> None:
    """Values are below 16 or so and roundings few: 2 % of the largest is 10 roundings and more.

    The optimizer, its absence and onnx.reference agree, and a second run has nothing to do.
    """
    graph = load(model)
    graph.infer()
    exact = session(graph.proto())
    declared = graph.proto().graph.input, graph.proto().graph.output
    _cast(graph)
    after = graph.proto()
    assert check_onnx(graph) == ""
    assert (after.graph.input, after.graph.output) == declared
    assert _cast(graph) == 0
    graph.infer()
    simulated = rounded(graph, FLOAT16)
    assert simulated is not None
    runs = [session(after), _basic(after), session(simulated)]
    reference = ReferenceEvaluator(after)
    for feeds in body_models.feeds(model):
        (y,) = exact.run(None, feeds)
        results = [r.run(None, feeds)[0] for r in runs]
        if feeds.get("step") != 0:  # onnx.reference cannot stack the results of no iteration
            results += reference.run(None, feeds)
        for found in results:
            assert found.dtype == np.float32
            assert np.abs(found - y).max() <= 0.02 * max(1.0, np.abs(y).max())


SUM = """g (float[1] x, int64 trips) => (float[1] y) <bool go = {1}, float[1] zero = {0}> {
  [loop] y = Loop (trips, go, zero) <
    body = b (int64 i, bool on, float[1] sum) => (bool more, float[1] next) {
      more = Identity (on)
      [term] t = Exp (x)
      [add] next = Add (sum, t)
    }
  >
}"""


@pytest.mark.parametrize("to", ["float16", "bfloat16"])
def test_a_sum_over_iterations_goes_on_growing(to: str) -> None:
    """5000 ones: a float16 stops at 2048, a bfloat16 at 256."""
    graph = hand_made.graph(SUM)
    _cast(graph, to=to)
    graph.infer()
    simulated = rounded(graph, {"float16": FLOAT16, "bfloat16": BFLOAT16}[to])
    assert simulated is not None
    feeds = {"x": np.zeros(1, np.float32), "trips": np.array(5000)}
    assert session(simulated).run(None, feeds)[0].tolist() == [5000.0]
    assert _types(graph, "sum", "next", "t") == ["float32", "float32", to]


def test_a_state_is_carried_in_float16() -> None:
    graph = hand_made.graph(SUM.replace("Add (sum, t)", "Tanh (sum)"))
    _cast(graph)
    assert _types(graph, "sum", "next") == ["float16", "float16"]


# 300 is squared in one branch, and exp (-18) is what the other one divides by.
LARGE = """g (float[4] x, bool c) => (float[4] y) <float k = {100}, float six = {-6}> {
  [first] a = Mul (x, k)
  [if] z = If (c) <
    then_branch = t () => (float[4] p) {
      [square] s = Mul (a, a)
      [root] p = Sqrt (s)
    },
    else_branch = e () => (float[4] q) {
      e = Mul (x, six)
      [small] d = Exp (e)
      [divide] q = Div (a, d)
    }
  >
  [last] y = Tanh (z)
}"""
X = np.array([1.0, 2.0, 2.5, 3.0], np.float32)
THEN, ELSE = "if/then_branch/", "if/else_branch/"


def _samples(*flags: bool) -> list[dict[str, Array]]:
    return [{"x": X, "c": np.array(c)} for c in flags]


def _compiled(text: str, data: list[dict[str, Array]], recipe: str = "fp16") -> Result:
    return driver.compile(hand_made.model(text), data=data, recipe=recipe)


def test_what_overflows_in_a_body_stays_finite_and_is_named() -> None:
    result = _compiled(LARGE, _samples(True, False, True, False))
    keep = result.plan.keep
    assert keep[f"{THEN}square"] == "its result reaches 90000; float16 ends at 65504"
    assert keep[f"{THEN}root"] == "it reads 's', which reaches 90000; float16 ends at 65504"
    assert "goes down to 1.52e-08" in keep[f"{ELSE}small"]
    assert f"{ELSE}divide" in keep
    assert "first" not in keep
    assert keep == result.report.kept
    graph = result.graph
    assert _types(graph, "a", "s") == ["float16", "float32"]
    simulated = rounded(graph, FLOAT16)
    assert simulated is not None
    for feeds in _samples(True, False):
        (exact,) = session(hand_made.model(LARGE)).run(None, feeds)
        (found,) = session(simulated).run(None, feeds)
        assert found == pytest.approx(exact, rel=2.0**-9)


def _islands(text: str, *samples: Mapping[str, Array]) -> dict[str, str]:
    graph = hand_made.graph(text)
    names = watched(graph, FLOAT16)
    tensors = dict.fromkeys(names, np.dtype(np.float32))
    seen, _ = collect(graph.proto(), tensors, [Sample.of(s) for s in samples], watched=names)
    return islands(graph, FLOAT16, seen)


BRANCHES = """g (float[4] x, bool c, int64 trips) => (float[4] y) <float k = {2}> {
  [if] z = If (c) <
    then_branch = t () => (float[4] p) { [grow] h = Exp (x) [scale] p = Mul (h, k) },
    else_branch = e () => (float[4] q) {
      [move] m = Neg (x)
      [inner] q = If (c) <
        then_branch = et () => (float[4] u) { [copy] u = Identity (m) },
        else_branch = ee () => (float[4] v) { [bound] v = Tanh (m) }
      >
    }
  >
  [last] y = Neg (z)
}"""


def _run(c: bool, trips: int = 2) -> dict[str, Array]:
    return {"x": X, "c": np.array(c), "trips": np.array(trips)}


def test_a_branch_that_never_ran_stays_in_float32() -> None:
    """What it passes on is judged by what its readers have seen."""
    why = "its branch was not run on the calibration data"
    assert _islands(BRANCHES, _run(False)) == {f"{THEN}grow": why, f"{THEN}scale": why}
    assert _islands(BRANCHES, _run(False), _run(True)) == {}


def test_a_range_that_follows_from_outside_need_not_have_been_seen() -> None:
    """The other branch only negates, copies and bounds what was measured: all of it is narrow."""
    assert _islands(BRANCHES, _run(True)) == {}


def test_a_loop_that_never_ran() -> None:
    text = SUM.replace("Add (sum, t)", "Max (sum, t)")
    x = np.zeros(1, np.float32)
    kept = _islands(text, {"x": x, "trips": np.array(0)})
    assert set(kept) == {"loop/sum", "loop/body/term", "loop/body/add"}
    assert _islands(text, {"x": x, "trips": np.array(1)}) == {}


def test_a_running_sum_is_named() -> None:
    kept = _islands(SUM, {"x": np.zeros(1, np.float32), "trips": np.array(3)})
    assert kept == dict.fromkeys(
        ["loop/sum", "loop/body/add"], "it carries a running sum through a loop"
    )


def test_a_sum_that_grows_too_large_stays_so_behind_the_loop() -> None:
    text = SUM.replace("=> (float[1] y)", "=> (float[1] y, float[1] z)").replace(
        "next = Add (sum, t)\n    }\n  >", "next = Add (sum, t)\n    }\n  >\n  [behind] z = Neg (y)"
    )
    kept = _islands(text, {"x": np.full(1, 10.0, np.float32), "trips": np.array(3)})
    assert kept["behind"] == "it reads 'y', which reaches 66079.4; float16 ends at 65504"


def test_bfloat16_needs_no_ranges() -> None:
    assert watched(hand_made.graph(BRANCHES), BFLOAT16) == ()


def test_keep_names_nodes_in_bodies_and_whole_bodies() -> None:
    graph = hand_made.graph(BRANCHES)
    _cast(graph, f"{THEN}grow")
    assert _types(graph, "h", "p", "q") == ["float32", "float16", "float16"]
    graph = hand_made.graph(BRANCHES)
    _cast(graph, "if")
    assert _types(graph, "h", "p", "q", "m") == ["float32"] * 4
    assert label(graph.nodes[-1]) != "if"


CANCELS = """g (float[4,32] x, bool c) => (float[4,32] y) <float k = {1000}> {
  [before] a = MatMul (x, W)
  [if] z = If (c) <
    then_branch = t () => (float[4,32] p) { [up] b = Add (a, k) [down] p = Sub (b, k) },
    else_branch = e () => (float[4,32] q) { q = Identity (a) }
  >
  [after] y = MatMul (z, V)
}"""


def test_rounding_noise_is_measured_in_bodies() -> None:
    """1000 is added and taken away again: half of the bits go to it, though every value fits."""
    weights = {"W": (32, 32), "V": (32, 32)}
    x = RNG.standard_normal((4, 32)).astype(np.float32)
    found = needed(hand_made.graph(CANCELS, **weights), FLOAT16, (), {"x": x, "c": np.array(True)})
    assert {f"{THEN}up", f"{THEN}down"} <= set(found)
    assert found[f"{THEN}up"].startswith("rounding 'b' alone leaves ")
    quiet = needed(hand_made.graph(CANCELS, **weights), FLOAT16, (), {"x": x, "c": np.array(False)})
    assert quiet == {}


@pytest.mark.parametrize("recipe", ["fp16", "bf16", "int8+fp16"])
def test_recipes_convert_bodies(recipe: str) -> None:
    result = _compiled(BRANCHES, [_run(True), _run(False)] * 2, recipe)
    narrow = "bfloat16" if recipe == "bf16" else "float16"
    assert _types(result.graph, "h", "p", "m", "q", "z") == [narrow] * 5
    assert all(o.sqnr_db > 30 for o in result.report.outputs)


def test_a_branch_for_other_shapes_does_not_keep_calibration_from_running() -> None:
    """With the shape of the samples written into the model, ONNX Runtime refuses the other one."""
    source = hand_made.model(
        """g (float[N,K] x) => (float[N,2] y) <int64 four = {4}, int64 one = {1}> {
          s = Shape (x)
          k = Gather (s, one)
          c = Equal (k, four)
          [if] y = If (c) <
            then_branch = t () => (float[N,2] p) { [a] p = MatMul (x, W) },
            else_branch = e () => (float[N,2] q) { [b] q = MatMul (x, V) }
          >
        }""",
        W=(4, 2),
        V=(8, 2),
    )
    data = [{"x": RNG.standard_normal((3, 4)).astype(np.float32)} for _ in range(4)]
    result = driver.compile(source, data=data, recipe="fp16")
    assert list(result.plan.keep) == [f"{ELSE}b"]
    assert _types(result.graph, "p", "W", "V") == ["float16", "float16", "float32"]


def test_weights_of_bodies_on_disk(tmp_path: Path) -> None:
    """What is made while weights are spilled is the main graph's, and is written beside it."""
    text = """g (float[4,64] x, bool c) => (float[4,64] y) {
      y = If (c) <
        then_branch = t () => (float[4,64] p) { p = MatMul (x, W) },
        else_branch = e () => (float[4,64] q) { q = Neg (x) }
      >
    }"""
    weight = hand_made.normal("W", (64, 64))
    source = hand_made.model(text)
    (node,) = source.graph.node
    then = next(a.g for a in node.attribute if a.name == "then_branch")
    then.initializer.append(numpy_helper.from_array(weight, "W"))
    memory, disk = load(source), load(source)
    disk.spill()
    for graph in (memory, disk):
        graph.infer()
        _cast(graph)
    emit(disk, tmp_path / "disk.onnx")
    assert memory.weight_bytes() == weight.nbytes / 2
    feeds = {"x": hand_made.normal("x", (4, 64)), "c": np.array(True)}
    (one,) = session(memory.proto()).run(None, feeds)
    (two,) = session(onnx.load(tmp_path / "disk.onnx")).run(None, feeds)
    assert np.array_equal(one, two)
