"""The README's first command does what the README shows, and the README names every verb."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from qcompiler.cli import VERBS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
_NUMBER = re.compile(r"\d+\.\d+")
# Other sums of FP32 products, on another CPU, may turn five of the 1,000 images over.
_TOP1_TOLERANCE = 0.005


def _blocks(language: str) -> list[str]:
    """Fenced blocks of one language, with continued lines joined."""
    found = re.findall(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [block.replace("\\\n", "").strip() for block in found]


def _main_job() -> list[str]:
    """The words of the main-job command, behind the set-up that installs it."""
    lines = [line for block in _blocks("sh") for line in block.splitlines()]
    (line,) = (line for line in lines if "-m qcompiler models/resnet20.onnx" in line)
    words = shlex.split(line.split(" && ")[-1])
    assert words[0] == ".venv/bin/python"
    return words[1:]


def _run(words: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _top1(text: str) -> list[float]:
    """The decimal numbers of all lines that speak of top-1, in order."""
    lines = [line for line in text.splitlines() if re.search(r"top-?1", line, re.IGNORECASE)]
    return [float(number) for line in lines for number in _NUMBER.findall(line)]


def test_main_job_prints_the_top1_that_the_readme_shows(tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    words = _main_job()
    output = tmp_path / "out.onnx"
    words[words.index("-o") + 1] = str(output)
    printed = _top1(_run(words, tmp_path))
    shown = _top1("\n".join(_blocks("text")))
    assert len(shown) >= 2, "the README shows no top-1 before and after"
    assert printed == pytest.approx(shown, rel=0, abs=_TOP1_TOLERANCE)
    assert output.stat().st_size < (ROOT / "models" / "resnet20.onnx").stat().st_size


def test_python_example_runs(tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    (example,) = _blocks("python")
    assert _run(["-c", example], tmp_path).splitlines()[0].startswith("0.99")
    assert (tmp_path / "resnet20.quantized.onnx").stat().st_size > 0


def test_readme_mentions_every_verb(tmp_path: Path) -> None:
    printed = _run(["-m", "qcompiler", "--help"], tmp_path)
    for verb in VERBS:
        assert re.search(rf"^[│\s]*{verb}\s", printed, re.MULTILINE), verb
        assert f"| `{verb}` |" in README, verb


def test_readme_links_exist() -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", README)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_both_setups_start_from_nothing() -> None:
    commands = _blocks("sh")
    assert len(commands) == 2
    for command in commands:
        assert command.startswith("python3 -m venv .venv && .venv/bin/pip install -q ")
