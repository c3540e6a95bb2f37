"""Two engines by turns: a double of the library on a driver in C, in the real child process."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from qcompiler.backends import tensorrt_run
from qcompiler.backends.tensorrt import FULL, RTX
from qcompiler.backends.tensorrt_process import Limits
from qcompiler.backends.tensorrt_run import Ran, run_both
from qcompiler.errors import BackendError, UnsupportedError
from tests.backends.cuda_stub import NAME, compiled
from tests.engine.library_double import Double, install, plan

X = np.arange(6, dtype=np.float32).reshape(2, 3) - 2


@pytest.fixture
def gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a driver that child processes load."""
    compiled(tmp_path, NAME)
    before = os.environ.get("LD_LIBRARY_PATH", "")
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join(filter(None, [str(tmp_path), before])))
    return tmp_path


@pytest.fixture
def double(gpu: Path, monkeypatch: pytest.MonkeyPatch) -> Double:
    return install(gpu / "double", monkeypatch, version="1.7.1.116")


def _run(folder: Path, first: bytes, second: bytes, **said: object) -> Ran:
    plans = folder / "a.plan", folder / "b.plan"
    for path, data in zip(plans, (first, second), strict=True):
        path.write_bytes(data)
    feeds = said.get("feeds", {"x": X})
    return run_both(plans, RTX, feeds, limits=Limits(60.0))  # type: ignore[arg-type]


def test_times_and_outputs_of_both_by_turns(gpu: Path, double: Double) -> None:
    ran = _run(gpu, plan(400.0, gain=2.0), plan(1000.0, gain=2.5))
    assert ran.library == "tensorrt-rtx 1.7.1.116"
    assert ran.calls == 3  # of 0.4 ms each, until a sample takes 1 ms
    for samples, expected in zip(ran.samples, (400e-6, 1000e-6), strict=True):
        assert len(samples) == tensorrt_run.ROUNDS
        assert samples == pytest.approx([expected] * len(samples), rel=1e-4)
    np.testing.assert_array_equal(ran.outputs[0]["y"], 2.0 * X)
    np.testing.assert_array_equal(ran.outputs[1]["y"], 2.5 * X)
    ran_us = double.called("ran")
    # 200 ms of warming each, then A B, B A, A B, …
    assert ran_us[:700] == [400.0] * 500 + [1000.0] * 200
    assert (
        ran_us[700:718] == ([400.0] * 3 + [1000.0] * 6 + [400.0] * 3) + [400.0] * 3 + [1000.0] * 3
    )
    assert double.called("shape") == [[2, 3]] * 2


def test_slow_engines_get_fewer_rounds(gpu: Path, double: Double) -> None:
    ran = _run(gpu, plan(300_000.0), plan(500_000.0))
    assert (ran.calls, len(ran.samples[0])) == (1, 25)  # 20 s of 0.8 s a round
    # The faster would have a sample of ten, for which the slower takes too long.
    ran = _run(gpu, plan(3_000_000.0), plan(110.0))
    assert (ran.calls, len(ran.samples[1])) == (1, 11)


def test_types_and_host_inputs(gpu: Path, double: Double) -> None:
    ran = _run(gpu, plan(50_000.0, host=["x"]), plan(50_000.0))
    np.testing.assert_array_equal(ran.outputs[0]["y"], X)
    # Two halves look like one float to the double, which copies what it gets.
    feeds = {"x": np.arange(12, dtype=np.float16).reshape(2, 6)}
    halves = plan(50_000.0, shape=(2, 6), dtype="HALF", count=6)
    ran = _run(gpu, halves, halves, feeds=feeds)
    assert ran.outputs[0]["y"].dtype == np.float16
    np.testing.assert_array_equal(ran.outputs[0]["y"], feeds["x"])


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (plan(1.0, shape=(4, 3)), "does not take the shape [2, 3] for the input 'x'"),
        (plan(1.0, dtype="HALF"), "wants HALF for the input 'x', which is given FLOAT"),
        (plan(1.0, outputs={"y": ["FLOAT", [-1, 3]]}), "tells the shape of the output 'y' only"),
        (plan(1.0, outputs={"y": ["FP4", [2, 3]]}), "gives the output 'y' as FP4"),
        (
            plan(1.0, inputs={"z": ["FLOAT", [2, 3]]}),
            "wants FLOAT for the input 'z', which is give",
        ),
    ],
)
def test_what_an_engine_cannot_be_given(gpu: Path, double: Double, first: bytes, told: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        _run(gpu, first, plan(1.0))
    assert told in caught.value.message
    assert "the GPU that it is built for" in caught.value.hint


@pytest.mark.parametrize(
    ("first", "told"),
    [
        (plan(1.0, fails=True), "cannot run the engines: RuntimeError: the engine does not run"),
        (plan(1.0, dies=True), "the library ended with SIGSEGV while running"),
        (plan(1.0, shape=(2, 3), outputs={"y": ["FLOAT", [2**20, 2**11]]}), "OUT_OF_MEMORY"),
    ],
)
def test_engines_that_fail(gpu: Path, double: Double, first: bytes, told: str) -> None:
    with pytest.raises(BackendError) as caught:
        _run(gpu, first, plan(1.0))
    assert told in caught.value.message


@pytest.mark.parametrize(
    ("mode", "told"), [("no-engine", "cannot load a.plan: Serial"), ("no-context", "no execution")]
)
def test_a_plan_that_is_not_for_this_gpu(
    gpu: Path, monkeypatch: pytest.MonkeyPatch, mode: str, told: str
) -> None:
    install(gpu / "double", monkeypatch, version="1.7.1.116", mode=mode)
    with pytest.raises(UnsupportedError) as caught:
        _run(gpu, plan(1.0), plan(1.0))
    assert told in caught.value.message


def test_without_a_driver_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path / "double", monkeypatch, version="11.4.0.106")
    (tmp_path / "a.plan").write_bytes(plan(1.0))
    with pytest.raises(BackendError, match="no GPU, or no driver"):
        run_both((tmp_path / "a.plan",) * 2, FULL, {"x": X})


def test_an_input_of_a_type_that_no_engine_has(gpu: Path, double: Double) -> None:
    with pytest.raises(UnsupportedError, match="float64"):
        _run(gpu, plan(1.0), plan(1.0), feeds={"x": X.astype(np.float64)})
