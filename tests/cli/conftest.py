"""Running the command line in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import onnx
import pytest

from models import build
from qcompiler.cli import main


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    def document(self) -> Any:
        """Standard output as the one JSON document that it must be."""
        return json.loads(self.out)


Run = Callable[..., Ran]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """``run("plan", path, "--format", "json")``."""
    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.delenv("QCOMPILER_TRACEBACK", raising=False)

    def call(*words: object) -> Ran:
        capsys.readouterr()
        code = main([str(w) for w in words])
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return call


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    """A model as a file in a folder of its own."""
    path = tmp_path / "mlp.onnx"
    onnx.save(build.load("mlp"), path)
    return path


def names(folder: Path) -> list[str]:
    """Files of a folder, hidden ones too."""
    return sorted(p.name for p in folder.iterdir())
