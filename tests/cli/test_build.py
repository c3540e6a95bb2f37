"""The verb ``build`` and ``compile --engine``."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest

from models import build
from qcompiler.backends import cuda_driver
from qcompiler.cli.sizes import size
from qcompiler.errors import UsageError
from qcompiler.load import load
from tests.cli.conftest import Run, names
from tests.engine import library_double


def test_writes_beside_the_model_and_says_what_it_made(run: Run, mlp: Path) -> None:
    ran = run("build", mlp)
    assert ran.code == 0
    assert names(mlp.parent) == ["mlp.onnx", "mlp.plan", "mlp.plan.json"]
    for word in ("tensorrt-rtx 1.", "SM89", "mlp.plan.json", "kernels", "linear nodes"):
        assert word in ran.out


def test_json_is_the_facts(run: Run, mlp: Path) -> None:
    ran = run("build", mlp, "--format", "json", "--target", "tensorrt-rtx:sm120")
    assert ran.document()["capabilities"] == ["SM120"]
    assert mlp.with_name("mlp.plan.json").read_text() == ran.out


def test_options_are_read(run: Run, tmp_path: Path) -> None:
    model, out = tmp_path / "m.onnx", tmp_path / "x.plan"
    onnx.save(build.load("dynamic_batch"), model)
    (name,) = (tensor.name for tensor in load(model).inputs)
    rest = [3, 16, 16]
    crosses = "x".join(str(size) for size in rest)
    ran = run(
        "build", model, "-o", out, "--min-shapes", f"{name}:1x{crosses}",
        "--opt-shapes", f"{name}:{[2, *rest]}", "--max-shapes", f"{name}:4x{crosses}",
        "--workspace", "1GiB", "--optimization-level", 2, "--weight-streaming",
        "--timeout", 100, "--memory", "8GB", "--format", "json",
    )  # fmt: skip
    assert (ran.code, ran.err) == (0, "")
    assert ran.document()["options"] == {
        "min-shapes": f"{name}:1x{crosses}",
        "opt-shapes": f"{name}:2x{crosses}",
        "max-shapes": f"{name}:4x{crosses}",
        "profile": "given",
        "workspace": 2**30,
        "optimization-level": 2,
        "weight-streaming": True,
    }


def test_building_twice_is_told(run: Run, mlp: Path) -> None:
    ran = run("build", mlp, "--twice", "--format", "json")
    repeat = ran.document()["repeat"]
    assert repeat["equal_layers"] is True
    ran = run("build", mlp, "--twice", "--overwrite")
    told = "the same bytes" if repeat["equal_bytes"] else "other bytes, the same kernels"
    assert f"built twice {told}" in " ".join(ran.out.split())


def test_a_cache_needs_a_gpu(run: Run, mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "device", lambda: None)
    ran = run("build", mlp, "--runtime-cache", mlp.parent / "kernels")
    assert (ran.code, ran.out) == (2, "")
    assert "a runtime cache holds for one GPU, and none is visible here" in ran.err
    assert names(mlp.parent) == ["mlp.onnx"]


def test_a_cache_is_shown(run: Run, mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = cuda_driver.Device("NVIDIA GeForce RTX 4090", "SM89", "580.95.05")
    monkeypatch.setattr(cuda_driver, "device", lambda: device)
    library_double.install(mlp.parent / "lib", monkeypatch, version="11.4.0.106")
    words = ["build", mlp, "--target", "tensorrt-11.4:sm89", "--timing-cache", mlp.parent / "t"]
    first, second = run(*words), run(*words, "--overwrite")
    file = "tensorrt-11.4.0.106_nvidia-geforce-rtx-4090_sm89_580.95.05.timing"
    assert file in first.out
    assert "new" in first.out
    assert "read and added to" in " ".join(second.out.split())
    assert names(mlp.parent / "t") == [file]


def test_existing_files_are_kept_unless_told(run: Run, mlp: Path) -> None:
    beside = mlp.with_name("mlp.plan.json")
    beside.write_text("mine")
    ran = run("build", mlp)
    assert ran.code == 2
    assert "the file exists" in ran.err
    assert names(mlp.parent) == ["mlp.onnx", "mlp.plan.json"]
    assert run("build", mlp, "--overwrite").code == 0
    assert beside.read_text() != "mine"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--target", "rtx"], 2, "not a target"),
        (["--target", "tensorrt-rtx:sm90"], 2, "sm120"),
        (["--opt-shapes", "picture:1x3"], 2, "no input is called 'picture'"),
        (["--opt-shapes", "1x3"], 2, "input:1x3x224x224"),
        (["--workspace", "4"], 2, "4GiB"),
        (["--memory", "much"], 2, "--memory 'much' is not a size"),
        (["--optimization-level", "9"], 2, "from 0 to 5"),
        (["--refit"], 2, "--refit does not work"),
        (["--strip-plan"], 2, "--strip-plan does not work"),
        (["--version-compatible"], 2, "build once for each release"),
        (["--hardware-compatibility", "ampere-plus"], 2, "tensorrt-rtx:sm86,sm89"),
        (["--hardware-compatibility", "all"], 2, "one of none, ampere-plus"),
        (["--timing-cache", "times"], 2, "--timing-cache does not work"),
        (["--target", "tensorrt", "--runtime-cache", "x"], 2, "--runtime-cache does not work"),
        (["--target", "tensorrt", "--locked"], 2, "--locked needs --timing-cache"),
        (["--target", "tensorrt-rtx-0.1"], 3, "pip install 'tensorrt-rtx-cu13==0.1.*'"),
        (["--target", "tensorrt-11.4:sm90"], 3, "pip install 'tensorrt-cu13==11.4.*'"),
    ],
)
def test_what_cannot_work_ends_at_once_and_writes_nothing(
    run: Run, mlp: Path, words: list[str], code: int, told: str
) -> None:
    ran = run("build", mlp, *words)
    assert (ran.code, ran.out) == (code, "")
    assert told in ran.err
    assert names(mlp.parent) == ["mlp.onnx"]


def test_without_the_library_build_says_what_to_install(
    run: Run, mlp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    ran = run("build", mlp)
    assert ran.code == 3
    assert "pip install 'onnx-qcompiler[rtx]'" in ran.err


def test_compile_builds_what_it_wrote(run: Run, mlp: Path) -> None:
    plan = mlp.with_name("out.plan")
    ran = run("compile", mlp, "--engine", plan, "--engine-target", "tensorrt-rtx:sm86", "--no-gate")
    assert ran.code == 0, ran.err
    assert names(mlp.parent) == ["mlp.int8+fp16.onnx", "mlp.onnx", "out.plan", "out.plan.json"]
    assert "SM86" in ran.out
    assert '"model": "mlp.int8+fp16.onnx"' in mlp.with_name("out.plan.json").read_text()


def test_the_target_of_a_compilation_is_that_of_its_engine(run: Run, mlp: Path) -> None:
    plan = mlp.with_name("out.plan")
    words = ["--target", "tensorrt-rtx", "--engine", plan, "--format", "json", "--no-gate"]
    ran = run("compile", mlp, *words)
    assert ran.code == 0, ran.err
    assert ran.document()["target"] == "tensorrt-rtx"
    assert plan.exists()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--engine", "x.plan", "--target", "onnxruntime"], 2, "not a target that engines"),
        (["--engine", "x.plan", "--target", "tensorrt"], 3, "which is not installed"),
        (["--engine-target", "tensorrt-rtx"], 2, "--engine-target needs --engine"),
    ],
)
def test_an_engine_that_cannot_be_built_stops_before_the_work(
    run: Run,
    mlp: Path,
    words: list[str],
    code: int,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(mlp.parent)
    ran = run("compile", mlp, *words)
    assert ran.code == code
    assert told in ran.err
    assert names(mlp.parent) == ["mlp.onnx"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("4GiB", 2**32), ("512 MiB", 2**29), ("1.5GB", 1_500_000_000), ("7b", 7)],
)
def test_sizes(text: str, expected: int) -> None:
    assert size(text, "--memory") == expected


@pytest.mark.parametrize("text", ["", "4", "4G", "-1GiB", "GiB"])
def test_sizes_need_a_unit(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        size(text, "--memory")
