"""The options of the benchmarks that go over a zoo."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.process import ROOT


class Options(argparse.Namespace):
    """What was given.

    Attributes:
        zoo: An existing folder.
        only: Parts of names; all models without them.
        json: File to write, or None.
    """

    zoo: Path
    only: list[str]
    json: Path | None

    def chooses(self, name: str) -> bool:
        """Whether a model was asked for."""
        return not self.only or any(part in name for part in self.only)


def parser(about: str | None) -> argparse.ArgumentParser:
    """``--zoo``, ``--only`` and ``--json``; a benchmark adds its own."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--zoo", type=Path, default=ROOT.parent / "shared" / "zoo", help="zoo folder")
    made.add_argument("--only", action="append", default=[], metavar="NAME", help="part of a name")
    made.add_argument("--json", type=Path, help="write the rows to this file")
    return made


def parsed(given: argparse.ArgumentParser) -> Options:
    """The command line; a usage error if there is no zoo."""
    options = given.parse_args(namespace=Options())
    if not options.zoo.is_dir():
        given.error(f"no zoo folder {options.zoo}; give one with --zoo")
    options.zoo = options.zoo.resolve()
    return options
