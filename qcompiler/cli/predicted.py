"""A predicted engine report as half a page of text."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from rich.console import Console
    from rich.table import Table

    from qcompiler.engine.predict import PredictedNode, Prediction

# Beyond this many lines a list is cut, and says so.
_LINES = 8
_FATES = {
    "folded": "folded into the producer's kernel",
    "own": "a kernel of its own",
    "emulated": "emulated in float",
    "unknown": "unknown",
}


def show(model: Path, found: Prediction, console: Console) -> None:
    """Print a prediction: what runs in which type, on which grounds, and what is not known."""
    from rich.markup import escape
    from rich.table import Table

    console.print(f"[bold]{escape(str(model))}[/]  [bold]predicted[/] for {escape(found.target)}")
    console.print(escape(found.statement))
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for number, finding in enumerate(found.refused[: _LINES + 1]):
        more = f"… {len(found.refused) - _LINES} more, see --format json"
        text = finding if number < _LINES else more
        table.add_row("refused" if number == 0 else "", escape(text))
    _linear(table, found)
    _fallen(table, found)
    _quantizers(table, found)
    table.add_row("bytes", _bytes(found))
    table.add_row("unknown", f"{', '.join(found.unknown)}: only a build tells")
    console.print(table)


def _linear(table: Table, found: Prediction) -> None:
    """How many nodes of which precision, and a line for each ground."""
    from rich.markup import escape

    counts = Counter(_precision(n) for n in found.linear)
    text = ", ".join(f"{count} {name}" for name, count in counts.most_common()) or "none"
    unknown = f", {found.unknown_macs:.1%} unknown" if found.unknown_macs else ""
    share = f"{found.low_macs:.1%} of MACs in low precision{unknown}"
    table.add_row("linear nodes", f"{text}; {share}")
    grounds = Counter((_precision(n), _ground(n)) for n in found.linear)
    for number, ((precision, ground), count) in enumerate(grounds.most_common(_LINES)):
        head = "rests on" if number == 0 else ""
        table.add_row(head, escape(f"{count} {precision}: {ground}"))


def _precision(node: PredictedNode) -> str:
    stored = f" of {node.stored} operands" if node.stored else ""
    return f"{node.precision}{stored}{' attention' if node.attention else ''}"


def _ground(node: PredictedNode) -> str:
    seen = f" on {node.verified}" if node.verified else ""
    return f"{node.source}, {node.confidence}{seen}"


def _fallen(table: Table, found: Prediction) -> None:
    """Quantized nodes that are not expected in low precision, those of one reason in one line."""
    from rich.markup import escape

    reasons = Counter((n.precision, n.reason, _ground(n)) for n in found.fallen)
    for number, (key, count) in enumerate(reasons.most_common()):
        if number == _LINES:
            table.add_row("", f"… {len(reasons) - _LINES} more reasons, see --format json")
            return
        precision, reason, ground = key
        first = next(n.node for n in found.fallen if (n.precision, n.reason) == key[:2])
        more = f" and {count - 1} more" if count > 1 else ""
        words = precision if precision in ("unknown", "refused") else f"to {precision}"
        head = "falls back" if number == 0 else ""
        table.add_row(head, escape(f"{first}{more} {words}: {reason} [{ground}]"))


def _quantizers(table: Table, found: Prediction) -> None:
    from rich.markup import escape

    if not found.quantizers:
        return
    counts = Counter(q.fate for q in found.quantizers)
    said = ", ".join(f"{counts[fate]} {text}" for fate, text in _FATES.items() if counts[fate])
    table.add_row("Q", said)
    reasons = Counter(
        (q.fate, q.reason, f"{q.source}, {q.confidence}{f' on {q.verified}' if q.verified else ''}")
        for q in found.quantizers
    )
    for (fate, reason, ground), count in reasons.most_common(_LINES):
        table.add_row("", escape(f"{count} {fate}: {reason} [{ground}]"))


def _bytes(found: Prediction) -> str:
    at = f"at {found.shapes}" if found.shapes else f"a dynamic dimension counts as {found.batch}"
    lost = f"; {found.unsized} tensors of unknown size count nothing" if found.unsized else ""
    return (
        f"{found.bytes_read / 1e6:.3f} MB read, {found.bytes_written / 1e6:.3f} MB written by "
        f"rule, {found.groups} groups of nodes once each ({at}{lost})"
    )
