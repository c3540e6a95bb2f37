"""The no-regret gate on the command line: table, exit codes, JSON."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from models import build
from qcompiler.engine import sidecar
from tests.cli.conftest import Run, names
from tests.engine import gpu
from tests.engine.library_double import install, plan
from tests.hand_made import model

SLOWER = "gate: slower than fp16 by the estimate"


@pytest.fixture
def residual(tmp_path: Path) -> Path:
    """A network whose INT8 form moves more than its FP16 form."""
    path = tmp_path / "residual.onnx"
    onnx.save(build.load("residual"), path)
    return path


def _compile(run: Run, model: Path, *words: object) -> tuple[int, str, str]:
    plan = model.with_name("m.plan")
    rest = ("--engine", plan, "--engine-target", "tensorrt-rtx:sm89", "--overwrite", *words)
    return run("compile", model, *rest)


def test_a_regret_is_written_all_the_same_and_ends_with_1(run: Run, residual: Path) -> None:
    code, out, _err = _compile(run, residual)
    assert code == 1
    assert names(residual.parent) == [
        "m.plan", "m.plan.json", "residual.int8+fp16.onnx", "residual.onnx",
    ]  # fmt: skip
    lines = [line.rstrip() for line in out.splitlines()]
    assert lines[-1] == SLOWER
    assert "--no-gate accepts it" in lines[-2]
    assert "launches count nothing" in lines[-3]
    start = next(i for i, line in enumerate(lines) if line.startswith("gate "))
    table = lines[start : start + 3]
    assert [line.split()[0] for line in table] == ["gate", "this", "fp16"]
    assert "estimate, RTX 4090" in table[0]
    facts = sidecar.read(residual.with_name("m.plan.json"))
    assert facts.gate is not None
    assert facts.gate.verdict == "regret"
    assert facts.gate.why in lines[-3]
    inspected = run("inspect", residual.with_name("m.plan"))
    assert inspected.code == 0
    shown = [line.rstrip() for line in inspected.out.splitlines()]
    assert [line.split() for line in shown[-3:]] == [line.split() for line in table]


def test_json_holds_the_verdict_and_standard_error_says_it(run: Run, residual: Path) -> None:
    assert _compile(run, residual, "--no-gate")[0] == 0
    compiled = residual.with_name("residual.int8+fp16.onnx")
    ran = run("build", compiled, "--source", residual, "--format", "json", "--overwrite")
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == SLOWER
    found = ran.document()["gate"]
    assert found["verdict"] == "regret"
    assert found["estimate"]["gpu"] == "RTX 4090"
    assert found["estimate"]["ours"] > found["estimate"]["fp16"] > 0
    assert found["ours"]["bytes_moved"] > found["fp16"]["bytes_moved"]
    assert compiled.with_suffix(".plan.json").read_text() == ran.out


def test_no_gate_compares_nothing(run: Run, residual: Path) -> None:
    code, out, err = _compile(run, residual, "--no-gate")
    assert code == 0
    assert not [line for line in (out + err).splitlines() if line.startswith("gate")]
    assert sidecar.read(residual.with_name("m.plan.json")).gate is None


def test_a_model_is_no_slower_than_itself_in_fp16(run: Run, residual: Path) -> None:
    """The verdict on a float16 model against its own float32 source."""
    code, out, _err = _compile(run, residual, "--recipe", "fp16")
    assert code == 0
    assert out.splitlines()[-1].startswith("gate: not slower than fp16 by the estimate")


def test_build_without_a_source_says_so(run: Run, mlp: Path) -> None:
    ran = run("build", mlp)
    assert ran.code == 0
    assert ran.out.splitlines()[-1].startswith("gate: nothing to compare with")
    assert "gate:" not in run("build", mlp, "--no-gate", "--overwrite").out


def test_a_card_may_be_named(run: Run, residual: Path) -> None:
    code, out, _err = _compile(run, residual, "--gpu", "geforce rtx 4060")
    assert code == 1
    assert "estimate, RTX 4060" in out


def test_without_a_card_of_the_capability_the_verdict_is_unknown(run: Run, mlp: Path) -> None:
    ran = run("build", mlp, "--source", mlp, "--target", "tensorrt-rtx:sm121")
    assert ran.code == 0
    assert "gate: unknown: no figures for a card" in ran.out.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["build", "--gpu", "RTX 6090"], "known are: T4, A100, RTX 3090"),
        (["build", "--gpu", "RTX 3090"], "the RTX 3090 is SM86; the engine is for SM89"),
        (["build", "--source", "nowhere.onnx"], "nowhere.onnx"),
        (
            ["compile", "--gpu", "RTX 4090"],
            "--gpu says nothing about tensorrt without --engine PLAN",
        ),
        (
            ["compile", "--target", "tensorrt-rtx", "--engine", "m.plan", "--gpu", "RTX 6090"],
            "known are: T4",
        ),
    ],
)
def test_what_cannot_work_ends_before_anything_is_written(
    run: Run, mlp: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    monkeypatch.chdir(mlp.parent)
    ran = run(words[0], mlp, *words[1:])
    assert ran.code == 2
    assert told in ran.err
    assert names(mlp.parent) == ["mlp.onnx"]


def test_on_a_gpu_the_table_shows_what_was_measured(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu.put(tmp_path, monkeypatch)
    double = install(tmp_path / "double", monkeypatch, version="1.7.1.116")
    source, made = tmp_path / "source.onnx", tmp_path / "m.onnx"
    onnx.save(model("g (float[N,4] x) => (float[N,4] y) { [relu] y = Relu (x) }"), source)
    made.write_bytes(source.read_bytes())
    double.builds("m", plan(2000.0, gain=1.01, shape=(4, 4)))
    double.builds("source", plan(1000.0, shape=(4, 4)))
    ran = run("build", made, "--source", source)
    assert ran.code == 1
    lines = [line.rstrip() for line in ran.out.splitlines()]
    start = next(i for i, line in enumerate(lines) if line.startswith("gate "))
    assert lines[start].endswith("measured, NVIDIA Stub")
    assert lines[start + 1].endswith("2000.0 us [2000.0, 2000.0]")
    assert lines[start + 2].endswith("1000.0 us [1000.0, 1000.0]")
    assert "40.0 dB SQNR against its output 'y' on inputs made up, 0 allowed" in lines[-3]
    assert lines[-3].endswith("(at x:4x4)")
    assert lines[-1] == "gate: slower than fp16, measured"
    ran = run("build", made, "--source", source, "--format", "json", "--overwrite")
    assert ran.code == 1
    assert ran.err.splitlines()[-1] == "gate: slower than fp16, measured"
    assert ran.document()["gate"]["measured"]["ours"]["median"] == pytest.approx(2e-3, rel=1e-4)
    # Faster, and far from it on the user's own input.
    double.builds("m", plan(500.0, gain=1.5, shape=(4, 4)))
    np.savez(tmp_path / "data.npz", x=np.ones((4, 4), np.float32))
    ran = run("build", made, "--source", source, "--data", tmp_path / "data.npz", "--overwrite")
    assert ran.code == 1
    assert ran.out.splitlines()[-1].startswith("gate: less accurate than fp16")
    ran = run("build", made, "--source", source, "--overwrite")
    assert ran.code == 0
    assert ran.out.splitlines()[-1].startswith("gate: not slower than fp16 and as accurate as")
