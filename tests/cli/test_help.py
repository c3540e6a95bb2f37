"""Help is cheap, and says what the docstrings say."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest
from cyclopts import App

import qcompiler
from qcompiler.cli import VERBS
from tests.cli.conftest import Run

HEAVY = ("onnx", "onnxruntime", "numpy", "onnx_graphsurgeon", "ml_dtypes", "msgspec.json", "PIL")


@pytest.mark.parametrize("verb", VERBS)
def test_the_line_of_a_verb_is_that_of_its_docstring(run: Run, verb: str) -> None:
    found = getattr(importlib.import_module(f"qcompiler.cli.{verb}"), verb)
    doc = found.help if isinstance(found, App) else inspect.getdoc(found)
    assert doc is not None
    assert doc.splitlines()[0] == VERBS[verb]
    ran = run(verb, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert VERBS[verb] in ran.out


def test_help_lists_every_verb(run: Run) -> None:
    ran = run("--help")
    assert (ran.code, ran.err) == (0, "")
    for verb, line in VERBS.items():
        assert verb in ran.out
        assert line in ran.out
    assert run("-h") == ran
    assert run() == ran


def test_version(run: Run) -> None:
    assert run("--version") == (0, f"{qcompiler.__version__}\n", "")


@pytest.mark.parametrize("words", [["--help"], *([v, "--help"] for v in VERBS), ["--version"]])
def test_help_imports_none_of_the_libraries_that_do_the_work(words: list[str]) -> None:
    code = (
        "import sys; from qcompiler.cli import main; main(sys.argv[1:]);"
        f"found = [m for m in {HEAVY!r} if m in sys.modules]; sys.exit(str(found) if found else 0)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, *words], capture_output=True, text=True, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_module_runs() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "qcompiler", "--version"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, f"{qcompiler.__version__}\n")


def test_importing_the_package_imports_nothing_else() -> None:
    code = f"import sys, qcompiler; sys.exit(str([m for m in {HEAVY!r} if m in sys.modules] or 0))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == "0"


@pytest.mark.parametrize("name", qcompiler.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(qcompiler, name) is not None


def test_unknown_names_do_not() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = qcompiler.nothing
