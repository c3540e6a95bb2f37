"""The verb ``plan``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from qcompiler.cli import options as o
from qcompiler.cli.gate import CardName

if TYPE_CHECKING:
    from rich.table import Table

    from qcompiler.plan import QuantPlan


def plan(
    model: o.Model,
    /,
    *,
    data: o.Data = None,
    points: Annotated[
        Path | None, Parameter(help="Take these points (points.json), do not scan.")
    ] = None,
    stats: Annotated[Path | None, Parameter(help="Statistics written by `calibrate`.")] = None,
    output: o.Output = None,
    recipe: o.RecipeName = None,
    target: o.TargetName = "tensorrt",
    exclude: o.Exclude = (),
    force: o.Force = False,
    opt_shapes: o.Words = (),
    gpu: CardName = None,
    overwrite: o.Overwrite = False,
    format: o.Format = "text",  # noqa: A002
    seed: o.Seed = 0,
    mean: o.Mean = (0.0,),
    std: o.Std = (1.0,),
    layout: o.Layout = "nchw",
    custom_ops: o.CustomOps = (),
) -> int:
    """Decide every scale and show the decisions, tensor by tensor, with reasons.

    With -o the plan is written as JSON; edit it and carry it out with `apply`.
    """
    from rich.console import Console

    from qcompiler import plan as products
    from qcompiler.calibrate import Statistics
    from qcompiler.cli.display import display
    from qcompiler.driver import Compilation, Options
    from qcompiler.engine.shapes import Shapes
    from qcompiler.engine.shapes import parse as shapes_of

    if output is not None:
        sources = [model, *(p for p in (points, stats) if p)]
        o.refuse_existing([output], overwrite=overwrite, sources=sources)
    work = Compilation(
        model,
        recipe,
        target,
        Options(
            exclude=exclude,
            images=o.images(mean, std, layout),
            custom_ops=custom_ops,
            seed=seed,
            force=force,
            shapes=Shapes(opt=shapes_of(opt_shapes)),
            gpu=gpu,
            points=products.read(points, products.Points) if points else None,
            statistics=Statistics.read(stats) if stats else None,
            progress=display(quiet=format == "json"),
        ),
    )
    graph = work.prepare()
    proposed = work.scan(graph)
    _, decided = work.decide(graph, proposed, work.calibrate(graph, proposed, data))
    if output is not None:
        products.save(decided, output)
    if format == "json":
        sys.stdout.buffer.write(products.encode(decided))
    else:
        Console(highlight=False).print(_table(decided))
    return 0


def _table(decided: QuantPlan) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("node", "", "tensor", "scale", "why"):
        table.add_column(name, overflow="fold")
    for decision in (*decided.activations, *decided.weights):
        scale = decision.scale
        shown = f"{scale:.4g}" if isinstance(scale, float) else f"{min(scale):.3g}…{max(scale):.3g}"
        source = "" if decision.source == "calibrated" else f"{decision.source}; "
        for slot in decision.slots:
            table.add_row(
                escape(slot.node),
                slot.role,
                escape(decision.tensor),
                shown,
                escape(source + decision.why),
            )
    for node, reason in decided.skipped.items():
        table.add_row(escape(node), "float", "", "", escape(reason))
    return table
