"""Compile a folder of odd models: each must run where it ran before, or be refused clearly.

    python -m benchmarks.torture [--models DIR] [--only NAME ...] [--json FILE] [--jobs 2]

Every ``.onnx`` file of the folder (default ``../shared/torture``) is run as it is by ONNX Runtime
on random feeds, then compiled with ``python -m qcompiler MODEL -o OUT`` (no data), then the result
is run on the same feeds. Each step is a process of its own with a time limit of 60 s.

Outcomes::

    compiled and runs            and gives outputs of the same names, types and ranks
    compiled                     the original does not run on random feeds: nothing to compare
    clear error                  exit code 2, one ``error:`` on stderr, no traceback, no file left
    BAD: traceback               a traceback on stderr
    BAD: exit code N             not 0 and not 2
    BAD: error text              exit code 2, but not exactly one ``error:``
    BAD: no output file          exit code 0 without a model
    BAD: hang                    not finished after 60 s
    BAD: half-written file       something left in the output folder by an error, or beside a result
    BAD: does not run where the original ran
    BAD: wrong outputs           other names, types or ranks
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.process import ROOT, Run, run

LIMIT = 60.0
BAD = "BAD: "


@dataclass(frozen=True)
class Result:
    """How one model ended.

    Attributes:
        name: The file, relative to the folder of models.
        outcome: One of the outcomes of the module's docstring.
        note: The error line, what differs, or the worst SQNR in dB against the original's outputs.
        original: ``runs``, ``loads`` or ``fails``: the model as it is, in ONNX Runtime.
        seconds: Wall time of the compiler.
    """

    name: str
    outcome: str
    note: str
    original: str
    seconds: float


def probe(model: Path, outputs: Path, like: Path | None = None) -> dict[str, Any]:
    """Run a model in a child process; see :mod:`benchmarks.probe`."""
    command = [sys.executable, "-m", "benchmarks.probe", str(model), str(outputs)]
    done = run([*command, *([str(like)] if like else [])], timeout=LIMIT)
    try:
        facts: dict[str, Any] = json.loads(done.out.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"state": "fails", "error": done.reason}
    return facts


def refusal(done: Run, folder: Path, out: Path) -> tuple[str, str]:
    """Outcome and note of a compiler that wrote no model, or should not have."""
    heads = re.findall(r"^error(?:\[\w+\])?:.*$", done.err, flags=re.MULTILINE)
    if done.code is None:
        return BAD + "hang", f"killed after {LIMIT:.0f} s"
    if "Traceback (most recent call last)" in done.err + done.out:
        return BAD + "traceback", done.err.strip().splitlines()[-1]
    if done.code != 2:
        known = done.code == 0 and not out.is_file()
        return BAD + ("no output file" if known else f"exit code {done.code}"), done.reason
    if left := sorted(path.name for path in folder.iterdir()):
        return BAD + "half-written file", ", ".join(left)
    if len(heads) != 1:
        return BAD + "error text", f"{len(heads)} error lines: {done.reason}"
    return "clear error", heads[0]


def compare(before: dict[str, Any], after: dict[str, Any]) -> tuple[str, str]:
    """Outcome and note of a compiled model beside its original."""
    if before["state"] != "runs":
        return "compiled", f"original: {before.get('error', '')}"
    if after["state"] != "runs":
        return BAD + "does not run where the original ran", after.get("error", "")
    if before["outputs"] != after["outputs"]:
        return BAD + "wrong outputs", f"{before['outputs']} became {after['outputs']}"
    sqnr = after.get("sqnr_db")
    return "compiled and runs", "" if sqnr is None else f"SQNR {sqnr:.1f} dB"


def try_model(model: Path, base: Path) -> Result:
    """Compile one model and find its outcome."""
    name = str(model.relative_to(base))
    with tempfile.TemporaryDirectory(prefix="qcompiler-torture-") as temporary:
        made, seen = Path(temporary, "made"), Path(temporary, "seen")
        made.mkdir()
        seen.mkdir()
        out = made / "model.onnx"
        before = probe(model, seen / "before.npz")
        done = run(
            [sys.executable, "-m", "qcompiler", str(model), "-o", str(out)],
            timeout=LIMIT,
        )
        if done.code != 0 or not out.is_file() or "Traceback (most" in done.err:
            outcome, note = refusal(done, made, out)
        elif left := sorted(p.name for p in made.iterdir() if not p.name.startswith("model.")):
            outcome, note = BAD + "half-written file", ", ".join(left)
        else:
            outcome, note = compare(before, probe(out, seen / "after.npz", seen / "before.npz"))
    return Result(name, outcome, note, before["state"], done.seconds)


def show(results: list[Result]) -> None:
    """Print the counts, then every model that is not simply compiled."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    counts = Table(title=f"{len(results)} odd models")
    for heading in ("outcome", "models", "of which the original runs"):
        counts.add_column(heading)
    for outcome, count in sorted(Counter(r.outcome for r in results).items()):
        ran = sum(r.outcome == outcome and r.original == "runs" for r in results)
        counts.add_row(outcome, str(count), str(ran))
    console.print(counts)
    rows = Table("model", "outcome", "original", "note", title="not compiled, or bad")
    for result in sorted(results, key=lambda r: (r.outcome, r.name)):
        if not result.outcome.startswith("compiled"):
            note = escape(result.note[:140])
            rows.add_row(escape(result.name), result.outcome, result.original, note)
    console.print(rows)


def main() -> None:
    """Parse the command line, try the models, print, write. Exit code 1 if any is bad."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    default = ROOT.parent / "shared" / "torture"
    parser.add_argument("--models", type=Path, default=default, help="folder of .onnx files")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="part of a name"
    )
    parser.add_argument("--json", type=Path, help="write counts and results to this file")
    parser.add_argument("--jobs", type=int, default=2, help="models at the same time")
    options = parser.parse_args()
    if not options.models.is_dir():
        parser.error(f"no folder {options.models}; give one with --models")
    base, only = options.models.resolve(), options.only
    models = [
        path
        for path in sorted(base.rglob("*.onnx"))
        if not only or any(part in str(path.relative_to(base)) for part in only)
    ]
    with ThreadPoolExecutor(options.jobs) as pool:
        results = list(pool.map(lambda path: try_model(path, base), models))
    show(results)
    if options.json:
        facts = {
            "benchmark": "torture",
            "counts": dict(sorted(Counter(r.outcome for r in results).items())),
            "models": [vars(r) for r in results],
        }
        options.json.write_text(
            json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )
    sys.exit(any(r.outcome.startswith(BAD) for r in results))


if __name__ == "__main__":
    main()
