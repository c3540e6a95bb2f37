"""FP8 per tensor, per token and in blocks: the error of one layer, and what each form is good for.

The layer has what makes activations of language models hard: channels of log-normal gain, six of
them 25 to 70 times larger, and rows of unequal norm; its weights are t-distributed with 5 degrees
of freedom. The errors to meet are those of the same layer computed in numpy alone.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto

from qcompiler import driver
from qcompiler import recipe as recipes
from qcompiler.backends import tensorrt
from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.cli.lint import parse_target
from qcompiler.driver import Options, Result
from qcompiler.formats import F32
from qcompiler.granularity import PerAxis, PerBlock, PerTile
from qcompiler.lint import lint
from qcompiler.load import load
from qcompiler.numerics.quantize import fake_quantize, quantize
from qcompiler.numerics.run_time import LEAST_SCALE, run_time_qparams
from qcompiler.numerics.tiles import tile_qparams
from qcompiler.spec import QParams, Spec
from tests.hand_made import model

TOKENS, K, N = 1024, 512, 512
TARGETS = {
    "fp8": "tensorrt",
    "fp8-rowwise": "onnxruntime",
    "fp8-block": "onnxruntime",
    "fp8-block+fp16": "onnxruntime",
}
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
# What each recipe does, for the numerics alone.
ROWS, CHANNELS = Spec("fp8_e4m3", PerBlock(-1, K)), Spec("fp8_e4m3", PerAxis(1))
BLOCKS, TILES = Spec("fp8_e4m3", PerBlock(-1, 128)), Spec("fp8_e4m3", PerTile(128))
_PRODUCT = re.compile(r"LayerType: (?:gemm|runtime_fusion), Inputs: .*?Datatype: (\w+)")


@cache
def layer() -> tuple[F32, F32, F32]:
    """Rows to calibrate with, rows to test with, and the weight ``[K, N]``."""
    rng = np.random.default_rng(0)
    gains = np.exp(rng.normal(0, 0.7, K)).astype(np.float32)
    outliers = rng.choice(K, 6, replace=False)
    gains[outliers] *= rng.uniform(25, 70, 6)
    mixing = rng.standard_normal((K, 64)).astype(np.float32) / 8

    def rows() -> F32:
        common = rng.standard_normal((TOKENS, 64)).astype(np.float32) @ mixing.T
        values = common + 0.6 * rng.standard_normal((TOKENS, K)).astype(np.float32)
        return (values * gains * np.exp(rng.normal(0, 0.3, (TOKENS, 1)))).astype(np.float32)

    calibration, test = rows(), rows()
    return calibration, test, (rng.standard_t(5, (K, N)) * 0.02).astype(np.float32)


def linear(weight: F32) -> ModelProto:
    """``y = x W``."""
    k, n = weight.shape
    text = f"g (float[tokens,{k}] x) => (float[tokens,{n}] y) {{ [mm] y = MatMul (x, W) }}"
    return model(text, W=weight)


def compiled(recipe: str, weight: F32, rows: F32, target: str = "") -> Result:
    """The layer, quantized; per tensor calibrated on ``rows``."""
    data = [{"x": part} for part in np.array_split(rows, 4)]
    options = Options(force=True)
    result = driver.compile(
        linear(weight), data=data, recipe=recipe, target=target or TARGETS[recipe], options=options
    )
    assert result.plan.quantized_nodes() == {"mm"}
    return result


def output(result: Result, rows: F32, name: str = "y") -> F32:
    """What ONNX Runtime computes with the compiled layer."""
    with OrtSession(_with_output(result.model(), name)) as session:
        return np.asarray(session.run({"x": rows}, [name])[name])


def _with_output(made: ModelProto, name: str) -> ModelProto:
    if name not in {o.name for o in made.graph.output}:
        made.graph.output.add(name=name)
    return made


def error(found: F32, expected: F32) -> float:
    """``|Y' - Y| / |Y|``."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(
    ("recipe", "listed"),
    [
        ("fp8", 0.0376),
        ("fp8-rowwise", 0.0319),
        ("fp8-block", 0.0281),
        ("fp8-block+fp16", 0.0281),
    ],
)
def test_the_error_is_that_of_the_form(recipe: str, listed: float) -> None:
    calibration, test, weight = layer()
    found = error(output(compiled(recipe, weight, calibration), test), test @ weight)
    assert found == pytest.approx(listed, rel=0.01)


@pytest.mark.parametrize(("target", "exact"), [("tensorrt-rtx", True), ("tensorrt", False)])
def test_where_the_scales_stand_changes_nothing(target: str, exact: bool) -> None:
    """Inside or behind: the same codes, and the same output up to the rounding of float32."""
    calibration, test, weight = layer()
    outputs = [
        output(compiled("fp8-rowwise", weight, calibration, to), test)
        for to in (TARGETS["fp8-rowwise"], target)
    ]
    assert np.array_equal(outputs[0], outputs[1]) is exact
    assert error(outputs[0], outputs[1]) < 2.0**-20


# ---------------------------------------------------------------------- bit for bit


def rows_of_all_sizes() -> F32:
    """Rows from 1e-9 to 1e9, zeros, and one with a single large element."""
    rows = np.random.default_rng(7).standard_normal((32, K)).astype(np.float32)
    rows *= np.logspace(-9, 9, 32, dtype=np.float32)[:, None]
    rows[3], rows[20, 17] = 0, 1e12
    return rows


def test_the_codes_of_rows_are_those_of_the_numerics() -> None:
    rows, weight = rows_of_all_sizes(), layer()[2]
    result = compiled("fp8-rowwise", weight, rows)
    codes = output(result, rows, "x_q")
    expected = quantize(rows, run_time_qparams(rows, ROWS), ROWS)
    assert codes.view(E4M3).tobytes() == expected.tobytes()
    stored = output(result, rows, "W_dq")
    assert stored.tobytes() == fake_quantize(weight, _floored(weight), CHANNELS).tobytes()


def _floored(weight: F32) -> QParams:
    scale = np.abs(weight).max(axis=0).astype(np.float64) / 448
    floored = np.maximum(scale.astype(np.float32), np.float32(LEAST_SCALE))
    return QParams(floored, np.zeros(N, E4M3))


def test_the_product_of_rows_is_that_of_the_dequantized_operands() -> None:
    """``((q / 256) W) * 256 s`` is ``(q s) W``, up to the rounding of float32 sums."""
    rows, weight = layer()[1][:64], layer()[2]
    found = output(compiled("fp8-rowwise", weight, rows), rows)
    a = fake_quantize(rows, run_time_qparams(rows, ROWS), ROWS)
    _near_product(found, a, fake_quantize(weight, _floored(weight), CHANNELS))


def _near_product(found: F32, a: F32, b: F32) -> None:
    """K products and K sums in float32, two more for scales, each rounded by at most 2^-24."""
    wide, other = a.astype(np.float64), b.astype(np.float64)
    size = np.abs(wide) @ np.abs(other)
    assert (np.abs(found - wide @ other) <= size * (2 * K + 2) * 2.0**-24).all()


def test_blocks_are_those_of_the_numerics() -> None:
    rows, weight = rows_of_all_sizes(), layer()[2]
    result = compiled("fp8-block", weight, rows)
    a = fake_quantize(rows, run_time_qparams(rows, BLOCKS), BLOCKS)
    b = fake_quantize(weight, tile_qparams(weight, TILES), TILES)
    assert output(result, rows, "x_dq").tobytes() == a.tobytes()
    assert output(result, rows, "W_dq").tobytes() == b.tobytes()
    _near_product(output(result, rows), a, b)


# ---------------------------------------------------------------------- what each is good for


def test_a_small_token_is_lost_beside_a_large_one_unless_it_has_a_scale_of_its_own() -> None:
    """A row of 1/1000 of the norm: E4M3 reaches 2^-9 of its scale; the rest of it is zero."""
    _, test, weight = layer()
    rows = test[:256].copy()
    rows[1:] *= np.float32(1e-4)
    expected = rows @ weight
    small = {
        recipe: error(output(compiled(recipe, weight, rows), rows)[1:], expected[1:])
        for recipe in TARGETS
    }
    assert small["fp8"] > 0.1
    assert small["fp8-rowwise"] < 0.035
    assert small["fp8-block"] < 0.035


def test_an_outlier_costs_its_own_block_only() -> None:
    """One huge weight and one huge channel in the first block of K; what the others add stays."""
    rng = np.random.default_rng(5)
    rows = rng.uniform(0.5, 1, (64, K)).astype(np.float32)
    weight = (rng.uniform(0.5, 1, (K, N)) * rng.choice([-1, 1], (K, N))).astype(np.float32)
    rows[:, 3], weight[5, :] = 1e6, 1e6
    rest = rows.copy()
    rest[:, :128] = 0
    expected = rest[:, 128:] @ weight[128:]
    off = {}
    for recipe in ("fp8-rowwise", "fp8-block"):
        result = compiled(recipe, weight, rows)
        weights = output(result, rows, "W_dq")[128:]
        data = output(result, rows, "x_dq")[:, 128:]
        factor = output(result, rows, "x_scale") if recipe == "fp8-rowwise" else np.float32(1)
        off[recipe] = error(np.asarray((data * factor) @ weights, np.float32), expected)
    assert off["fp8-rowwise"] > 0.5
    assert off["fp8-block"] < 0.05


# ---------------------------------------------------------------------- TensorRT for RTX


def sublayer(rank: int) -> ModelProto:
    """Two products with a bias each, one as Gemm; free rows."""
    rows = "2,tokens" if rank == 3 else "tokens"
    second = (
        "y = Gemm <transB = 1> (g, V, c)" if rank == 2 else "[w] w = MatMul (g, V)  y = Add (w, c)"
    )
    text = f"""g (float[{rows},128] x) => (float[{rows},64] y) {{
        [first] h = MatMul (x, W)  a = Add (h, b)  g = Relu (a)  {second}
    }}"""
    last = (64, 96) if rank == 2 else (96, 64)
    return model(text, W=(128, 96), b=(96,), V=last, c=(64,))


@pytest.mark.parametrize("rank", [2, 3])
@pytest.mark.parametrize("capability", ["SM89", "SM120"])
@pytest.mark.parametrize("recipe", ["fp8-rowwise", "fp8-rowwise+fp16"])
@pytest.mark.parametrize("family", ["tensorrt-rtx", "tensorrt"])
def test_rows_run_as_fp8_products(
    family: str, recipe: str, capability: str, rank: int, tmp_path: Path
) -> None:
    """Two kernels multiply FP8; the scales are found, applied and taken back in the other three."""
    options = Options(force=True)
    target = f"{family}:{capability.lower()}"
    result = driver.compile(sublayer(rank), recipe=recipe, target=target, options=options)
    assert len(result.plan.quantized_nodes()) == 2
    kernels = _listing(result, capability, tmp_path)
    assert [m[1] for m in map(_PRODUCT.search, kernels) if m is not None] == ["FP8", "FP8"]
    assert len(kernels) == 5
    found = {d.code for d in lint(load(result.model()), parse_target(target))}
    assert found <= ({"TRT038"} if recipe == "fp8-rowwise" else set())


def _listing(result: Result, capability: str, folder: Path) -> list[str]:
    """The lines of the kernels."""
    result.save(folder / "model.onnx")
    shape = [s if isinstance(s, int) else 32 for s in result.graph.inputs[0].shape or ()]
    verdict = tensorrt.build(
        folder / "model.onnx", capability=capability, shapes={"x": tuple(shape)}, keep_log=True
    )
    assert verdict.accepted, verdict.errors
    text = verdict.log[verdict.log.index("Layers:") :]
    return [line for line in text.splitlines() if "LayerType: " in line]


@pytest.mark.parametrize("capability", ["SM89", "SM120"])
def test_the_row_about_blocks_is_what_the_builder_does(capability: str, tmp_path: Path) -> None:
    result = compiled("fp8-block", layer()[2], layer()[1])
    result.save(tmp_path / "model.onnx")
    verdict = tensorrt.build(tmp_path / "model.onnx", capability=capability, shapes={"x": (64, K)})
    assert (verdict.accepted, verdict.stage) == (False, "build")
    assert "is_constant" in str(verdict.errors)


@pytest.mark.parametrize("name", TARGETS)
def test_the_recipes_ask_for_no_search(name: str) -> None:
    assert not recipes.find(name).search_weights
