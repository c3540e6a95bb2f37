"""The verb ``lint``."""

from __future__ import annotations

import sys

from qcompiler.cli import options as o


def lint(model: o.Model, /, *, format: o.Format = "text") -> int:  # noqa: A002
    """Check the structure of a model and every Q/DQ node in it.

    Exit code 1 if anything is found.
    """
    import msgspec
    from rich.console import Console
    from rich.markup import escape

    from qcompiler.load import load
    from qcompiler.verify import findings

    graph = load(model, strict=False)
    graph.infer()
    found = findings(graph)
    if format == "json":
        rows = [finding._asdict() for finding in found]
        document = {"schema_version": 1, "model": str(model), "findings": rows}
        sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
        return int(bool(found))
    console = Console(highlight=False, soft_wrap=True)
    for finding in found:
        console.print(
            f"[bold red]{finding.code}[/] {escape(finding.where)}: {escape(finding.message)}"
        )
    console.print(f"{model}: {len(found)} finding{'' if len(found) == 1 else 's'}")
    return int(bool(found))
