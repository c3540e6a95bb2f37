"""Every golden pair, and the rule that every pass has one that fires and one that does not."""

from __future__ import annotations

from dataclasses import MISSING, fields
from pathlib import Path

import pytest

from qcompiler.pipeline import find_pass, pass_names
from tests.golden import AFTER, HERE, golden_paths, read_golden, run_golden


@pytest.mark.parametrize("path", golden_paths(), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_golden(path: Path, update_goldens: bool) -> None:
    """The listing after the passes is the one in the file, to the letter."""
    golden = read_golden(path)
    result = run_golden(golden)
    if update_goldens:
        path.write_text(golden.before + AFTER + result)
        return
    assert result == golden.after


@pytest.mark.parametrize("name", pass_names())
def test_every_pass_has_goldens(name: str) -> None:
    """One case that fires, one that does not; passes that take objects are tested elsewhere."""
    if any(f.default is MISSING and f.default_factory is MISSING for f in fields(find_pass(name))):
        return
    folder = HERE / name.replace("-", "_")
    cases = [read_golden(path) for path in sorted(folder.glob("*.txt"))]
    assert all(name in {type(p).name() for p in case.passes} for case in cases)
    assert {case.fires for case in cases} == {True, False}, f"{folder} needs both kinds of case"
