"""The verb ``apply``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qcompiler.cli import options as o


def apply(
    model: o.Model,
    /,
    *,
    plan: Annotated[Path, Parameter(help="A plan written by `plan` or `compile --keep`.")],
    output: o.Output = None,
    overwrite: o.Overwrite = False,
) -> int:
    """Carry out a plan: the same plan gives the same bytes.

    Writes MODEL.<recipe>.onnx beside the model unless -o says otherwise. Nothing is decided and
    nothing is run.
    """
    from rich.console import Console

    from qcompiler import plan as products
    from qcompiler import targets
    from qcompiler.apply import apply as carry_out
    from qcompiler.data.synthetic import WARNING
    from qcompiler.emit import emit
    from qcompiler.prepare import prepare

    decided = products.read(plan, products.QuantPlan)
    output = output or model.with_name(f"{model.stem}.{decided.recipe}.onnx")
    o.refuse_existing([output], overwrite=overwrite, sources=[model, plan])
    graph, _ = prepare(model, targets.find(decided.target))
    carry_out(graph, decided)
    files = emit(graph, output)
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"{', '.join(map(str, files))}: {len(decided.quantized_nodes())} linear nodes quantized, "
        f"{len(decided.skipped)} left in float"
    )
    if decided.synthetic:
        console.print(f"[bold yellow]warning[/]: {WARNING}")
    return 0
