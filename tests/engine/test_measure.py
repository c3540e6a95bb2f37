"""The gate on a machine with a GPU: both engines run, and what was measured decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from qcompiler.backends import cuda_driver
from qcompiler.engine import baseline, gpus, sidecar
from qcompiler.engine.build import build
from qcompiler.engine.gate import LESS_ACCURATE, MEASURED_NOT_SLOWER, MEASURED_SLOWER, Gate
from qcompiler.engine.measure import Samples, feeds_for, present
from qcompiler.engine.target_string import parse
from tests.engine import gpu
from tests.engine.library_double import Double, install, plan
from tests.hand_made import model
from tests.recorded import Recorded

SM89 = parse("tensorrt-rtx:sm89")
SHAPE = (4, 4)  # of the default profile: the double's input has a free batch


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.onnx"
    onnx.save(model("g (float[N,4] x) => (float[N,4] y) { [relu] y = Relu (x) }"), path)
    return path


@pytest.fixture
def double(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Double:
    gpu.put(tmp_path, monkeypatch)
    return install(tmp_path / "double", monkeypatch, version="1.7.1.116")


def _gated(
    double: Double, source: Path, ours: bytes, fp16: bytes, **said: Any
) -> tuple[Gate, Recorded]:
    double.builds("m", ours)
    double.builds("source", fp16)
    compiled, built = source.with_name("m.onnx"), source.with_name("m.plan")
    compiled.write_bytes(source.read_bytes())
    notes = Recorded()
    facts = build(compiled, built, SM89)
    facts = baseline.gated(
        facts, built, compiled, source, SM89, gpu=gpus.find("RTX 4090"), progress=notes, **said
    )
    assert facts.gate is not None
    assert sidecar.read(source.with_name("m.plan.json")) == facts
    return facts.gate, notes


@pytest.mark.parametrize(
    ("us", "gain", "line"),
    [
        (500.0, 1.01, MEASURED_NOT_SLOWER),
        (1019.0, 1.01, MEASURED_NOT_SLOWER),
        (1030.0, 1.01, MEASURED_SLOWER),
        (500.0, 3.0, LESS_ACCURATE),  # twice the signal is noise: -6 dB
    ],
)
def test_what_was_measured_decides(
    double: Double, source: Path, us: float, gain: float, line: str
) -> None:
    found, notes = _gated(
        double, source, plan(us, gain=gain, shape=SHAPE), plan(1000.0, shape=SHAPE)
    )
    assert found.line == line
    assert found.verdict == ("pass" if line == MEASURED_NOT_SLOWER else "regret")
    assert notes.stages == ["build fixed", "build fp16", "measure"]
    assert notes.warnings == []
    measured = found.measured
    assert measured is not None
    assert (measured.gpu, measured.capability) == ("NVIDIA Stub", "SM89")
    assert measured.shapes == "x:4x4"
    assert measured.ours.median == pytest.approx(us * 1e-6, rel=1e-4)
    assert measured.fp16.median == pytest.approx(1e-3, rel=1e-4)
    (gap,) = measured.outputs
    assert gap.sqnr_db == pytest.approx(-20 * np.log10(abs(gain - 1)), rel=1e-3)
    assert (measured.inputs, measured.floor_db) == ("made up", 0.0)
    # The estimate stands beside it, and decides nothing: both listings are the same.
    assert found.estimate is not None
    assert found.estimate.ours == found.estimate.fp16
    assert "on the NVIDIA Stub (median and 95 % interval of 201 samples)" in found.why


def test_given_inputs_must_come_out_better(double: Double, source: Path, tmp_path: Path) -> None:
    """At 6 dB made-up inputs are let pass, and the user's are not."""
    np.savez(tmp_path / "data.npz", x=np.full(SHAPE, 3, np.float32))
    plans = plan(500.0, gain=1.5, shape=SHAPE), plan(1000.0, shape=SHAPE)
    assert _gated(double, source, *plans)[0].verdict == "pass"
    found, _ = _gated(double, source, *plans, samples=Samples(tmp_path / "data.npz"))
    assert found.measured is not None
    assert (found.measured.inputs, found.measured.floor_db) == ("given", 10.0)
    assert found.line == LESS_ACCURATE
    assert "6.0 dB SQNR against its output 'y' on inputs given, 10 allowed" in found.why
    assert "--exclude" in found.hint


def test_engines_that_do_not_run_are_estimated(double: Double, source: Path) -> None:
    found, notes = _gated(double, source, plan(1.0, shape=SHAPE, dies=True), plan(1.0, shape=SHAPE))
    assert found.measured is None
    assert found.verdict == "pass"
    (warning,) = notes.warnings
    assert warning.startswith("nothing was measured on the NVIDIA Stub: ")
    assert "SIGSEGV while running" in warning


def test_a_gpu_that_the_engine_is_not_for_is_not_asked(
    double: Double, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_STUB_CAPABILITY", "90")
    found, notes = _gated(double, source, plan(9.0, shape=SHAPE), plan(1.0, shape=SHAPE))
    assert (found.measured, found.verdict) == (None, "pass")
    assert notes.stages == ["build fixed", "build fp16"]
    assert double.called("ran") == []


@pytest.mark.parametrize(
    ("capability", "target", "fits"),
    [
        (89, "tensorrt-rtx:sm89", True),
        (86, "tensorrt-rtx:sm86,sm89", True),
        (90, "tensorrt-rtx:sm89", False),
        (90, "tensorrt", True),
        (90, "tensorrt:sm89", False),
    ],
)
def test_the_gpu_must_be_one_that_the_target_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: int, target: str, fits: bool
) -> None:
    gpu.put(tmp_path, monkeypatch, capability)
    assert (present(parse(target)) is not None) is fits


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "_library", lambda _name: None)
    assert present(parse("tensorrt")) is None


def test_samples_are_taken_at_the_shapes_that_are_compared(tmp_path: Path) -> None:
    path = tmp_path / "dynamic.onnx"
    onnx.save(model("g (float[N,4] x) => (float[N,4] y) { y = Relu (x) }"), path)
    data = np.arange(20, dtype=np.float32).reshape(5, 4)
    np.savez(tmp_path / "data.npz", x=data)
    notes = Recorded()
    feeds, given = feeds_for(path, {"x": (3, 4)}, Samples(tmp_path / "data.npz"), notes)
    assert given
    np.testing.assert_array_equal(feeds["x"], data[:3])
    made, given = feeds_for(path, {"x": (3, 4)}, None, notes)
    assert not given
    assert made["x"].shape == (3, 4)
    np.testing.assert_array_equal(made["x"], feeds_for(path, {"x": (3, 4)}, None, notes)[0]["x"])
    assert notes.warnings == []
    # Fewer samples than the shape wants.
    made, given = feeds_for(path, {"x": (6, 4)}, Samples(tmp_path / "data.npz"), notes)
    assert (given, made["x"].shape) == (False, (6, 4))
    assert notes.warnings[0].startswith("engines are compared on made-up inputs: ")
