"""``python -m tests.contract.passes_readme --write`` writes ``passes/README.md``."""

from __future__ import annotations

import sys
from pathlib import Path

from qcompiler.pipeline import Pass, find_pass, pass_names

README = Path(__file__).parents[2] / "passes" / "README.md"
_HEAD = """\
# Passes

One file, one class, one idea; the file's docstring gives the reason, the algebra before and after,
and the source (`qcompiler explain NAME` prints it). To add one, copy `drop_identity.py`, write two
cases in `tests/passes/<name>/` (one that fires, one that must not), run
`python -m pytest -k <name>`, and `python -m tests.contract.passes_readme --write` for this table.

| pass | phase | promise | what it does |
|---|---|---|---|
"""
_PHASES = ("prepare", "apply", "tidy")


def text() -> str:
    """What the file must contain."""
    passes = [find_pass(name) for name in pass_names()]
    passes.sort(key=lambda p: (_PHASES.index(p.phase), p.name()))
    return _HEAD + "".join(map(_row, passes))


def _row(entry: type[Pass]) -> str:
    file = entry.name().replace("-", "_")
    what = " ".join((entry.__doc__ or "").split("\n\n")[0].split()).replace("``", "`")
    what = what.replace("|", "\\|")
    return f"| [{entry.name()}]({file}.py) | {entry.phase} | {entry.effect.name} | {what} |\n"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        README.write_text(text())
    else:
        sys.stdout.write(text())
