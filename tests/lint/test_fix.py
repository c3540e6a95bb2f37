"""``lint --fix`` on what onnxruntime.quantization writes: it builds, and computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from models import build
from qcompiler import lint
from qcompiler.backends import tensorrt
from qcompiler.cli.lint import parse_target
from qcompiler.lint.fix import fix
from qcompiler.load import load
from tests.contract.running import feeds_for, run, session
from tests.lint.fixtures import HERE, read

INT8, UINT8 = QuantType.QInt8, QuantType.QUInt8
MODELS = ["residual", "conv_bn_relu", "mlp", "concat_add", "depthwise", "swiglu"]
TYPES = [
    pytest.param(INT8, INT8, id="defaults"),
    pytest.param(UINT8, INT8, id="uint8"),
    pytest.param(UINT8, UINT8, id="uint8-weights"),
]


class _Once(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: dict[str, Any]) -> None:
        self.feeds: list[dict[str, Any]] = [feeds]

    def get_next(self) -> dict[str, Any] | None:
        return self.feeds.pop() if self.feeds else None


def quantized(name: str, activation: QuantType, weight: QuantType, folder: Path) -> Path:
    """A model of ``models/`` as onnxruntime.quantization writes it."""
    source, made = folder / "float.onnx", folder / "quantized.onnx"
    model = build.load(name)
    onnx.save(model, source)
    feeds = feeds_for(session(model))
    quantize_static(source, made, _Once(feeds), activation_type=activation, weight_type=weight)
    return made


def sqnr(reference: Any, other: Any) -> float:
    """Signal-to-noise ratio in dB over all outputs."""
    signal = sum(float((x.astype(np.float64) ** 2).sum()) for x in reference)
    noise = sum(
        float(((x.astype(np.float64) - y) ** 2).sum())
        for x, y in zip(reference, other, strict=True)
    )
    return 10 * float(np.log10(signal / noise))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(("activation", "weight"), TYPES)
def test_a_model_of_onnxruntime_builds_after_the_fix(
    name: str, activation: QuantType, weight: QuantType, tmp_path: Path
) -> None:
    """Refused before, with findings that say so; built after, without any; still the function.

    The new step is at most 255 / 127 of the old one, so the noise of activations, which are rounded
    once, grows by at most that squared. Weights were rounded before and keep that noise, too:
    ``10 log10(1 + (255 / 127)^2)`` is 7.0 dB.
    """
    path = quantized(name, activation, weight, tmp_path)
    target = parse_target("tensorrt-rtx")
    graph = load(path, strict=False)
    assert any(d.is_error for d in lint.lint(graph, target))
    assert not tensorrt.build(path).accepted

    assert fix(graph)
    assert not [d for d in lint.lint(graph, target) if d.is_error]
    assert fix(graph) == []
    fixed = graph.proto()
    onnx.save(fixed, tmp_path / "fixed.onnx")
    judged = tensorrt.build(tmp_path / "fixed.onnx")
    assert judged.accepted, judged.errors

    model = build.load(name)
    feeds = feeds_for(session(model))
    reference = run(model, feeds)
    before = sqnr(reference, run(onnx.load(path), feeds))
    after = sqnr(reference, run(fixed, feeds))
    assert after > before - 10 * np.log10(1 + (255 / 127) ** 2)


def test_uint8_weights_around_128_are_recentred_exactly(tmp_path: Path) -> None:
    text = """
    <ir_version: 10, opset_import: ["" : 21]>
    g (float[2,3] x) => (float[2,2] y)
    <uint8[3,2] w = {0, 255, 128, 129, 127, 7}, float s = {0.03}, uint8 z = {128}>
    { d = DequantizeLinear(w, s, z)
      y = MatMul(x, d) }
    """
    model = onnx.parser.parse_model(text)
    graph = load(model, strict=False)
    graph.infer()
    (done,) = fix(graph)
    assert "exact" in done.what
    x = {"x": np.arange(6, dtype=np.float32).reshape(2, 3)}
    np.testing.assert_array_equal(run(model, x)[0], run(graph.proto(), x)[0])


@pytest.mark.parametrize("code", ["TRT001", "TRT002", "TRT003", "TRT004", "TRT009", "TRT035"])
def test_the_bad_model_of_a_rule_is_good_after_the_fix(code: str) -> None:
    graph = load(read(HERE / code / "bad.txt").model, strict=False)
    graph.infer()
    assert fix(graph)
    # Fixtures are in FP32, which is advised against (TRT038) and not what is fixed.
    assert {d.code for d in lint.lint(graph, parse_target("tensorrt-rtx"))} <= {"TRT038"}


@pytest.mark.parametrize("code", lint.codes())
def test_a_good_model_is_left_alone(code: str) -> None:
    graph = load(read(HERE / code / "good.txt").model, strict=False)
    graph.infer()
    before = graph.proto().SerializeToString(deterministic=True)
    fixed = fix(graph)
    assert fixed == []
    assert graph.proto().SerializeToString(deterministic=True) == before
