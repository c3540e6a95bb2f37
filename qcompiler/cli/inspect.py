"""The verb ``inspect``, and the engine report as half a page of text."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from qcompiler.cli import options as o

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from qcompiler.engine.listing import Layer, Tensor
    from qcompiler.engine.report import EngineReport, LinearNode
    from qcompiler.engine.sidecar import Sidecar

# Beyond this many lines a list of nodes is cut, and says so.
_LINES = 8


def inspect(
    plan: Annotated[
        Path | None,
        Parameter(
            help="A plan with its facts beside it, or the facts: MODEL.plan.json; or a model, "
            "MODEL.onnx, whose report is predicted."
        ),
    ] = None,
    /,
    *,
    inspector: Annotated[
        Path | None,
        Parameter(
            help="What TensorRT's engine inspector said of an engine, as JSON (trtexec "
            "--exportLayerInfo); or a plan without facts, to ask it here."
        ),
    ] = None,
    model: Annotated[
        Path | None,
        Parameter(help="With --inspector: the ONNX model that the plan was built from."),
    ] = None,
    target: Annotated[
        str,
        Parameter(
            help="Of a model: what the report is predicted for, such as tensorrt-11.4:sm90. With "
            "--inspector PLAN: the library that loads it."
        ),
    ] = "tensorrt",
    opt_shapes: o.Words = (),
    layers: Annotated[bool, Parameter(negative="", help="One line a kernel instead.")] = False,
    format: o.Format = "text",  # noqa: A002
) -> int:
    """Show what the compiler made of a model, from the facts beside its plan.

    Neither a GPU nor the library is needed. Bytes are those of every operand of every kernel, a
    dynamic dimension counted as the batch; they are no measured time. Of an engine that another
    tool built, --inspector shows the same from the JSON of TensorRT's engine inspector, or asks it
    if the file is the plan itself, on a machine with its GPU. Of a model nothing is built:
    capability rows and documented rules say what will run in which type, which Q costs a kernel of
    its own and why; what they do not say is unknown.
    """
    from rich.console import Console

    from qcompiler.cli import gate
    from qcompiler.engine import sidecar
    from qcompiler.errors import UsageError
    from qcompiler.plan import encode

    if (plan is None) == (inspector is None):
        raise UsageError("name a plan, or a file with --inspector: one of them")
    if inspector is not None:
        return _inspected(inspector, model, target, layers=layers, format=format)
    if plan is not None and plan.suffix == ".onnx":
        if model is not None or layers:
            raise UsageError("a prediction knows no kernels and needs no other model")
        return _predicted(plan, target, opt_shapes, format)
    if opt_shapes:
        raise UsageError("--opt-shapes goes with a model, MODEL.onnx")
    if plan is None or model is not None:
        raise UsageError("--model goes with --inspector; the facts beside a plan know its model")
    facts = sidecar.read(sidecar.beside(plan))
    sidecar.require_plan(facts, plan)
    if format == "json":
        sys.stdout.buffer.write(encode(facts))
        return 0
    console = Console(highlight=False, soft_wrap=layers)
    if layers:
        _layers(facts.layers, console)
        return 0
    _title(facts, console)
    summarize(facts, console)
    gate.show(facts, console)
    return 0


def _predicted(model: Path, target: str, opt_shapes: Sequence[str], format: str) -> int:  # noqa: A002
    """Show what the capability rows and rules say about a model."""
    from rich.console import Console

    from qcompiler.cli import predicted
    from qcompiler.engine.predict import predict
    from qcompiler.engine.shapes import Shapes
    from qcompiler.engine.shapes import parse as shapes_of
    from qcompiler.engine.target_string import parse
    from qcompiler.plan import encode

    shapes = Shapes(opt=shapes_of(opt_shapes)) if opt_shapes else None
    found = predict(model, parse(target), shapes=shapes)
    if format == "json":
        sys.stdout.buffer.write(encode(found))
    else:
        predicted.show(model, found, Console(highlight=False))
    return 0


def _inspected(
    file: Path,
    model: Path | None,
    target: str,
    *,
    layers: bool,
    format: str,  # noqa: A002
) -> int:
    """Show what the engine inspector of TensorRT said."""
    from rich.console import Console
    from rich.markup import escape

    from qcompiler.engine.inspector import inspected
    from qcompiler.engine.precision import products
    from qcompiler.engine.target_string import parse
    from qcompiler.plan import encode

    found = inspected(file, model, parse(target))
    console = Console(highlight=False, soft_wrap=layers)
    if format == "json":
        sys.stdout.buffer.write(encode(found))
    elif layers:
        _layers(found.layers, console)
    else:
        console.print(f"[bold]{escape(str(file))}[/]  what the engine inspector said")
        _report(found.report, console, {} if model else products(found.layers))
    return 0


def _title(facts: Sidecar, console: Console) -> None:
    from rich.markup import escape

    where = ", ".join(facts.capabilities)
    console.print(
        f"[bold]{escape(facts.model)}[/]  {escape(facts.library)}"
        f"{f' for {escape(where)}' if where else ''}, plan of {_size(facts.plan_bytes)}"
    )


def summarize(facts: Sidecar, console: Console) -> None:
    """Print the engine report: at most half a page."""
    _report(facts.report, console)


def _report(
    report: EngineReport, console: Console, products: Mapping[str, int] | None = None
) -> None:
    """Print a report; ``products`` stands for the linear nodes where no model is at hand."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("kernels", f"{report.kernels}: {_counted(report.kinds)}" if report.kinds else "0")
    if products:
        table.add_row("products", f"{_counted(products)}; --model tells of which nodes")
    else:
        _linear(table, report)
    _fallen(table, report.fallen)
    if report.quantizers:
        table.add_row("Q", _fates(report))
    table.add_row("only moving", f"{len(report.movement)} kernels copy, reorder or convert")
    table.add_row(
        "bytes",
        f"{_size(report.bytes_read)} read, {_size(report.bytes_written)} written "
        f"(a dynamic dimension counts as {report.batch}, several folded into one likewise)",
    )
    memory = report.memory
    if memory.weights or memory.activation or memory.scratch:
        table.add_row(
            "memory",
            f"weights {_size(memory.weights)}, activations {_size(memory.activation)}, "
            f"largest scratch {_size(memory.scratch)}",
        )
    console.print(table)


def _linear(table: Table, report: EngineReport) -> None:
    counts = Counter(_precision(n) for n in report.linear)
    text = _counted(dict(counts.most_common())) or "none"
    table.add_row("linear nodes", f"{text}; {report.low_macs:.1%} of MACs in low precision")


def _precision(node: LinearNode) -> str:
    stored = f" of {node.stored} operands" if node.stored else ""
    return f"{node.precision}{stored}{' attention' if node.attention else ''}"


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items())


def _fallen(table: Table, nodes: Sequence[LinearNode]) -> None:
    """Quantized nodes that run in float, those of one reason in one line."""
    from rich.markup import escape

    reasons = Counter((n.precision, n.reason) for n in nodes)
    for number, ((precision, reason), count) in enumerate(reasons.most_common()):
        if number == _LINES:
            table.add_row("", f"… {len(reasons) - _LINES} more reasons, see --format json")
            return
        first = next(n.node for n in nodes if (n.precision, n.reason) == (precision, reason))
        more = f" and {count - 1} more" if count > 1 else ""
        head = "fell back" if number == 0 else ""
        table.add_row(head, escape(f"{first}{more} to {precision}: {reason}"))


def _fates(report: EngineReport) -> str:
    counts = Counter(q.fate for q in report.quantizers)
    words = {
        "folded": "folded into the producer's kernel",
        "own": "a kernel of its own",
        "emulated": "emulated in float",
        "unlisted": "in no kernel",
    }
    return ", ".join(f"{counts[fate]} {text}" for fate, text in words.items() if counts[fate])


def _layers(layers: Sequence[Layer], console: Console) -> None:
    from rich.markup import escape

    for layer in layers:
        console.print(escape(_line(layer)))


def _line(layer: Layer) -> str:
    """``correlation  Half[8, 64] | Int8[64, 64] -> Half[8, 64]  name  <- nodes``."""
    constants = [t for t in layer.constants if len(t.dims) > 1]
    operands = " | ".join(_operands(t) for t in (layer.inputs, constants) if t)
    nodes = f"  <- {', '.join(layer.onnx_nodes)}" if layer.onnx_nodes else ""
    return f"{layer.kind:<14} {operands} -> {_operands(layer.outputs)}  {layer.name}{nodes}"


def _operands(tensors: Sequence[Tensor]) -> str:
    return " ".join(f"{t.dtype}[{','.join(map(str, t.dims))}]" for t in tensors)


def _size(count: int) -> str:
    return f"{count / 1e6:.3f} MB"
