"""Whole compilations of every model: the text, the real TensorRT, ONNX Runtime, and lint.

``<model>.<target>.txt`` is the listing of the compiled graph, calibrated on synthetic data of seed
0. A change that is not meant to change what is compiled must not touch these files; one that is
rewrites them with ``--update-goldens``. They are made with the plainest numbers, the extremes of
activations and weights, because a search may turn on the last bit of a sum, which is the
processor's; and scales of activations are rounded to four digits.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

from models import build
from qcompiler import driver, ops, targets
from qcompiler import recipe as recipes
from qcompiler.backends import tensorrt
from qcompiler.driver import Options, Result
from qcompiler.graph import label
from qcompiler.load import load
from qcompiler.recipe import Recipe
from qcompiler.text import listing
from qcompiler.verify import findings
from tests.compiled import compiled
from tests.contract.running import feeds_for, run, session

HERE = Path(__file__).parent
# Shapes for the builder where a model ties its symbols together without saying so.
SHAPES = {
    "decoder_kv": {"input_ids": (1, 16), "past_key": (1, 2, 8, 16), "past_value": (1, 2, 8, 16)}
}
_SCALE = re.compile(r"^(# \S+_scale(?:_\d+)?: float = )(\S+)$", re.MULTILINE)
# A convolution, matrix product or attention, and the type of its first input.
_PRODUCT = re.compile(
    r"(?:LayerType: (?:correlation|gemm|runtime_fusion), |Name: _gem[mv]_mha.*?)"
    r"Inputs: .*?Datatype: (\w+)"
)
every_model = pytest.mark.parametrize("name", build.names())


PLAIN = Recipe(name="int8", range="minmax", search_weights=False)


def _text(result: Result) -> str:
    return _SCALE.sub(lambda m: f"{m[1]}{float(m[2]):.4g}", listing(result.graph))


@every_model
@pytest.mark.parametrize("target", targets.names())
def test_process_replay(name: str, target: str, update_goldens: bool) -> None:
    path = HERE / f"{name}.{target}.txt"
    options = Options(force=True)
    text = _text(driver.compile(build.load(name), target=target, recipe=PLAIN, options=options))
    if update_goldens:
        path.write_text(text)
        return
    assert text == path.read_text(), "not the committed listing; see --update-goldens"


def test_no_listing_is_left_over() -> None:
    wanted = {f"{n}.{t}.txt" for n in build.names() for t in targets.names()}
    assert {p.name for p in HERE.glob("*.txt")} == wanted


@every_model
@pytest.mark.parametrize(
    ("target", "recipe", "capabilities"),
    [
        ("tensorrt", "int8", "SM89"),
        ("tensorrt", "int8+fp16", "SM86 SM89 SM120"),
        ("tensorrt", "fp16", "SM89"),
        ("tensorrt", "bf16", "SM89"),
        ("tensorrt-rtx", "int8", "SM89"),
        ("tensorrt-rtx", "int8+fp16", "SM86 SM89 SM120"),
        ("tensorrt-rtx", "int8+bf16", "SM89"),
        ("tensorrt-rtx", "fp8+fp16", "SM89 SM120"),
        ("tensorrt-rtx", "fp8-rowwise+fp16", "SM89 SM120"),
    ],
)
def test_tensorrt_builds_it_and_runs_every_quantized_node_as_planned(
    name: str, target: str, recipe: str, capabilities: str, tmp_path: Path
) -> None:
    result = compiled(name, target, recipe, force=True)
    result.save(tmp_path / "model.onnx")
    stored = "FP8" if recipe.startswith("fp8") else "Int8"
    already = {"/conv1/Conv", "/conv2/Conv"} if name == "int8_already" else set()
    linear = {label(n) for n in result.graph.nodes if ops.is_weighted(n)} - already
    for capability in capabilities.split():
        verdict = tensorrt.build(
            tmp_path / "model.onnx", capability=capability, shapes=SHAPES.get(name), keep_log=True
        )
        assert (verdict.errors, verdict.stage, verdict.accepted) == ((), "built", True)
        assert low_nodes(verdict.log, stored) & linear == result.plan.quantized_nodes(), capability


def low_nodes(log: str, stored: str) -> set[str]:
    """ONNX nodes of the kernels that multiply operands of a type, by the library's own listing."""
    nodes: set[str] = set()
    for line in log[log.index("Layers:") :].splitlines():
        kernel = _PRODUCT.search(line)
        if kernel is not None and kernel[1] == stored:
            nodes.update(re.findall(r"\[ONNX Layer: ([^\]]+)\]", line))
    return nodes


@every_model
@pytest.mark.parametrize("target", targets.names())
@pytest.mark.parametrize("recipe", recipes.names())
def test_every_recipe_compiles_every_model_for_every_target(
    name: str, target: str, recipe: str, tmp_path: Path
) -> None:
    """Lint is clean, every point has its answer, and ONNX Runtime runs it closely enough."""
    result = compiled(name, target, recipe, force=True)
    path = tmp_path / "model.onnx"
    result.save(path)
    onnx.checker.check_model(path, full_check=True)
    graph = load(path)
    graph.infer()
    assert findings(graph) == []
    for output in result.report.outputs:
        assert output.sqnr_db >= floor(result), output
        # Its optimizer knows FP8 badly, and the report warns; bfloat16 it does not run.
        if not recipe.startswith("fp8") and "bf16" not in recipe:
            assert output.sqnr_db_optimized is not None, output


def floor(result: Result) -> float:
    """Least signal-to-noise ratio in dB that a model of random weights must keep.

    A normal tensor whose range is 4 standard deviations has the step ``4 s / 127`` and so the noise
    ``step^2 / 12``: 40.8 dB. A weight searched per channel (3.5 deviations) has 42 dB. Both
    operands of a product together: 38.4 dB. Noise powers of ``n`` products on one path add:
    ``10 log10(n)`` less. Six more dB (twice the amplitude) for tails of the held-out sample that
    calibration did not see, and for weights with one scale for all channels.

    FP8 rounds a value ``m 2^e``, 1 <= m < 2, to a multiple of ``2^(e-3)``: noise ``2^(2e-6) / 12``
    against a mean square of ``2^(2e) 7/3``, 32.5 dB whatever the range.
    """
    if result.plan.recipe.startswith("fp8"):
        activation = weight = 10 * math.log10(12 * 2**6 * 7 / 3)
    else:
        activation, weight = (10 * math.log10(12 * 127**2 / r**2) for r in (4.0, 3.5))
    both = -10 * math.log10(10 ** (-activation / 10) + 10 ** (-weight / 10))
    return both - 10 * math.log10(max(result.report.coverage.nodes, 1)) - 6


def test_the_floor_is_what_its_derivation_says() -> None:
    assert floor(compiled("mlp")) == pytest.approx(38.36 - 10 * math.log10(3) - 6, abs=0.05)


def test_a_model_in_which_nothing_is_quantized_computes_what_it_did() -> None:
    source = build.load("int8_already")
    feeds = feeds_for(session(source))
    before, after = run(source, feeds), run(compiled("int8_already", recipe="int8").model(), feeds)
    for x, y in zip(before, after, strict=True):
        np.testing.assert_array_equal(x, y)
