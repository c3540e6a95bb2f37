"""The models that every other test compiles are valid, run, and are the same at every load."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

MODELS = Path(__file__).resolve().parent.parent / "models"
# Symbolic axes in the models, and a size for each; an empty cache is the hard case of `past`.
SIZES = {"batch": 2, "sequence": 24, "past": 0, "height": 32, "width": 32}


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("models_build", MODELS / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = _module()


def _feeds(session: Any) -> dict[str, NDArray[Any]]:
    rng = np.random.default_rng(0)
    feeds: dict[str, NDArray[Any]] = {}
    for declared in session.get_inputs():
        shape = [axis if isinstance(axis, int) else SIZES[axis] for axis in declared.shape]
        if declared.type == "tensor(float)":
            feeds[declared.name] = rng.standard_normal(shape, dtype=np.float32)
        elif declared.type == "tensor(bool)":
            feeds[declared.name] = np.ones(shape, np.bool_)
        else:
            feeds[declared.name] = rng.integers(0, 2, shape)
    return feeds


def _run(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]] | None = None) -> list[Any]:
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    outputs: list[Any] = session.run(None, feeds or _feeds(session))
    return outputs


@pytest.mark.parametrize("name", build.names())
def test_model_is_valid_and_its_outputs_are_alive(name: str) -> None:
    model = build.load(name)
    onnx.checker.check_model(model, full_check=True)
    for declared, value in zip(model.graph.output, _run(model), strict=True):
        assert np.isfinite(value).all(), declared.name
        # Not dead and not exploded: what quantization does to it must be visible.
        assert 0.1 < float(value.std()) < 10, declared.name


@pytest.mark.parametrize("name", build.names())
def test_load_is_deterministic(name: str) -> None:
    first, second = build.load(name), build.load(name)
    assert first.SerializeToString(deterministic=True) == second.SerializeToString(
        deterministic=True
    )


@pytest.mark.parametrize("name", build.names())
def test_every_declared_constant_is_read(name: str) -> None:
    model = build.load(name)
    bodies = [model.graph, *(a.g for n in model.graph.node for a in n.attribute if a.HasField("g"))]
    read = {tensor for body in bodies for node in body.node for tensor in node.input}
    assert {t.name for body in bodies for t in body.initializer} <= read


@pytest.mark.parametrize("name", build.names())
def test_models_readme_has_a_line_for_it(name: str) -> None:
    assert f"| `{name}` |" in (MODELS / "README.md").read_text(encoding="utf-8")


def test_decoder_gives_the_same_logits_through_its_cache() -> None:
    model = build.load("decoder_kv")
    ids = np.random.default_rng(1).integers(0, 128, (1, 12))
    empty = np.zeros((1, 2, 0, 16), np.float32)
    whole = _run(model, {"input_ids": ids, "past_key": empty, "past_value": empty})[0]
    start = _run(model, {"input_ids": ids[:, :7], "past_key": empty, "past_value": empty})
    rest = _run(model, {"input_ids": ids[:, 7:], "past_key": start[1], "past_value": start[2]})
    # Softmax over at most 12 keys and sums of 64 products in FP32: 64 roundings of 2^-24 each.
    np.testing.assert_allclose(
        np.concatenate([start[0], rest[0]], axis=1), whole, rtol=0, atol=64 * 2**-24 * 8
    )


def test_demo_data_fit_the_demo_model() -> None:
    with np.load(MODELS / "resnet20.calib.npz") as calibration:
        samples = calibration["input"]
    with np.load(MODELS / "resnet20.eval.npz") as evaluation:
        inputs, labels = evaluation["input"], evaluation["labels"]
    assert samples.shape == (256, 3, 32, 32)
    assert inputs.shape == (1000, 3, 32, 32)
    assert {samples.dtype, inputs.dtype} == {np.dtype(np.float32)}
    seen = {sample.tobytes() for sample in samples}
    assert not any(sample.tobytes() in seen for sample in inputs)
    logits = _run(build.load("resnet20"), {"input": inputs})[0]
    # 890 of 1,000 are right; two images may fall either way with another order of FP32 sums.
    assert abs(int((logits.argmax(1) == labels).sum()) - 890) <= 2


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ("full(value=0.5, shape=[2, 2])", np.full((2, 2), 0.5, np.float32)),
        ("full(value=3, shape=[2], dtype=int8)", np.full(2, 3, np.int8)),
        ("[0.5, -1]", np.array([0.5, -1], np.float32)),
        ("int64 [1, -2]", np.array([1, -2], np.int64)),
        ("2.0", np.array(2, np.float32)),
        ("int8 -3", np.array(-3, np.int8)),
    ],
)
def test_declared_values(declaration: str, expected: NDArray[Any]) -> None:
    found = build.constant(declaration)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_declared_generators() -> None:
    normal = build.constant("normal(seed=3, shape=[64, 64], scale=0.1, dtype=float16)")
    assert normal.dtype == np.float16
    # The mean of 4096 draws has the deviation 0.1 / 64; six of them bound it.
    assert abs(float(normal.mean(dtype=np.float64))) < 6 * 0.1 / 64
    uniform = build.constant("uniform(seed=3, shape=[512], low=0.5, high=1.5)")
    assert 0.5 <= uniform.min() < uniform.max() <= 1.5
    whole = build.constant("integers(seed=3, shape=[4096], low=-2, high=2, dtype=int8)")
    assert sorted(set(whole.tolist())) == [-2, -1, 0, 1, 2]


@pytest.mark.parametrize("declaration", ["gauss(seed=1, shape=[2])", "normal(seed=1)", "[1, 'a']"])
def test_a_bad_declaration_is_quoted(declaration: str) -> None:
    with pytest.raises(ValueError, match="cannot read the declaration") as caught:
        build.constant(declaration)
    assert declaration in str(caught.value)


def test_large_model_has_whole_layers_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_LARGE_WIDTH", 32)
    assert build.write_large(3 * 32 * 32 * 4, tmp_path / "large.onnx") == 3
    assert (tmp_path / "large.onnx.data").stat().st_size == 3 * 32 * 32 * 4
    onnx.checker.check_model(tmp_path / "large.onnx", full_check=True)
    x = np.random.default_rng(0).standard_normal((4, 32), dtype=np.float32)
    session = onnxruntime.InferenceSession(
        tmp_path / "large.onnx", providers=["CPUExecutionProvider"]
    )
    assert 0.1 < float(session.run(None, {"x": x})[0].std()) < 10
