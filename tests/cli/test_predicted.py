"""``inspect MODEL.onnx`` shows what is predicted for a target whose library is not here."""

from __future__ import annotations

from pathlib import Path

import msgspec
import onnx
import pytest

from qcompiler.engine.predict import Prediction, predict
from qcompiler.engine.target_string import parse
from tests.cli.conftest import Run
from tests.compiled import compiled

TARGET = "tensorrt-11.4:sm90"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A quantized model."""
    path = tmp_path / "residual.onnx"
    onnx.save(compiled("residual", "tensorrt", "int8+fp16").model(), path)
    return path


def test_a_page_that_says_it_is_predicted(run: Run, model: Path) -> None:
    ran = run("inspect", model, "--target", TARGET)
    text = " ".join(ran.out.split())
    assert (ran.code, ran.err) == (0, "")
    assert f"{model} predicted for {TARGET}" in text
    assert "nothing was built, and no compiler was asked" in text
    assert "int8: rules D01, D06, documented" in text
    assert "folded: its producer is quantized [rules D20, D21, documented]" in text
    assert "unknown kernels, kinds, bookkeeping, movement, memory: only a build tells" in text


def test_json_is_the_prediction(run: Run, model: Path) -> None:
    ran = run("inspect", model, "--target", TARGET, "--format", "json")
    assert ran.document()["predicted"] is True
    assert msgspec.convert(ran.document(), Prediction) == predict(model, parse(TARGET))


def test_shapes(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(compiled("resnet20", "tensorrt", "int8+fp16").model(), path)
    ran = run("inspect", path, "--opt-shapes", "input:2x3x32x32", "--format", "json")
    assert ran.document()["shapes"] == "input:2x3x32x32"
    assert ran.document()["target"] == "tensorrt"


def test_reasons_and_refusals_are_shown(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(compiled("mlp", "tensorrt", "fp8+fp16").model(), path)
    text = " ".join(run("inspect", path, "--target", "tensorrt-11.4:sm80").out.split())
    assert "refused TRT031" in text
    assert "refused: FP8 needs SM 8.9 [rule I02, documented]" in text


@pytest.mark.parametrize("words", [["--layers"], ["--model", "other.onnx"]])
def test_a_prediction_has_no_kernels(run: Run, model: Path, words: list[str]) -> None:
    ran = run("inspect", model, *words)
    assert ran.code == 2
    assert "prediction" in ran.err


def test_shapes_go_with_a_model(run: Run, tmp_path: Path) -> None:
    ran = run("inspect", tmp_path / "x.plan", "--opt-shapes", "x:1")
    assert ran.code == 2
    assert "--opt-shapes" in ran.err
