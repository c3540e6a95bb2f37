"""The verbs ``export`` and ``check``."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from models import build
from tests.cli.conftest import Run, names


@pytest.fixture
def batched(tmp_path: Path) -> Path:
    """A model with a free batch, in a folder of its own."""
    path = tmp_path / "net.onnx"
    onnx.save(build.load("dynamic_batch"), path)
    return path


def test_triton_says_what_it_wrote(run: Run, batched: Path) -> None:
    repo = batched.parent / "repo"
    ran = run("export", "triton", batched, "-o", repo, "--name", "n", "--preferred-batch", 2, 4)
    assert (ran.code, ran.err) == (0, "")
    assert f"{repo / 'n'}: config.pbtxt, 1/model.onnx\n" in ran.out
    assert "batches of up to 8\n" in ran.out
    assert f"tritonserver --model-repository={repo}\n" in ran.out
    assert "preferred_batch_size: [ 2, 4 ]" in (repo / "n/config.pbtxt").read_text()


def test_triton_as_json(run: Run, mlp: Path) -> None:
    repo = mlp.parent / "repo"
    ran = run("export", "triton", mlp, "-o", repo, "--max-batch", 0, "--format", "json")
    document = ran.document()
    assert (document["max_batch"], document["unbatched"]) == (0, "")
    assert document["config"] == (repo / "mlp/config.pbtxt").read_text()
    assert document["folder"] == str(repo / "mlp")


def test_triton_refuses_an_rtx_engine_with_a_way_out(run: Run, mlp: Path) -> None:
    assert run("build", mlp).code == 0
    plan, repo = mlp.with_suffix(".plan"), mlp.parent / "repo"
    ran = run("export", "triton", plan, "-o", repo)
    assert (ran.code, ran.out) == (2, "")
    assert "--force" in ran.err
    assert not repo.exists()
    assert run("export", "triton", plan, "-o", repo, "--force").code == 0
    assert names(repo / "mlp/1") == ["model.plan", "model.plan.json"]


def test_a_bundle_is_made_and_checked(run: Run, mlp: Path) -> None:
    assert run("build", mlp).code == 0
    out = mlp.parent / "b.zip"
    words = ("export", "bundle", mlp, "-o", out, "--plan", mlp.with_suffix(".plan"))
    ran = run(*words, "--samples", 2)
    assert ran.code == 0
    assert "2 golden samples from synthetic" in ran.out
    assert f"qcompiler check {out}" in ran.out
    assert "synthetic" in ran.err
    assert run(*words).code == 2
    assert run(*words, "--overwrite", "--format", "json").document()["samples"] == 4
    ran = run("check", out)
    assert ran.code == 0
    assert "not checkable here: no GPU" in ran.out or "failed  engine" in ran.out
    assert ran.out.endswith(f"{out}: holds on this machine\n")


def test_a_damaged_bundle_is_exit_code_one(run: Run, mlp: Path) -> None:
    out = mlp.parent / "b"
    assert run("export", "bundle", mlp, "-o", out).code == 0
    (out / "model/mlp.onnx").write_bytes(b"")
    ran = run("check", out)
    assert ran.code == 1
    assert "failed  files    model/mlp.onnx has 0 bytes" in ran.out
    assert "1 of 3 failed" in ran.out
    document = run("check", out, "--format", "json").document()
    assert document["ok"] is False
    assert document["findings"][0]["status"] == "failed"


def test_what_is_no_bundle_is_exit_code_two(run: Run, tmp_path: Path) -> None:
    ran = run("check", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert "this is no bundle" in ran.err
