"""The verb ``probe`` on the command line, and target files where a target is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from qcompiler.engine import probe_networks, sidecar
from qcompiler.targets import file
from tests.cli.conftest import Run, names


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, and networks that are built in less time."""
    monkeypatch.setattr("qcompiler.backends.cuda_driver._library", lambda _name: None)
    for name, size in {"ROWS": 64, "WIDTH": 512}.items():
        monkeypatch.setattr(probe_networks, name, size)


def test_a_probe_is_shown_and_written_and_planning_takes_it(
    run: Run, mlp: Path, tmp_path: Path
) -> None:
    card = tmp_path / "card.json"
    ran = run("probe", "--target", "tensorrt-rtx:sm89", "--only", "Gemm", "-o", card)
    assert ran.code == 0
    lines = [line.rstrip() for line in ran.out.splitlines()]
    assert lines[0].startswith("tensorrt-rtx:sm89: tensorrt-rtx 1.")
    assert lines[0].endswith("no GPU, so nothing was timed")
    assert lines[1].split()[:4] == ["op", "kind", "format", "base"]
    assert [line.split()[:6] for line in lines[2:4]] == [
        ["Gemm", "dense", "int8", base, "runs", "runs"] for base in ("float32", "float16")
    ]
    found = file.read(card)
    assert {(r.kind, r.format) for r in found.rows} >= {("merged", "int8"), ("dense", "fp8_e4m3")}
    assert lines[-1] == f"{len(found.rows)} rows tried, 0 unlike those of tensorrt-rtx"

    # A row that says no: what the product's own rows allow stays in float.
    card.write_text(card.read_text().replace('"verdict": "runs"', '"verdict": "loses"'))
    planned = run("plan", mlp, "--target", card, "--recipe", "int8", "--force", "--format", "json")
    assert planned.code == 0
    document = planned.document()
    assert document["target"] == "tensorrt-rtx:sm89"
    assert [d["slots"][0]["node"] for d in document["weights"]] == ["/fc1/MatMul"]
    assert {r for r in document["skipped"].values() if "[probe]" in r} == {
        "int8 kernels, not timed [probe]"
    }
    built = run("build", mlp, "--target", card, "-o", tmp_path / "m.plan")
    assert built.code == 0
    assert sidecar.read(tmp_path / "m.plan.json").capabilities == ("SM89",)
    again = run("probe", "--target", card, "--only", "Gemm", "--format", "json")
    assert again.code == 0
    assert len(again.document()["rows"]) == len(found.rows)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--target", "tensorrt:sm90"], 3, "pip install tensorrt-cu13"),
        (["--target", "onnxruntime"], 2, "not a target that engines are built for"),
        (["--target", "tensorrt-rtx:sm86,sm89"], 2, "several compute capabilities"),
        (["--only", "Pool"], 2, "operators are: Add, Attention, Conv"),
        (["-o", "card.toml"], 2, "a target file must end in .json"),
        (["--target", "none.json"], 2, "cannot read the target file"),
        (["--target", "old.json"], 2, "schema version 0 of a target file, expected 1"),
        (["-o", "old.json"], 2, "the file exists"),
        (["--target", "old.json", "-o", "old.json", "--overwrite"], 2, "the output is the input"),
    ],
)
def test_what_cannot_be_probed(
    run: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("old.json").write_text('{"schema_version": 0}')
    ran = run("probe", *words)
    assert (ran.code, ran.out) == (code, "")
    assert told in ran.err
    assert names(tmp_path) == ["old.json"]


def test_a_broken_target_file_is_told_wherever_a_target_is_named(
    run: Run, mlp: Path, tmp_path: Path
) -> None:
    card = tmp_path / "card.json"
    card.write_text("{")
    for words in (["compile", mlp], ["plan", mlp], ["build", mlp], ["probe"]):
        ran = run(*words, "--target", card)
        assert ran.code == 2, words
        assert "not a target file" in ran.err
        assert "card.json" in ran.err
    assert names(tmp_path) == ["card.json", "mlp.onnx"]
