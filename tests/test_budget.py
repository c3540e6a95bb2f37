"""A model loses no more than its budget: what costs most for its work stays in float."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import ModelProto

from qcompiler import driver
from qcompiler import recipe as recipes
from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.budget import _FLAGS, Limit, _layers, _switched, limit, spared
from qcompiler.options import Options
from qcompiler.plan import QuantPlan
from qcompiler.recipe import Recipe
from qcompiler.result import Result
from tests.hand_made import graph, model, normal

TEXT = """g (int64[n,16] ids) => (float[n,16,256] y) {
  e = Gather (table, ids)
  [bad] a = MatMul (e, A)
  r = Relu (a)
  [good] b = MatMul (r, B)
  h = Add (b, e0)
  [head] y = MatMul (h, W)
}"""
DATA = {"ids": np.random.default_rng(5).integers(0, 256, (64, 16))}
INT8 = msgspec.structs.replace(recipes.find("int8"), range="minmax")


def _weights() -> dict[str, Any]:
    """One channel of what ``bad`` reads is a thousand times as large, and counts for nothing."""
    weights = {name: normal(name, (32, 32)) for name in ("A", "B")}
    weights["W"], weights["e0"] = 20 * normal("W", (32, 256)), normal("e0", (32,))
    weights["table"] = normal("table", (256, 32))
    weights["table"][:, 0] *= 1000
    weights["A"][0] = 0
    return weights


def _nats(most: float) -> Limit:
    return Limit(("y",), most, tokens=True)


def _model() -> ModelProto:
    return model(TEXT, **_weights())


def _compiled(recipe: Recipe = INT8, **options: Any) -> Result:
    return driver.compile(
        _model(), data=DATA, recipe=recipe, target="tensorrt", options=Options(**options)
    )


def _everything() -> QuantPlan:
    return _compiled(msgspec.structs.replace(INT8, budget=float("inf"))).plan


def test_the_layer_that_costs_most_for_its_work_stays_in_float() -> None:
    result = _compiled()
    assert result.plan.quantized_nodes() == {"good"}
    assert "quantizing it alone costs" in result.plan.skipped["bad"]
    assert "and 0.01 are allowed" in result.plan.skipped["bad"]
    (output,) = result.report.outputs
    assert output.divergence is not None
    assert output.divergence < 0.01


def test_without_a_budget_it_is_quantized_and_costs_much_more() -> None:
    result = _compiled(msgspec.structs.replace(INT8, budget=float("inf")))
    assert result.plan.quantized_nodes() == {"bad", "good"}
    (output,) = result.report.outputs
    assert output.divergence is not None
    assert output.divergence > 0.05


def test_force_quantizes_what_can_be() -> None:
    assert _compiled(force=True).plan.quantized_nodes() == {"bad", "good"}


def test_on_made_up_tokens_nothing_is_judged() -> None:
    result = driver.compile(_model(), recipe=INT8, target="tensorrt")
    assert result.plan.quantized_nodes() == {"bad", "good"}


PLAIN = """g (float[n,32] x) => (float[n,m] y, int64[n,m] z) {
  [bad] a = MatMul (x, A)
  r = Relu (a)
  [good] y = MatMul (r, W)
  z = Cast <to = 7> (y)
}"""


def _plain(recipe: Recipe = INT8, wide: int = 64) -> Result:
    weights = _weights()
    made = model(PLAIN, A=weights["A"], W=normal("W", (32, wide)))
    data = {"x": weights["table"]}
    return driver.compile(made, data=data, recipe=recipe, target="tensorrt")


def test_other_models_are_judged_by_the_noise_of_their_outputs() -> None:
    result = _plain()
    assert result.plan.quantized_nodes() == {"good"}
    why = result.plan.skipped["bad"]
    assert why.startswith("quantizing it alone leaves ")
    assert why.endswith(", and 13 are asked for")
    assert result.report.outputs[0].divergence is None
    assert result.report.outputs[0].sqnr_db > 13
    everything = _plain(msgspec.structs.replace(INT8, noise=float("inf")))
    assert everything.plan.quantized_nodes() == {"bad", "good"}
    assert everything.report.outputs[0].sqnr_db < 13


def test_noise_takes_no_more_than_half_of_the_multiplications() -> None:
    """32 x 16 beside 32 x 32: what is left would not be worth it, if it were the noise at all."""
    assert _plain(wide=16).plan.quantized_nodes() == {"bad", "good"}


def test_what_a_model_is_judged_by() -> None:
    made = graph(TEXT, **_weights())
    assert limit(made, INT8) == Limit(("y",), 0.01, tokens=True)
    weights = _weights()
    made = graph(PLAIN, A=weights["A"], W=normal("W", (32, 64)))
    assert limit(made, INT8) == Limit(("y",), 0.05, tokens=False)
    made = graph("g (float[4] x) => (bool[4] y) { y = IsNaN (x) }")
    assert limit(made, INT8) is None


def test_points_that_are_given_are_all_quantized() -> None:
    """The user has chosen; the plan says what came of it."""
    points = _compiled(force=True).points
    assert _compiled(points=points).plan.quantized_nodes() == {"bad", "good"}


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan")])
def test_a_budget_is_positive(budget: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        Recipe("mine", budget=budget)


# ---------------------------------------------------------------------- how it is measured


def test_switches_give_the_float_model_and_the_quantized_one() -> None:
    plan, made = _everything(), graph(TEXT, **_weights())
    layers = _layers(made, plan, {})
    assert layers == (frozenset({"bad"}), frozenset({"good"}))
    feeds = {"ids": DATA["ids"][:3]}
    quantized = driver.compile(_model(), recipe=INT8, target="tensorrt", options=Options(plan=plan))
    expected = {
        False: OrtSession(_model()).run(feeds)["y"],
        True: OrtSession(quantized.model()).run(feeds)["y"],
    }
    with OrtSession(_switched(made, plan, layers)) as session:
        for on, y in expected.items():
            found = session.run({**feeds, _FLAGS: np.array([on, on, on])})["y"]
            assert found.tobytes() == y.tobytes()


def test_nothing_is_spared_within_the_budget() -> None:
    made = graph(TEXT, **_weights())
    samples = [{"ids": DATA["ids"][i : i + 1]} for i in range(4)]
    assert spared(made, _everything(), {}, samples, _nats(100.0)) == {}


def test_layers_that_need_each_other_are_one() -> None:
    made, plan = graph(TEXT, **_weights()), _everything()
    mutual = {"bad": ("good",), "good": ("bad",)}
    bad, good = frozenset({"bad"}), frozenset({"good"})
    assert _layers(made, plan, mutual) == (bad | good,)
    assert _layers(made, plan, {"bad": ("good",)}) == (bad, good)


@pytest.mark.parametrize(("needs", "left"), [({}, {"bad"}), ({"good": ("bad",)}, {"bad", "good"})])
def test_what_needs_a_layer_goes_with_it(needs: dict[str, tuple[str, ...]], left: set[str]) -> None:
    made = graph(TEXT, **_weights())
    samples = [{"ids": DATA["ids"][i : i + 1]} for i in range(4)]
    assert set(spared(made, _everything(), needs, samples, _nats(0.01))) == left
