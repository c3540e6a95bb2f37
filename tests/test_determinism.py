"""Resuming from any product, and running twice, give the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from models import build
from qcompiler import driver, targets
from qcompiler import plan as products
from qcompiler.calibrate import Statistics
from qcompiler.driver import Options
from qcompiler.emit import emit
from qcompiler.errors import InputError
from qcompiler.plan import Points, QuantPlan
from qcompiler.prepare import prepare
from tests.compiled import compiled, model_bytes

MODELS = Path(build.HERE)
RESNET = MODELS / "resnet20.onnx"


def _images(count: int) -> np.ndarray[Any, Any]:
    with np.load(MODELS / "resnet20.calib.npz") as file:
        images: np.ndarray[Any, Any] = file["input"][:count]
    return images


# ---------------------------------------------------------------------- resuming


@pytest.mark.parametrize("name", build.names())
def test_every_product_leads_to_the_same_bytes(name: str, tmp_path: Path) -> None:
    """Prepared graph, points, statistics and plan, each written and read back."""
    result = compiled(name)
    source = build.load(name)
    prepared, _ = prepare(source, targets.find("tensorrt"))
    emit(prepared, tmp_path / "prepared.onnx")
    products.save(result.plan, tmp_path / "plan.json")
    plan = products.read(tmp_path / "plan.json", QuantPlan)
    assert result.statistics is not None
    result.statistics.save(tmp_path / "stats.npz")
    statistics = Statistics.read(tmp_path / "stats.npz")
    products.save(result.points, tmp_path / "points.json")
    points = products.read(tmp_path / "points.json", Points)
    resumed = [
        driver.compile(source, options=Options(points=points)),
        driver.compile(source, options=Options(points=points, statistics=statistics)),
        driver.compile(source, options=Options(statistics=statistics)),
        driver.compile(source, options=Options(plan=plan)),
        driver.compile(tmp_path / "prepared.onnx"),
        driver.compile(tmp_path / "prepared.onnx", options=Options(plan=plan)),
    ]
    assert {model_bytes(r) for r in resumed} == {model_bytes(result)}


@pytest.mark.parametrize("recipe", ["fp16", "int8+fp16"])
def test_the_plan_carries_the_base_type(recipe: str, tmp_path: Path) -> None:
    source = build.load("mlp")
    result = driver.compile(source, recipe=recipe)
    products.save(result.plan, tmp_path / "plan.json")
    plan = products.read(tmp_path / "plan.json", QuantPlan)
    assert plan.base == "float16"
    assert model_bytes(driver.compile(source, options=Options(plan=plan))) == model_bytes(result)


def test_points_of_another_model_are_refused() -> None:
    points = compiled("residual").points
    with pytest.raises(InputError, match="points file belongs to another model"):
        driver.compile(build.load("mlp"), options=Options(points=points))


def test_what_is_already_decided_cannot_be_excluded() -> None:
    result = compiled("mlp")
    for options in (
        Options(points=result.points, exclude=["*"]),
        Options(plan=result.plan, exclude=["*"]),
    ):
        with pytest.raises(InputError, match="exclude has no effect"):
            driver.compile(build.load("mlp"), options=options)


def test_statistics_of_another_model_are_refused() -> None:
    statistics = compiled("residual").statistics
    with pytest.raises(InputError, match="statistics file belongs to another model"):
        driver.compile(build.load("mlp"), options=Options(statistics=statistics))


def test_a_plan_of_another_model_is_refused() -> None:
    with pytest.raises(InputError, match="the plan belongs to another model"):
        driver.compile(build.load("mlp"), options=Options(plan=compiled("residual").plan))


def test_the_report_of_a_given_plan_names_its_target_and_recipe() -> None:
    plan = compiled("mlp", "tensorrt-rtx").plan
    renamed = msgspec.structs.replace(plan, recipe="mine")
    report = driver.compile(build.load("mlp"), options=Options(plan=renamed)).report
    assert (report.target, report.recipe, report.samples) == ("tensorrt-rtx", "mine", 0)


# ---------------------------------------------------------------------- determinism


@pytest.mark.parametrize("target", targets.names())
@pytest.mark.parametrize("name", build.names())
def test_two_compilations_give_the_same_bytes(name: str, target: str) -> None:
    again = driver.compile(build.load(name), target=target)
    assert model_bytes(again) == model_bytes(compiled(name, target))
    assert products.encode(again.plan) == products.encode(compiled(name, target).plan)


def _plans(source: Any, *data: Any) -> set[bytes]:
    return {products.encode(driver.compile(source, data=d).plan) for d in data}


def test_neither_order_nor_batching_of_the_samples_changes_the_plan(tmp_path: Path) -> None:
    images = _images(45)
    mixed = images[np.random.default_rng(3).permutation(45)]
    np.savez(tmp_path / "one.npz", input=mixed)
    parts = tmp_path / "parts"
    parts.mkdir()
    for number, (start, stop) in enumerate(((20, 45), (0, 3), (3, 20))):
        np.savez(parts / f"{number}.npz", input=images[start:stop])
    data = [
        {"input": images},
        str(tmp_path / "one.npz"),
        parts,
        [{"input": images[i : i + 7]} for i in range(0, 45, 7)],
        ({"input": image[None]} for image in mixed[::-1]),
    ]
    assert len(_plans(RESNET, *data)) == 1


@pytest.mark.parametrize(
    ("name", "shape"), [("dynamic_batch", (3, 40, 24)), ("layernorm_exploded", (2, 24, 64))]
)
def test_neither_order_nor_batching_changes_other_plans(name: str, shape: tuple[int, ...]) -> None:
    key = build.load(name).graph.input[0].name
    values = np.random.default_rng(4).standard_normal((24, *shape)).astype(np.float32)
    if name == "layernorm_exploded":  # two samples fill the fixed batch: each entry is whole
        listed = [{key: v} for v in values]
        assert len(_plans(build.load(name), listed, listed[::-1], {key: values})) == 1
        return
    assert len(_plans(build.load(name), {key: values}, {key: values[::-1]})) == 1


def test_token_models_do_not_depend_on_the_order_either() -> None:
    tokens = np.random.default_rng(5).integers(0, 128, (20, 12))
    source = build.load("decoder_kv")
    forwards, backwards = ({"input_ids": t} for t in (tokens, tokens[::-1]))
    assert len(_plans(source, forwards, backwards)) == 1


def test_another_seed_gives_other_ranges() -> None:
    other = driver.compile(build.load("mlp"), options=Options(seed=1))
    assert other.plan.activations != compiled("mlp").plan.activations
    assert other.plan.weights == compiled("mlp").plan.weights
