"""The verb ``migrate``."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from qcompiler.cli import options as o

if TYPE_CHECKING:
    from qcompiler.migrate.cache import Matched
    from qcompiler.migrate.flags import Flag, Migration

_Words = Annotated[
    str,
    Parameter(
        allow_leading_hyphen=True,
        help="A trtexec command line (in quotes, or as words behind --), Python source, the path "
        "of a .py file, or - for standard input.",
    ),
]
_COLORS = {"moved": "green", "gone": "dim", "lost": "yellow", "unknown": "bold red"}
_LISTED = 8


def migrate(
    *words: _Words,
    cache: Annotated[
        Path | None, Parameter(help="A calibration cache of TensorRT, to be made into statistics.")
    ] = None,
    model: Annotated[
        Path | None, Parameter(help="With --cache: the ONNX model that the cache was made for.")
    ] = None,
    output: o.Output = None,
    target: Annotated[
        str, Parameter(help="What the new engine is for: a target of `build`, such as tensorrt.")
    ] = "tensorrt",
    overwrite: o.Overwrite = False,
    format: o.Format = "text",  # noqa: A002
) -> int:
    """Translate a weakly typed TensorRT build, or its calibration cache, for today.

    Prints the commands that do what a trtexec command line or Python source of TensorRT 8 or 10
    did, and what became of each flag; exit code 1 if a flag was not understood. With --cache and
    --model it writes MODEL.stats.npz, with which `compile --stats` takes the scales of the cache.
    """
    from qcompiler.errors import UsageError

    if cache is not None and words:
        raise UsageError(
            "migrate reads flags or a cache, not both at once",
            hint="the commands for the flags contain that for the cache",
        )
    if cache is None and not words:
        raise UsageError(
            "there is nothing to migrate",
            hint="qcompiler migrate 'trtexec --onnx=model.onnx --fp16'",
        )
    if cache is None:
        if model is not None or output is not None:
            raise UsageError(
                "--model and -o belong to --cache", hint="put flags of trtexec in quotes"
            )
        return _flags(words, target, format)
    if model is None:
        raise UsageError("--cache needs --model MODEL.onnx, whose tensors it names")
    return _cache(cache, model, output, target, format, overwrite=overwrite)


def _flags(words: tuple[str, ...], target: str, format: str) -> int:  # noqa: A002
    from qcompiler.engine import target_string
    from qcompiler.errors import InputError
    from qcompiler.migrate.translate import translate

    parsed = target_string.parse(target)
    kind, flags = _read(words)
    if not any(flag.name for flag in flags):
        found = ", ".join(flag.text for flag in flags[:_LISTED])
        raise InputError(
            "there is no setting of a TensorRT build that is understood here"
            + (f", only {found}" if found else ""),
            hint="qcompiler migrate 'trtexec --onnx=model.onnx --fp16', or the path of a .py file",
        )
    migration = translate(flags, parsed, _is_quantized)
    if format == "json":
        _write(_document(kind, str(parsed), migration))
    else:
        _show(migration)
    return int(any(row.status == "unknown" for row in migration.rows))


def _read(words: tuple[str, ...]) -> tuple[str, tuple[Flag, ...]]:
    """What kind of source this is, and its flags."""
    from qcompiler.errors import InputError
    from qcompiler.migrate import python_flags, trtexec

    if len(words) > 1:
        return "trtexec", trtexec.read(words)
    text, where = words[0], ""
    if text == "-":
        text, where = sys.stdin.read(), "standard input"
    elif text.endswith(".py") and " " not in text.strip():
        where = text
        try:
            return "python", python_flags.read(Path(text).read_text(encoding="utf-8"), where=where)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"cannot read the source: {error}", where=where, hint="check the path"
            ) from error
    if python_flags.is_python(text):
        return "python", python_flags.read(text, where=where)
    return "trtexec", trtexec.read(trtexec.split(text))


def _is_quantized(path: str) -> bool:
    """Whether a model is here and has Q/DQ nodes; weights are not read."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        proto = onnx.load(path, load_external_data=False)
    except (OSError, DecodeError):
        return False
    return any(node.op_type == "QuantizeLinear" for node in proto.graph.node)


def _document(kind: str, target: str, migration: Migration) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "source": kind,
        "target": target,
        "commands": [_line(command) for command in migration.commands],
        "flags": [
            {"flag": r.flag, "status": r.status, "became": r.became, "why": r.why}
            for r in migration.rows
        ],
        "not_understood": [r.flag for r in migration.rows if r.status == "unknown"],
    }


def _line(command: tuple[str, ...]) -> str:
    return shlex.join(["python", "-m", "qcompiler", *command])


def _show(migration: Migration) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False)
    for command in migration.commands:
        console.print(escape(_line(command)), soft_wrap=True)
    if not migration.commands:
        console.print("nothing is built here: there is no command to give")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("old flag", "what it became", "why"):
        table.add_column(name, overflow="fold")
    for row in migration.rows:
        color = _COLORS[row.status]
        table.add_row(escape(row.flag), f"[{color}]{escape(row.became)}[/]", escape(row.why))
    console.print()
    console.print(table)
    unknown = sum(row.status == "unknown" for row in migration.rows)
    lost = sum(row.status == "lost" for row in migration.rows)
    console.print(
        f"\nflags: {len(migration.rows)}, {lost} without an equivalent, {unknown} not understood"
    )


def _cache(
    cache: Path,
    model: Path,
    output: Path | None,
    target: str,
    format: str,  # noqa: A002
    *,
    overwrite: bool,
) -> int:
    from qcompiler.cli.display import display
    from qcompiler.driver import Compilation, Options
    from qcompiler.load import load
    from qcompiler.migrate import cache as caches

    output = output or model.with_name(f"{model.stem}.stats.npz")
    o.refuse_existing([output], overwrite=overwrite, sources=[cache, model])
    found = caches.read(cache)
    # Ranges of every tensor that some plan may quantize, whether it pays or not.
    options = Options(force=True, progress=display(quiet=format == "json"))
    work = Compilation(model, "int8", target, options)
    graph = work.prepare()
    points = work.scan(graph)
    matched = caches.match(found, load(model), graph, points, str(cache))
    matched.statistics.save(output)
    if format == "json":
        _write(_cache_document(matched, found, output))
    else:
        _show_cache(matched, found, output, symmetric=work.target.symmetric)
    return 0


def _cache_document(matched: Matched, cache: Any, output: Path) -> dict[str, Any]:  # noqa: ANN401
    return {
        "schema_version": 1,
        "output": str(output),
        "header": cache.header,
        "entries": len(cache.scales),
        "unused": matched.unused,
        "scales": matched.scales,
        "moved": matched.moved,
        "missing": list(matched.missing),
        "left_in_float": list(matched.nodes),
    }


def _show_cache(matched: Matched, cache: Any, output: Path, *, symmetric: bool) -> None:  # noqa: ANN401
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    total = len(matched.scales) + len(matched.missing)
    console.print(
        f"{escape(str(output))}: {len(matched.scales)} of {total} tensors have the range of the "
        f"cache ({escape(cache.header)}, {len(cache.scales)} entries, {matched.unused} not needed)"
    )
    for tensor, name in matched.moved.items():
        console.print(f"  {escape(tensor)}: the entry of {escape(name)}, whose values it moves")
    if matched.missing:
        console.print(
            f"[bold yellow]warning[/]: {len(matched.missing)} tensors have no entry, so that "
            f"{len(matched.nodes)} nodes stay in float: {escape(_some(matched.missing))}"
        )
    if not symmetric:
        console.print(
            "[bold yellow]warning[/]: a cache has symmetric ranges, this target asymmetric codes: "
            "a scale is 254/255 of that of the cache"
        )


def _some(names: tuple[str, ...]) -> str:
    more = f", … and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _write(document: dict[str, Any]) -> None:
    import msgspec

    raw = msgspec.json.encode(document)
    sys.stdout.buffer.write(msgspec.json.format(raw, indent=1) + b"\n")
