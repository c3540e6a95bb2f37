"""What a user installs: the link ``qcompiler/passes`` must have become real files on the way."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import qcompiler

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel that is built from the sdist of a copy of the checkout."""
    folder = tmp_path_factory.mktemp("packaging")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in ("qcompiler", "passes"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignore)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), "source"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = folder.glob("*.whl")
    return found


def test_passes_is_a_link_in_the_checkout() -> None:
    link = ROOT / "qcompiler" / "passes"
    assert link.is_symlink()
    assert os.readlink(link) == "../passes"


def test_passes_is_no_second_import_name() -> None:
    assert not (ROOT / "passes" / "py.typed").exists()
    assert "passes" not in sys.modules


def test_wheel_holds_every_file_of_the_package(wheel: Path) -> None:
    package = ROOT / "qcompiler"
    wanted = {
        f"qcompiler/{file.relative_to(package)}"
        for folder in (package, package / "passes")
        for file in folder.rglob("*")
        if file.suffix in (".py", ".toml") or file.name == "py.typed"
    }
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert packed == wanted
    assert "qcompiler/passes/insert_qdq.py" in packed
    assert "qcompiler/recipes/int8.toml" in packed
    assert "qcompiler/py.typed" in packed


def test_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "passes.py").write_text("raise SystemExit('the name of a user shadows ours')\n")
    zipfile.ZipFile(wheel).extractall(site)
    script = "import qcompiler.pipeline as p; print(p.__file__); print(*p.pass_names())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=elsewhere,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    file, names = done.stdout.splitlines()
    assert Path(file).is_relative_to(site)
    here = (ROOT / "passes").glob("*.py")
    assert names.split() == sorted(
        f.stem.replace("_", "-") for f in here if not f.stem.startswith("__")
    )


def test_version_is_one() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{project['version']}]" in changelog
    assert Path(qcompiler.__file__).parent.parent == ROOT
