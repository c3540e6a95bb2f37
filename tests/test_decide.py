"""From statistics to numbers: which range, which scale, and what is left in float."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from qcompiler import targets
from qcompiler.calibrate import Statistics
from qcompiler.decide import decide, in_dtype
from qcompiler.errors import InputError, UsageError
from qcompiler.graph import Graph
from qcompiler.numerics.error import mse
from qcompiler.numerics.quantize import dequantize, quantize
from qcompiler.numerics.ranges import METHODS, to_qparams
from qcompiler.observers.histogram import Histogram
from qcompiler.plan import Decision, Points, QuantPlan
from qcompiler.recipe import Recipe
from qcompiler.scan import scan
from qcompiler.spec import QParams
from tests.hand_made import INT8, f32, graph, normal

CHAIN = """g (float[4,32] x) => (float[4,32] y) {
  [first] h = MatMul (x, W)
  r = Relu (h)
  [second] y = MatMul (r, V)
}"""
WEIGHTS = {"W": (32, 32), "V": (32, 32)}
RNG = np.random.default_rng(5)
VALUES: dict[str, NDArray[Any]] = {
    "x": RNG.standard_normal(4000).astype(np.float32),
    "r": f32([0.0, 1.0, 2.0]),
}


def _proposed(text: str = CHAIN, target: str = "tensorrt", **weights: Any) -> tuple[Graph, Points]:
    made = graph(text, **(weights or WEIGHTS))
    return made, scan(made, INT8, targets.find(target))


def _statistics(points: Points, values: Mapping[str, NDArray[Any]] = VALUES) -> Statistics:
    histograms = {name: Histogram.empty().update(v) for name, v in values.items()}
    return Statistics(points.model_digest, "test", False, 1, histograms)


def _by_tensor(entries: tuple[Decision, ...]) -> dict[str, Decision]:
    return {d.tensor: d for d in entries}


def _decided(values: Mapping[str, NDArray[Any]] = VALUES, recipe: Recipe = INT8) -> QuantPlan:
    made, points = _proposed()
    return decide(made, points, _statistics(points, values), recipe)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_an_activation_gets_the_range_of_the_method(method: str) -> None:
    plan = _decided(recipe=Recipe(name="r", range=method))
    for decision in plan.activations:
        spec = decision.storage.spec()
        seen = Histogram.empty().update(VALUES[decision.tensor])
        expected = to_qparams(METHODS[method](seen, spec), spec)
        assert decision.qparams() == expected
        assert decision.why.startswith(method)
        assert decision.zero_point == 0
        assert decision.source == "calibrated"


def test_an_unsigned_target_gets_a_zero_point() -> None:
    made, points = _proposed(target="onnxruntime")
    plan = decide(made, points, _statistics(points), Recipe(name="r", range="minmax"))
    decision = _by_tensor(plan.activations)["x"]
    low, high = float(VALUES["x"].min()), float(VALUES["x"].max())
    assert decision.storage.format == "uint8"
    assert decision.scale == pytest.approx((high - low) / 255, rel=1e-6)
    assert decision.zero_point == round(-low / ((high - low) / 255))


def test_an_unknown_method_is_the_callers_error() -> None:
    with pytest.raises(UsageError, match="no range method 'best'") as caught:
        _decided(recipe=Recipe(name="r", range="best"))
    assert "auto, entropy, minmax, mse, percentile" in caught.value.hint


def test_statistics_of_another_model_are_refused() -> None:
    made, points = _proposed()
    other = dataclasses.replace(_statistics(points), model_digest="0" * 64)
    with pytest.raises(InputError, match="statistics file belongs to another model"):
        decide(made, points, other, INT8)


# ---------------------------------------------------------------------- what cannot be decided


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_activation_that_is_not_finite_is_named_and_its_node_left_whole(bad: float) -> None:
    plan = _decided({**VALUES, "r": f32([0.0, 1.0, bad])})
    assert set(plan.skipped) == {"second"}
    assert plan.skipped["second"] == (
        "its activation 'r' holds NaN or infinity in the calibration data"
    )
    assert [d.tensor for d in plan.activations] == ["x"]
    assert [d.tensor for d in plan.weights] == ["W"]


def test_an_activation_of_nothing_but_nan_is_called_that() -> None:
    plan = _decided({**VALUES, "r": f32([np.nan])})
    assert "'r' holds NaN or infinity" in plan.skipped["second"]


@pytest.mark.parametrize("values", [{"x": VALUES["x"]}, {**VALUES, "r": np.zeros(0, np.float32)}])
def test_an_activation_that_was_never_computed_is_named(values: dict[str, Any]) -> None:
    plan = _decided(values)
    assert plan.skipped == {"second": "calibration never computed its activation 'r'"}
    assert [d.tensor for d in plan.weights] == ["W"]


def test_a_shared_weight_keeps_the_slot_whose_activation_is_sound() -> None:
    text = CHAIN.replace("(r, V)", "(r, W)")
    made, points = _proposed(text, W=(32, 32))
    plan = decide(made, points, _statistics(points, {**VALUES, "r": f32([np.nan])}), INT8)
    (weight,) = plan.weights
    assert [s.node for s in weight.slots] == ["first"]


MOVED = """g (float[1,16,8,8] x) => (float[1,16,8,8] y, float[1,16,7,7] z) {
  [whole] y = Conv (x, W)
  p = MaxPool <kernel_shape = [2, 2]> (x)
  [pooled] z = Conv (p, W)
}"""


def test_the_range_of_a_group_is_that_of_its_merged_histogram() -> None:
    made, points = _proposed(MOVED, W=(16, 16, 1, 1))
    parts = {"x": RNG.standard_normal(500), "p": RNG.standard_normal(300) + 2}
    statistics = _statistics(points, parts)
    plan = decide(made, points, statistics, INT8)
    merged = statistics.histograms["x"].merge(statistics.histograms["p"])
    x, p = plan.activations
    assert x.qparams() == p.qparams()
    assert x.qparams() == to_qparams(METHODS["auto"](merged, x.storage.spec()), x.storage.spec())
    assert (x.source, p.source) == ("calibrated", "shared:x")


def test_a_member_without_values_takes_the_range_of_its_group() -> None:
    made, points = _proposed(MOVED, W=(16, 16, 1, 1))
    empty = {"x": RNG.standard_normal(500), "p": np.zeros(0)}
    plan = decide(made, points, _statistics(points, empty), INT8)
    assert plan.skipped == {}
    assert plan.activations[0].scale == plan.activations[1].scale


def test_a_bad_member_of_a_group_is_the_one_that_is_named() -> None:
    made, points = _proposed(MOVED, W=(16, 16, 1, 1))
    plan = decide(
        made, points, _statistics(points, {"x": np.ones(3), "p": np.array([np.inf])}), INT8
    )
    assert (plan.activations, plan.weights) == ((), ())
    assert "'p' holds NaN" in plan.skipped["pooled"]
    assert plan.skipped["whole"].startswith("'p', which shares the scale, holds NaN")


def test_a_skip_operand_that_cannot_be_decided_has_its_reason_too() -> None:
    made, points = _proposed(
        """g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
          [conv] a = Conv (x, A)
          k = Relu (x)
          [join] s = Add (a, k)
          [next] y = Conv (s, B)
        }""",
        A=(16, 16, 1, 1),
        B=(16, 16, 1, 1),
    )
    plan = decide(made, points, _statistics(points, {"x": np.ones(3), "s": np.ones(3)}), INT8)
    assert plan.skipped == {"join": "calibration never computed its activation 'k'"}
    proposed = {s.node for p in (*points.activations, *points.weights) for s in p.slots}
    assert proposed == {s.node for d in plan.activations for s in d.slots} | set(plan.skipped)


# ---------------------------------------------------------------------- weights


def _weight_scale(search: bool, axis: int | None) -> tuple[NDArray[Any], QParams, Decision]:
    made, points = _proposed()
    storage = msgspec.structs.replace(points.weights[0].storage, axis=axis)
    changed = msgspec.structs.replace(
        points, weights=tuple(msgspec.structs.replace(w, storage=storage) for w in points.weights)
    )
    recipe = Recipe(name="r", search_weights=search)
    plan = decide(made, changed, _statistics(points), recipe)
    decision = _by_tensor(plan.weights)["W"]
    return normal("W", (32, 32)), decision.qparams(), decision


@pytest.mark.parametrize("axis", [0, 1, None])
def test_without_search_a_weight_scale_is_its_largest_value_over_127(axis: int | None) -> None:
    weight, qparams, decision = _weight_scale(False, axis)
    largest = np.abs(weight).max() if axis is None else np.abs(weight).max(axis=1 - axis)
    np.testing.assert_array_equal(qparams.scale, np.float32(largest.astype(np.float64) / 127))
    assert decision.source == "largest value"


@pytest.mark.parametrize("axis", [0, 1, None])
def test_a_searched_weight_scale_is_never_worse_and_here_better(axis: int | None) -> None:
    weight, searched, decision = _weight_scale(True, axis)
    _, whole, _ = _weight_scale(False, axis)
    spec = decision.storage.spec()
    errors = [
        mse(weight, dequantize(quantize(weight, q, spec), q, spec)) for q in (searched, whole)
    ]
    assert errors[0] < errors[1]
    assert decision.source == "searched"


def test_a_weight_has_one_scale_a_channel_and_says_so() -> None:
    plan = _decided()
    weight = plan.weights[0]
    assert isinstance(weight.scale, tuple)
    assert len(weight.scale) == 32
    assert weight.why == "32 scales of [32, 32]"


def test_half_precision_scales_are_rounded_to_half_precision() -> None:
    made, points = _proposed(
        "g (float16[4,32] x) => (float16[4,32] y) { y = MatMul (x, W) }",
        W=normal("W", (32, 32), np.float16),
    )
    plan = decide(made, points, _statistics(points, {"x": VALUES["x"]}), INT8)
    for decision in (*plan.activations, *plan.weights):
        scales = f32(decision.scale)
        np.testing.assert_array_equal(scales, scales.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(
    ("scale", "subnormal", "expected"),
    [
        (1e-5, True, float(np.float16(1e-5))),
        (1e-12, True, 2.0**-24),
        (1e-5, False, 2.0**-14),
        (0.1, False, float(np.float16(0.1))),
    ],
)
def test_small_half_precision_scales(scale: float, subnormal: bool, expected: float) -> None:
    found = in_dtype(QParams(scale, np.int8(0)), "float16", subnormal=subnormal)
    assert float(found.scale) == expected


def test_a_small_channel_in_half_precision_keeps_its_codes() -> None:
    weight = normal("W", (32, 32), np.float16)
    weight[:, 7] *= np.float16(1e-3)
    made, points = _proposed(
        "g (float16[4,32] x) => (float16[4,32] y) { y = MatMul (x, W) }", W=weight
    )
    (decision,) = decide(made, points, _statistics(points, {"x": VALUES["x"]}), INT8).weights
    codes = quantize(weight.astype(np.float32), decision.qparams(), decision.storage.spec())
    # The scale of this channel is subnormal, rounded by at most 2^-25 of about 6e-6: under 1 %.
    assert np.abs(codes[:, 7].astype(np.int32)).max() >= 120


def test_progress_counts_every_tensor() -> None:
    made, points = _proposed()
    seen: list[tuple[int, int]] = []
    decide(made, points, _statistics(points), INT8, progress=lambda a, b: seen.append((a, b)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_synthetic_statistics_make_a_synthetic_plan() -> None:
    made, points = _proposed()
    statistics = dataclasses.replace(_statistics(points), synthetic=True)
    assert decide(made, points, statistics, INT8).synthetic
