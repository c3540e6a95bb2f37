"""The verb ``passes``."""

from __future__ import annotations

import sys

from qcompiler.cli import options as o


def passes(*, format: o.Format = "text") -> int:  # noqa: A002
    """List the passes: phase, effect and what each does."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from qcompiler.pipeline import find_pass, pass_names

    rows = [
        {
            "name": name,
            "phase": cls.phase,
            "effect": cls.effect.name,
            "summary": (sys.modules[cls.__module__].__doc__ or "").strip().split("\n")[0],
        }
        for name, cls in ((n, find_pass(n)) for n in pass_names())
    ]
    if format == "json":
        sys.stdout.buffer.write(msgspec.json.encode(rows) + b"\n")
        return 0
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("name", "phase", "effect", "summary"):
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row.values())
    Console(highlight=False).print(table)
    return 0
