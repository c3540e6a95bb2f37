"""The verb ``lint``."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from qcompiler.cli import options as o

if TYPE_CHECKING:
    from qcompiler.graph import Graph
    from qcompiler.lint.base import Diagnostic, LintTarget
    from qcompiler.lint.fix import Fixed

Target = Annotated[
    str,
    Parameter(
        help="tensorrt, tensorrt-rtx or onnxruntime; with compute capabilities as for build "
        "(tensorrt-rtx:sm86) also what that GPU lacks."
    ),
]
Format = Annotated[
    Literal["text", "json", "sarif"],
    Parameter(help="What goes to standard output; json and sarif are one document."),
]


Fix = Annotated[
    Path | None,
    Parameter(
        help="Write the model with what can be rewritten (INT32 biases, zero points, UINT8 codes, "
        "shapes of scales) to this file, and check that instead."
    ),
]


Command = Annotated[
    str,
    Parameter(
        help="The trtexec command line that builds or times the model, in quotes: its flags are "
        "checked too."
    ),
]


def lint(
    model: o.Model,
    /,
    *,
    target: Target = "tensorrt",
    command: Command = "",
    format: Format = "text",  # noqa: A002
    fix: Fix = None,
    overwrite: o.Overwrite = False,
) -> int:
    """Check any Q/DQ model against what a target refuses, changes or loses.

    Exit code 1 if it is invalid, refused, or computes something else; lost fusions and advice
    alone end with 0. ``qcompiler explain CODE`` says why and what to do.
    """
    import msgspec

    from qcompiler import __version__
    from qcompiler import lint as rules
    from qcompiler.lint import sarif
    from qcompiler.load import load

    wanted = parse_target(target, command)
    if fix is not None:
        o.refuse_existing([fix], overwrite=overwrite, sources=[model])
    graph = load(model, strict=False)
    fixed = [] if fix is None else _fix(graph, fix)
    path = str(fix or model)
    found = rules.lint(graph, wanted)
    document: dict[str, Any]
    if format == "json":
        document = {
            "schema_version": 1,
            "model": path,
            "target": target,
            "fixed": [x._asdict() for x in fixed],
            "findings": [asdict(d) for d in found],
        }
        sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
    elif format == "sarif":
        document = sarif.document(path, found, __version__)
        sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
    else:
        _show(path, found, fixed)
    return int(any(d.is_error for d in found))


def _fix(graph: Graph, path: Path) -> list[Fixed]:
    from qcompiler.emit import emit
    from qcompiler.lint.fix import fix

    graph.infer()
    fixed = fix(graph)
    emit(graph, path)
    return fixed


def parse_target(text: str, command: str = "") -> LintTarget:
    """The target that a word of the command line names; capabilities only if it names them.

    Args:
        text: Target.
        command: A trtexec command line for it.

    Raises:
        UsageError: There is no such target, or a quote in the command line is not closed.
    """
    from qcompiler.engine import target_string
    from qcompiler.lint.base import LintTarget

    words = _words(command)
    if text == "onnxruntime":
        return LintTarget(text, command=words)
    parsed = target_string.parse(text)
    named = parsed.capabilities if ":" in text else ()
    weakest = min((int(c.removeprefix("SM")) for c in named), default=None)
    return LintTarget(parsed.library.name, weakest, parsed.version, words)


def _words(command: str) -> tuple[str, ...]:
    import shlex

    from qcompiler.errors import UsageError

    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise UsageError(
            f"cannot read the command line: {error}", hint="close every quote in it"
        ) from error


def _show(model: str, found: list[Diagnostic], fixed: list[Fixed]) -> None:
    from rich.console import Console
    from rich.markup import escape

    from qcompiler.lint.base import UNSEEN

    console = Console(highlight=False, soft_wrap=True)
    for x in fixed:
        console.print(f"[bold green]fixed[/] {escape(x.where)}: {escape(x.what)}")
    helped: set[str] = set()
    for d in found:
        color = "red" if d.is_error else "yellow"
        facts = f"{d.severity}, {UNSEEN}" if d.verified == UNSEEN else d.severity
        console.print(f"[bold {color}]{d.code}[/] {escape(d.where)}: {escape(d.message)} ({facts})")
        if d.code not in helped:
            console.print(f"  [green]help[/]: {escape(d.help)}")
            helped.add(d.code)
    console.print(f"{escape(model)}: {len(found)} finding{'' if len(found) == 1 else 's'}")
