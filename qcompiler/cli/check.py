"""The verb ``check``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from qcompiler.cli import options as o

if TYPE_CHECKING:
    from qcompiler.export.check import Checked

_COLORS = {"ok": "green", "failed": "red", "unknown": "yellow"}


def check(
    bundle: Annotated[Path, Parameter(help="What `export bundle` wrote: a folder or a .zip.")],
    /,
    *,
    custom_ops: o.CustomOps = (),
    format: o.Format = "text",  # noqa: A002
) -> int:
    """Check a bundle against this machine: its files, its golden outputs, its engine.

    Exit code 1 if a file is damaged, an output is not reproduced, or the engine cannot run on the
    GPU or with the library that is here. What cannot be told here (an engine without a GPU) is
    said, and fails nothing.
    """
    from qcompiler.export.check import check as run
    from qcompiler.plan import encode

    found = run(bundle, custom_ops)
    if format == "json":
        sys.stdout.buffer.write(encode(found))
    else:
        _show(found)
    return int(not found.ok)


def _show(found: Checked) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    for finding in found.findings:
        status = f"[{_COLORS[finding.status]}]{finding.status:<7}[/]"
        console.print(f"{status} {finding.check:<8} {escape(finding.text)}")
    failed = sum(f.status == "failed" for f in found.findings)
    verdict = "holds on this machine" if found.ok else f"{failed} of {len(found.findings)} failed"
    console.print(f"{escape(found.bundle)}: {verdict}")
