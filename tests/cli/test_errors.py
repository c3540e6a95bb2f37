"""One form for every error, its exit code, and what is refused before any work is done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import qcompiler.cli
import qcompiler.driver
from qcompiler.cli import main
from qcompiler.errors import VerifyError
from tests.cli.conftest import Run, names


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model is an error: whoever refuses must do so before."""

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("work was done")

    monkeypatch.setattr(qcompiler.driver, "load", refuse)


# ---------------------------------------------------------------------- form and codes


def test_an_error_has_message_place_and_help(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "none.onnx"
    assert run("lint", path) == (
        2,
        "",
        f"error: no such file\n  --> {path}\n  help: check the path of the model\n",
    )


@pytest.mark.parametrize(
    ("words", "told", "help_"),
    [
        (["--nonsense", "m.onnx"], "nonsense", "qcompiler compile --help"),
        (["plan"], "MODEL", "qcompiler plan --help"),
        (["compile", "m.onnx", "--format", "xml"], "xml", "qcompiler compile --help"),
        (["compile", "m.onnx", "--seed", "x"], "x", "qcompiler compile --help"),
        (["apply", "m.onnx"], "--plan", "qcompiler apply --help"),
    ],
)
def test_a_wrong_command_line_is_exit_code_two(
    run: Run, words: list[str], told: str, help_: str
) -> None:
    ran = run(*words)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert told in ran.err
    assert ran.err.endswith(f"  help: {help_}\n")
    assert "Traceback" not in ran.err


@pytest.mark.parametrize("content", [b"", b"hello", b"\x08\x0a\x12"])
def test_no_model_is_exit_code_two(run: Run, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    ran = run(path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ")
    assert f"  --> {path}\n" in ran.err
    assert names(tmp_path) == ["m.onnx"]


def test_text_in_brackets_is_not_taken_for_markup(run: Run, tmp_path: Path) -> None:
    assert f"  --> {tmp_path}/[bold].onnx\n" in run("lint", tmp_path / "[bold].onnx").err


def test_a_bug_of_ours_is_exit_code_three(
    run: Run, mlp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("what [is] this")

    monkeypatch.setattr(qcompiler.driver, "scan", broken)
    ran = run(mlp)
    assert ran.code == 3
    assert ran.err.startswith("error: internal: RuntimeError: what [is] this\n")
    assert "QCOMPILER_TRACEBACK=1" in ran.err
    assert names(mlp.parent) == ["mlp.onnx"]
    monkeypatch.setenv("QCOMPILER_TRACEBACK", "1")
    with pytest.raises(RuntimeError, match="what"):
        main([str(mlp)])


def test_a_broken_invariant_is_exit_code_three(
    run: Run, mlp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise VerifyError("pass x broke the graph", where="n", hint="report it")

    monkeypatch.setattr(qcompiler.driver, "scan", broken)
    assert run(mlp)[::2] == (3, "error: pass x broke the graph\n  --> n\n  help: report it\n")


def test_an_interruption_leaves_nothing(
    run: Run, mlp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_self: Path, _target: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)
    ran = run(mlp)
    assert ran.code == 130
    assert ran.err.endswith("error: interrupted; nothing was written\n")
    assert names(mlp.parent) == ["mlp.onnx"]


def test_a_reader_that_went_away_is_no_error(
    run: Run, mlp: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        raise BrokenPipeError

    monkeypatch.setattr(qcompiler.driver, "scan", gone)
    assert run(mlp).code == 0


# ---------------------------------------------------------------------- outputs


VERBS: list[tuple[str, str, tuple[str, ...]]] = [
    ("compile", "mlp.int8+fp16.onnx", ()),
    ("compile", "mlp.int8+fp16.onnx.data", ()),
    ("calibrate", "mlp.stats.npz", ()),
    ("plan", "p.json", ("-o", "p.json")),
    ("compile", "r.json", ("--report", "r.json")),
]


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(("verb", "output", "extra"), VERBS)
def test_a_file_that_exists_is_refused_before_any_work(
    run: Run,
    mlp: Path,
    verb: str,
    output: str,
    extra: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(mlp.parent)
    mlp.with_name(output).write_bytes(b"precious")
    ran = run(verb, "mlp.onnx", *extra)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == (
        f"error: the file exists\n  --> {output}\n  help: pass --overwrite or another path\n"
    )
    assert mlp.with_name(output).read_bytes() == b"precious"


@pytest.mark.parametrize(("verb", "output", "extra"), [v for v in VERBS if v[1][-5:] != ".data"])
def test_a_file_that_exists_is_replaced_when_asked_for(
    run: Run,
    mlp: Path,
    verb: str,
    output: str,
    extra: tuple[str, ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(mlp.parent)
    mlp.with_name(output).write_bytes(b"precious")
    assert run(verb, "mlp.onnx", *extra, "--overwrite").code == 0
    assert mlp.with_name(output).read_bytes() != b"precious"


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("product", ["prepared.onnx", "points.json", "plan.json", "stats.npz"])
def test_products_that_exist_are_refused_too(run: Run, mlp: Path, product: str) -> None:
    kept = mlp.with_name("kept")
    kept.mkdir()
    (kept / product).write_bytes(b"edited by hand")
    ran = run(mlp, "--keep", kept)
    assert (ran.code, "the file exists" in ran.err) == (2, True)
    assert (kept / product).read_bytes() == b"edited by hand"


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("verb", ["compile", "calibrate", "plan"])
def test_the_output_must_not_be_the_input(run: Run, mlp: Path, verb: str) -> None:
    before = mlp.read_bytes()
    ran = run(verb, mlp, "-o", mlp.parent / "." / "mlp.onnx", "--overwrite")
    assert ran.code == 2
    assert ran.err.startswith("error: the output is the input\n")
    assert mlp.read_bytes() == before


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("option", ["--plan", "--stats"])
def test_the_output_must_not_be_a_product_that_is_read(run: Run, mlp: Path, option: str) -> None:
    product = mlp.with_name("product")
    product.write_bytes(b"precious")
    ran = run(mlp, option, product, "-o", product, "--overwrite")
    assert (ran.code, "the output is the input" in ran.err) == (2, True)
    assert product.read_bytes() == b"precious"


@pytest.mark.usefixtures("no_work")
def test_two_outputs_must_not_be_one_file(run: Run, mlp: Path) -> None:
    out = mlp.with_name("o")
    ran = run(mlp, "-o", out, "--report", out)
    assert (ran.code, "two outputs have the same name" in ran.err) == (2, True)


@pytest.mark.usefixtures("no_work")
def test_a_folder_that_does_not_exist_is_refused(run: Run, mlp: Path) -> None:
    ran = run(mlp, "-o", mlp.parent / "none" / "o.onnx")
    assert (ran.code, "the folder does not exist" in ran.err) == (2, True)


# ---------------------------------------------------------------------- data, plans, names


def test_data_that_do_not_fit_say_what_and_where(run: Run, mlp: Path) -> None:
    data = mlp.with_name("d.npz")
    np.savez(data, x=np.zeros((32, 63), np.float32))
    ran = run(mlp, "--data", data)
    assert ran.code == 2
    assert "'x'" in ran.err
    assert "63" in ran.err
    assert str(data) in ran.err


@pytest.mark.parametrize(
    ("extra", "told"),
    [
        (("--exclude", "nothing"), "--exclude 'nothing' matches no node"),
        (("--target", "abacus"), "there is no target 'abacus'"),
        (("--recipe", "sourdough"), "there is no recipe 'sourdough'"),
        (("--plan", "none.json"), "cannot read the QuantPlan"),
        (("--stats", "none.npz"), "cannot read the statistics"),
        (("--data", "none.npz"), "the data does not exist"),
        (("--eval", "none.npz"), "cannot read the evaluation data"),
    ],
)
def test_what_does_not_exist(run: Run, mlp: Path, extra: tuple[str, str], told: str) -> None:
    ran = run(mlp, *extra)
    assert (ran.code, ran.out) == (2, "")
    assert f"error: {told}" in ran.err
    assert "  help: " in ran.err
    assert names(mlp.parent) == ["mlp.onnx"]


def test_a_plan_of_another_model(run: Run, mlp: Path, tmp_path: Path) -> None:
    from models import build

    other = tmp_path / "residual.onnx"
    onnx.save(build.load("residual"), other)
    assert run("plan", other, "-o", tmp_path / "p.json").code == 0
    ran = run("apply", mlp, "--plan", tmp_path / "p.json")
    assert ran.code == 2
    assert "the plan belongs to another model" in ran.err


def test_compile_is_the_verb_of_a_first_argument_that_is_none(
    run: Run, monkeypatch: pytest.MonkeyPatch, mlp: Path
) -> None:
    ran = run("--seed", "3", mlp, "--format", "json")
    assert ran.code == 0
    assert ran.document()["recipe"] == "int8+fp16"
    assert qcompiler.cli.VERBS["compile"].startswith("Quantize a model")
