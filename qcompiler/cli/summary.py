"""A report as half a page of text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from qcompiler.report import EQUAL_DB, OutputError, Report

# Beyond this many lines a list of nodes or outputs is cut, and says so.
_LINES = 6
_OPS = 8


def summarize(report: Report, console: Console) -> None:
    """Print what a compilation did."""
    console.print(
        f"[bold]{escape(report.model)}[/] -> [bold]{escape(report.output)}[/]  "
        f"{report.recipe} for {report.target}"
    )
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    covered = report.coverage
    table.add_row(
        "quantized",
        f"{covered.nodes} of {covered.linear_nodes} linear nodes, "
        f"{covered.macs:.1%} of MACs, {covered.weight_bytes:.1%} of weight bytes",
    )
    table.add_row(
        "size",
        f"{_size(report.bytes_before)} -> {_size(report.bytes_after)}"
        + (f" ({report.bytes_after / report.bytes_before:.0%})" if report.bytes_before else ""),
    )
    _outputs(table, report)
    if report.metric is not None:
        metric = report.metric
        table.add_row(
            metric.name,
            f"[bold]{metric.before:.4f} -> {metric.after:.4f}[/]  ({metric.samples} samples)",
        )
    table.add_row("data", escape(_data(report)))
    _reasons(table, "left float", report.skipped)
    _reasons(table, "in float32", report.kept)
    table.add_row(
        "time", "  ".join(f"{k} {v:.1f} s" for k, v in report.timings.items() if v >= 0.05)
    )
    console.print(table)
    console.print(_ops(report))
    for warning in report.warnings:
        console.print(f"[bold yellow]warning[/]: {escape(warning)}", soft_wrap=True)


def _outputs(table: Table, report: Report) -> None:
    for output in report.outputs[:_LINES]:
        table.add_row(
            f"output {escape(output.output)}",
            f"SQNR {_decibels(output.sqnr_db)}, cosine {output.cosine:.5f}"
            + _divergence(output)
            + _optimized(output),
        )
    rest = report.outputs[_LINES:]
    if rest:
        worst = min(rest, key=lambda o: o.sqnr_db)
        table.add_row(
            "", f"… {len(rest)} more, the worst {escape(worst.output)} {_decibels(worst.sqnr_db)}"
        )
    if not report.outputs:
        table.add_row("output", "not verified: there were no held-out samples")


def _decibels(sqnr_db: float) -> str:
    return "equal" if sqnr_db >= EQUAL_DB else f"{sqnr_db:.1f} dB"


def _divergence(output: OutputError) -> str:
    nats = output.divergence
    if nats is None:
        return ""
    times = f" (perplexity x {math.exp(nats):.3f})" if nats < 1 else ""
    return f", KL {nats:.4f} nats{times}"


def _optimized(output: OutputError) -> str:
    if output.sqnr_db_optimized is None:
        return ""
    return f"  (ONNX Runtime optimized: {_decibels(output.sqnr_db_optimized)})"


def _data(report: Report) -> str:
    if not report.samples:
        return report.data
    return f"{report.data}: {report.samples} samples, {report.held_out} held out to verify"


def _reasons(table: Table, title: str, nodes: Mapping[str, str]) -> None:
    reasons = Counter(nodes.values())
    for number, (reason, count) in enumerate(reasons.most_common()):
        if number == _LINES:
            table.add_row("", f"… {len(reasons) - _LINES} more reasons, see --report")
            return
        example = next(k for k, v in nodes.items() if v == reason)
        more = f" and {count - 1} more" if count > 1 else ""
        table.add_row(title if number == 0 else "", escape(f"{example}{more}: {reason}"))


def _ops(report: Report) -> Table:
    """Operators before and after, those whose number changed first."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("op", style="cyan", no_wrap=True)
    table.add_column("before", justify="right")
    table.add_column("after", justify="right")
    names = {**report.ops_after, **report.ops_before}
    counts = {n: (report.ops_before.get(n, 0), report.ops_after.get(n, 0)) for n in names}
    ranked = sorted(names, key=lambda n: (counts[n][0] == counts[n][1], -max(counts[n]), n))
    for name in ranked[:_OPS]:
        table.add_row(escape(name), *map(str, counts[name]))
    if len(ranked) > _OPS:
        table.add_row(f"… {len(ranked) - _OPS} more")
    return table


def _size(count: int) -> str:
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.2f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
