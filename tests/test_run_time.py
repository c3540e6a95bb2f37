"""Which products are scaled at run time, how plans say so, and what targets know of it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest

from qcompiler import driver, plan, recipe, run_time, targets
from qcompiler.errors import InputError
from qcompiler.granularity import PerBlock, PerTile
from qcompiler.numerics.run_time import LEAST_SCALE
from qcompiler.plan import Storage
from qcompiler.recipe import Recipe
from tests.hand_made import model, scanned

ROWS, BLOCKS = (recipe.find(name) for name in ("fp8-rowwise", "fp8-block"))
SIMULATION, RTX, FULL = "onnxruntime", "tensorrt-rtx", "tensorrt"
PRODUCT = "g (float[32,256] x) => (float[32,N] y) { [p] y = MatMul (x, W) }"
GEMM = "g (float[32,256] x) => (float[32,N] y) { [p] y = Gemm <transB = 1> (x, W, b) }"


def test_a_row_and_a_channel() -> None:
    points = scanned(PRODUCT, SIMULATION, ROWS, W=(256, 200))
    expected = Storage("fp8_e4m3", -1, block=256, dynamic=True, behind=True)
    assert points.activations[0].storage == expected
    assert points.weights[0].storage == Storage("fp8_e4m3", 1)
    assert not points.activations[0].measured


def test_where_only_scalars_have_a_kernel_the_scales_of_channels_stand_behind_too() -> None:
    points = scanned(PRODUCT, FULL, ROWS, W=(256, 200))
    assert points.weights[0].storage == Storage("fp8_e4m3", 1, behind=True)


def test_a_block_and_a_tile() -> None:
    points = scanned(PRODUCT, SIMULATION, BLOCKS, W=(256, 200))
    assert points.activations[0].storage == Storage("fp8_e4m3", -1, block=128, dynamic=True)
    assert points.weights[0].storage == Storage("fp8_e4m3", 0, block=128)


def test_of_a_transposed_weight_the_other_axis_is_in_blocks() -> None:
    assert scanned(GEMM, SIMULATION, BLOCKS, W=(200, 256), b=(200,)).weights[0].storage.axis == 1
    assert scanned(GEMM, SIMULATION, ROWS, W=(200, 256), b=(200,)).weights[0].storage.axis == 0


def test_storage_gives_the_granularity() -> None:
    rows = Storage("fp8_e4m3", -1, block=128, dynamic=True)
    assert rows.spec().granularity == PerBlock(-1, 128)
    assert Storage("fp8_e4m3", 0, block=128).spec().granularity == PerTile(128)


@pytest.mark.parametrize(
    ("text", "shape", "reason"),
    [
        ("g (float[1,32,8,8] x) => (float y) { [p] y = Conv (x, W) }", (32, 32, 3, 3), "no tokens"),
        ("g (float[256,32] x) => (float[64,32] y) { [p] y = MatMul (W, x) }", (64, 256), "left"),
        (
            "g (float[256,32] x) => (float[32,64] y) { [p] y = Gemm <transA = 1> (x, W) }",
            (256, 64),
            "transA",
        ),
        (
            "g (float[32,256] x) => (float[32,64] y) { [p] y = Gemm <beta = 0.5> (x, W, x) }",
            (256, 64),
            "beta",
        ),
        ("g (float[1,256] x) => (float[1,64] y) { [p] y = MatMul (x, W) }", (256, 64), "D16"),
    ],
)
@pytest.mark.parametrize("wanted", [ROWS, BLOCKS], ids=lambda r: r.scales)
def test_what_stays_in_float(
    wanted: Recipe, text: str, shape: tuple[int, ...], reason: str
) -> None:
    points = scanned(text, SIMULATION, wanted, W=shape)
    assert (points.activations, points.weights) == ((), ())
    assert reason in points.skipped["p"]


def test_blocks_must_be_whole_along_k_but_not_along_n() -> None:
    text = PRODUCT.replace("256", "288")
    points = scanned(text, SIMULATION, BLOCKS, W=(288, 256))
    assert "K=288 is no multiple of 128" in points.skipped["p"]
    assert scanned(text, SIMULATION, ROWS, W=(288, 256)).skipped == {}
    assert scanned(PRODUCT, SIMULATION, BLOCKS, W=(256, 100)).skipped == {}


def test_attention_and_residuals_are_no_products_of_rows() -> None:
    text = """g (float[1,32,64] x) => (float[1,32,64] y) {
        q = MatMul (x, Wq)  k = MatMul (x, Wk)  v = MatMul (x, Wv)
        t = Transpose <perm = [0, 2, 1]> (k)
        [scores] s = MatMul (q, t)  p = Softmax (s)  [result] o = MatMul (p, v)
        z = MatMul (o, Wo)  y = Add (z, x)
    }"""
    weights = dict.fromkeys(("Wq", "Wk", "Wv", "Wo"), (64, 64))
    points = scanned(text, RTX, recipe.find("fp8-rowwise+fp16"), **weights)
    assert set(points.skipped) == {"scores", "result"}
    assert {s.role for p in points.activations for s in p.slots} == {"activation"}


# ---------------------------------------------------------------------- targets


@pytest.mark.parametrize("name", [FULL, "tensorrt:sm90", "tensorrt-rtx:sm89,sm120", SIMULATION])
def test_rows_run_everywhere_that_fp8_does(name: str) -> None:
    target = targets.find(name)
    assert run_time.notice(ROWS, target) == ""
    assert scanned(PRODUCT, name, ROWS, W=(256, 200)).weights


@pytest.mark.parametrize("wanted", [ROWS, BLOCKS], ids=lambda r: r.scales)
@pytest.mark.parametrize("name", ["tensorrt-rtx:sm86", "tensorrt:sm80,sm89"])
def test_old_cards_have_no_fp8(name: str, wanted: Recipe) -> None:
    assert "FP8 needs SM 8.9" in run_time.notice(wanted, targets.find(name))
    assert "FP8 needs SM 8.9" in scanned(PRODUCT, name, wanted, W=(256, 200)).skipped["p"]


@pytest.mark.parametrize("name", [RTX, FULL])
def test_blocks_are_refused_and_the_compilation_says_so(name: str) -> None:
    result = driver.compile(model(PRODUCT, W=(256, 200)), recipe=BLOCKS, target=name)
    assert result.plan.quantized_nodes() == frozenset()
    told = [w for w in result.report.warnings if w.startswith(f"fp8-block on {name}: ")]
    assert len(told) == 1
    assert "target onnxruntime simulates it" in told[0]
    assert result.report.skipped["p"] in told[0]


def test_other_recipes_have_nothing_to_say() -> None:
    for name in ("fp8", "int8", "fp16"):
        assert run_time.notice(recipe.find(name), targets.find(RTX)) == ""


# ---------------------------------------------------------------------- plans


def test_nothing_is_calibrated() -> None:
    """No data are asked for, none are made up, and the plan does not depend on any."""
    source = model(PRODUCT, W=(256, 200))
    plans = []
    for data in (None, {"x": np.ones((4, 32, 256), np.float32)}):
        result = driver.compile(source, recipe=ROWS, target=SIMULATION, data=data)
        assert result.report.warnings == ()
        assert not result.report.synthetic
        plans.append(result.plan.digest())
    assert plans[0] == plans[1]


def test_the_plan_has_the_floor_of_the_activation_and_the_tiles_of_the_weight() -> None:
    made = driver.compile(model(PRODUCT, W=(256, 200)), recipe=BLOCKS, target=SIMULATION).plan
    (activation,), (weight,) = made.activations, made.weights
    assert (activation.source, activation.scale) == ("dynamic", LEAST_SCALE)
    assert isinstance(weight.scale, tuple)
    assert len(weight.scale) == 2 * 2
    written = json.loads(plan.encode(made))
    assert written["activations"][0]["storage"]["dynamic"] is True
    assert written["weights"][0]["storage"]["block"] == 128


@pytest.mark.parametrize("name", ["fp8-rowwise", "fp8-block"])
def test_no_weight_scale_is_below_the_floor(name: str) -> None:
    tiny = np.full((256, 200), 1e-7, np.float32)
    made = driver.compile(model(PRODUCT, W=tiny), recipe=name, target=SIMULATION).plan
    assert set(np.atleast_1d(made.weights[0].scale)) == {float(np.float32(LEAST_SCALE))}


def test_an_older_plan_is_read_as_it_was_meant() -> None:
    """Plans of before have no ``block`` and no ``dynamic``."""
    found = msgspec.json.decode(b'{"format": "int8", "axis": 0}', type=Storage)
    assert found == Storage("int8", 0)


def test_run_time_scales_are_for_fp8() -> None:
    with pytest.raises(ValueError, match='scales = "token" needs format = "fp8_e4m3"'):
        Recipe("mine", scales="token")


def test_a_file_that_asks_for_int8_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nscales = "token"\n')
    with pytest.raises(InputError, match="needs format"):
        recipe.find(str(path))
