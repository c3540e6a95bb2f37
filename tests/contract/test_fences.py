"""Rules about the source itself: who may import whom, and who may print."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import qcompiler.pipeline

ROOT = Path(qcompiler.pipeline.__file__).parents[1]
# A module imports its own layer and those above it in this list, never one below.
LAYERS = (
    {"errors", "progress"},
    {"formats", "granularity", "spec"},
    {"numerics", "observers"},
    {
        "protos",
        "weights",
        "surgeon",
        "graph",
        "match",
        "attention",
        "attention_mask",
        "verify",
        "text",
        "ops",
        "roles",
        "groups",
        "opset",
        "load",
        "emit",
        "linear",
        "parameters",
        "cut",
        "behind",
        "bodies",
        "bounds",
        "carried",
        "folding",
        "heads",
        "precision",
        "narrow",
        "rounded",
    },
    {"recipe", "recipes", "plan", "targets"},
    {"pipeline", "passes"},
    {"backends", "data"},
    {
        "inputs",
        "compare",
        "evaluate",
        "calibrate",
        "taps",
        "body_taps",
        "budget",
        "run_time",
        "scan",
        "residual",
        "decide",
        "report",
        "lint",
        "prepare",
        "apply",
        "islands",
        "tail",
        "noise",
        "running",
    },
    {"engine"},
    {"migrate", "export"},
    {"options", "result"},
    {"judge"},
    {"driver"},
    {"cli", "__main__"},
)
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


def _sources() -> list[Path]:
    package = ROOT / "qcompiler"
    own = [p for p in package.rglob("*.py") if "passes" not in p.relative_to(package).parts]
    return sorted([*own, *(ROOT / "passes").glob("*.py")])


def _module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts if parts[0] == "qcompiler" else ("qcompiler", *parts))


def _imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _first(module: str) -> str:
    """The part below ``qcompiler``: the name that has a layer."""
    return module.split(".")[1]


@pytest.mark.parametrize("path", _sources(), ids=lambda p: _module(p))
def test_imports_go_up_the_list_of_layers(path: Path) -> None:
    module = _module(path)
    if module == "qcompiler.__init__":
        return
    assert _first(module) in RANKS, f"give {_first(module)} a layer in this file"
    for name in _imports(path):
        if name.startswith("qcompiler.") and _first(name) in RANKS:
            assert RANKS[_first(name)] <= RANKS[_first(module)], f"{module} imports {name}"


@pytest.mark.parametrize(
    ("library", "allowed"),
    [
        ("onnx_graphsurgeon", ("qcompiler.surgeon",)),
        ("tensorrt", ("qcompiler.backends.tensorrt", "qcompiler.backends.tensorrt_child")),
        ("tensorrt_rtx", ("qcompiler.backends.tensorrt", "qcompiler.backends.tensorrt_child")),
    ],
)
def test_only_one_place_imports(library: str, allowed: tuple[str, ...]) -> None:
    users = {_module(p) for p in _sources() for i in _imports(p) if i.split(".")[0] == library}
    assert users <= set(allowed)


@pytest.mark.parametrize("folder", ["numerics", "observers", "formats"])
def test_arrays_only(folder: str) -> None:
    """Numbers know nothing of graphs."""
    for path in (ROOT / "qcompiler" / folder).glob("*.py"):
        assert not [i for i in _imports(path) if i.split(".")[0] in ("onnx", "onnxruntime")], path


def test_only_the_command_line_prints() -> None:
    for path in _sources():
        calls = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call)]
        named = [c.func.id for c in calls if isinstance(c.func, ast.Name)]
        assert "print" not in named or _first(_module(path)) == "cli", path


def test_passes_have_one_import_name() -> None:
    """``qcompiler/passes`` is a link: imported as ``passes`` too, every class would exist twice."""
    link = ROOT / "qcompiler" / "passes"
    assert link.is_symlink()
    assert link.readlink() == Path("../passes")
    assert "passes" not in sys.modules
