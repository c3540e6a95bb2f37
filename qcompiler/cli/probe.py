"""The verb ``probe``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from qcompiler.cli import options as o

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from qcompiler.targets.base import Target
    from qcompiler.targets.file import Network, Row, TargetFile


def probe(
    *,
    target: Annotated[
        str,
        Parameter(
            help="tensorrt-rtx[-VERSION][:smNN], tensorrt[-VERSION][:smNN], or a target file, "
            "whose rows of this library and card are not tried again."
        ),
    ] = "tensorrt-rtx:sm89",
    output: o.Output = None,
    only: Annotated[
        str | None, Parameter(help="Try the rows of one operator only, such as Conv.")
    ] = None,
    overwrite: o.Overwrite = False,
    format: o.Format = "text",  # noqa: A002
) -> int:
    """Try every capability row of a target on this machine, and write a target file.

    For each row two small networks are built, quantized and in float; on a GPU that the target is
    for both are timed. Without one the verdict is the compiler's alone, which only TensorRT for
    RTX can give. With -o the rows are written as JSON: `compile --target FILE.json` then prefers
    them to those that come with the product.
    """
    from pathlib import Path

    from rich.console import Console

    from qcompiler import targets
    from qcompiler.cli.display import display
    from qcompiler.engine.probe import probe as run
    from qcompiler.plan import encode

    sources = [Path(target)] if targets.is_file(target) else []
    if output is not None:
        o.refuse_existing([output], overwrite=overwrite, sources=sources)
        _require_suffix(output)
    found = run(target, only, display(quiet=format == "json"))
    if output is not None:
        found.save(output)
    if format == "json":
        sys.stdout.buffer.write(encode(found))
    else:
        _show(found, targets.find(found.target), Console(highlight=False))
    return 0


def _require_suffix(output: object) -> None:
    from qcompiler import targets
    from qcompiler.errors import UsageError

    if not targets.is_file(str(output)):
        raise UsageError(
            "a target file must end in .json", where=str(output), hint="name it CARD.json"
        )


def _show(found: TargetFile, family: Target, console: Console) -> None:
    """Print a line a row, and how many differ from what the product's own rows say."""
    from rich.markup import escape
    from rich.table import Table

    card = found.card or "no GPU, so nothing was timed"
    console.print(escape(f"{found.target}: {found.library}, {card}"))
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="cyan")
    for title in ("op", "kind", "format", "base", "rows say", "found", "kernels", "MB", "time"):
        table.add_column(title, no_wrap=True)
    table.add_column("why", overflow="fold")
    differ = 0
    for row in found.rows:
        said = _said(family, row)
        differs = said != row.verdict
        differ += differs
        table.add_row(
            row.op,
            row.kind,
            row.format if row.scales == "tensor" else f"{row.format}/{row.scales}",
            row.base,
            said,
            f"[bold]{row.verdict}[/]" if differs else row.verdict,
            _pair(row, lambda n: str(n.kernels)),
            _pair(row, lambda n: f"{n.bytes_moved / 1e6:.1f}"),
            _pair(row, _time),
            escape(row.note),
        )
    console.print(table)
    console.print(f"{len(found.rows)} rows tried, {differ} unlike those of {family.family}")


def _said(family: Target, row: Row) -> str:
    """Verdict of the product's own row."""
    wanted = (row.op, row.kind, row.format, row.scales)
    rows = (r for r in family.rows_for(row.capabilities[0]) if row.base in r.base)
    found = next((r for r in rows if (r.op, r.kind, r.format, r.scales) == wanted), None)
    return found.verdict if found else "unknown"


def _pair(row: Row, show: Callable[[Network], str]) -> str:
    """A figure of the quantized network and of that in float."""
    return " / ".join("-" if n is None else show(n) for n in (row.quantized, row.plain))


def _time(network: Network) -> str:
    if network.median is not None:
        return f"{network.median * 1e6:.1f} us"
    return "-" if network.estimate is None else f"~{network.estimate * 1e6:.1f} us"
