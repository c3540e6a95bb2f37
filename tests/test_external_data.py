"""Models whose weights lie beside them, and models so large that theirs must."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import qcompiler.graph
from models import build
from qcompiler import driver
from qcompiler.driver import Options
from tests.compiled import compiled
from tests.hand_made import normal

# ---------------------------------------------------------------------- weights beside the model


def _external(proto: ModelProto, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "model.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin")
    return path


def _codes(proto: ModelProto) -> dict[str, bytes]:
    return {
        t.name: numpy_helper.to_array(t).tobytes()
        for t in proto.graph.initializer
        if t.name.endswith(("_q", "_scale", "_zero_point"))
    }


@pytest.mark.parametrize("name", ["mlp", "conv_bn_relu", "decoder_kv"])
def test_weights_beside_the_model_give_the_same_codes(name: str, tmp_path: Path) -> None:
    source = _external(build.load(name), tmp_path / "in")
    result = driver.compile(source, recipe="int8")
    report = result.save(tmp_path / "out.onnx")
    files = sorted(p.name for p in tmp_path.iterdir())
    assert files == ["in", "out.onnx", "out.onnx.data"]
    written = onnx.load(tmp_path / "out.onnx")
    assert _codes(written) == _codes(compiled(name, recipe="int8").model())
    assert report.bytes_after == sum(
        (tmp_path / f).stat().st_size for f in ("out.onnx", "out.onnx.data")
    )
    assert report.bytes_before == sum(p.stat().st_size for p in source.parent.iterdir())
    assert report.outputs == compiled(name, recipe="int8").report.outputs


def test_a_large_model_is_written_with_its_weights_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_LARGE_WIDTH", 64)
    build.write_large(3 * 64 * 64 * 4, tmp_path / "large.onnx")
    small = driver.compile(onnx.load(tmp_path / "large.onnx"))
    monkeypatch.setattr(qcompiler.graph, "LARGE_BYTES", 1000)
    result = driver.compile(tmp_path / "large.onnx")
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").stat().st_size >= 3 * 64 * 64
    assert _codes(onnx.load(tmp_path / "out.onnx")) == _codes(small.model())
    again = driver.compile(tmp_path / "large.onnx", options=Options(plan=result.plan))
    again.save(tmp_path / "again.onnx")
    data = [(tmp_path / f"{n}.onnx.data").read_bytes() for n in ("out", "again")]
    assert data[0] == data[1]


def test_a_large_model_in_memory_is_written_with_its_weights_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(qcompiler.graph, "LARGE_BYTES", 1000)
    result = driver.compile(build.load("mlp"))
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").exists()
    assert _codes(onnx.load(tmp_path / "out.onnx")) == _codes(compiled("mlp").model())


def test_a_failed_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_self: Path, _target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(KeyboardInterrupt):
        compiled("mlp").save(tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_feeds_are_not_changed_by_the_compiler() -> None:
    data: Mapping[str, Any] = {"x": normal("data", (64, 64))}
    driver.compile(build.load("mlp"), data=data)
    np.testing.assert_array_equal(data["x"], normal("data", (64, 64)))
