"""The verb ``compile``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from qcompiler.cli import options as o
from qcompiler.cli.gate import CardName, UseGate


def compile(  # noqa: A001  (a command line has as many options as it has)
    model: o.Model,
    /,
    *,
    data: o.Data = None,
    evaluate: Annotated[
        str | None,
        Parameter(
            name="--eval",
            help="Task metric before and after: an .npz with inputs and labels (top-1) or with "
            "tokens (perplexity), or script.py:function.",
        ),
    ] = None,
    recipe: o.RecipeName = None,
    target: o.TargetName = "tensorrt",
    output: o.Output = None,
    report: Annotated[Path | None, Parameter(help="Write all figures as JSON.")] = None,
    exclude: o.Exclude = (),
    force: o.Force = False,
    io_dtype: o.IoDtype = None,
    keep: Annotated[
        Path | None,
        Parameter(
            help="Folder for the products: prepared.onnx, points.json, stats.npz, plan.json."
        ),
    ] = None,
    points: Annotated[
        Path | None, Parameter(help="Take these points (points.json), do not scan.")
    ] = None,
    stats: Annotated[
        Path | None, Parameter(help="Take these statistics, do not calibrate.")
    ] = None,
    plan: Annotated[Path | None, Parameter(help="Carry out this plan, decide nothing.")] = None,
    engine: Annotated[
        Path | None, Parameter(help="Also build the written model into this plan.")
    ] = None,
    engine_target: Annotated[
        str | None,
        Parameter(help="Target of the plan, as of `build`; without it that of the compilation."),
    ] = None,
    min_shapes: o.Words = (),
    opt_shapes: o.Words = (),
    max_shapes: o.Words = (),
    gate: UseGate = True,
    gpu: CardName = None,
    overwrite: o.Overwrite = False,
    format: o.Format = "text",  # noqa: A002
    seed: o.Seed = 0,
    mean: o.Mean = (0.0,),
    std: o.Std = (1.0,),
    layout: o.Layout = "nchw",
    custom_ops: o.CustomOps = (),
) -> int:
    """Quantize a model, verify the result against the original, and write it.

    Writes MODEL.RECIPE.onnx beside the model unless -o says otherwise. One in eight samples is held
    out to verify; numbers are judged with ONNX Runtime's graph optimizations off. For TensorRT for
    RTX, what is not faster in INT8 stays in 16 bits unless --force is given. With --engine the
    written model is then built, and the facts about the plan written beside it; one that is slower
    than the FP16 form of MODEL ends with exit code 1 (measured on a GPU that it is for, where
    outputs are compared too; estimated elsewhere).
    """
    from rich.console import Console

    from qcompiler import plan as products
    from qcompiler import targets
    from qcompiler.calibrate import Statistics
    from qcompiler.cli import build as engines
    from qcompiler.cli.display import display
    from qcompiler.cli.gate import Gating, closed, explain
    from qcompiler.cli.products import product_paths, write_products
    from qcompiler.cli.summary import summarize
    from qcompiler.driver import Options
    from qcompiler.driver import compile as run
    from qcompiler.engine.measure import Samples
    from qcompiler.engine.shapes import Shapes
    from qcompiler.engine.shapes import parse as shapes_of
    from qcompiler.errors import UsageError
    from qcompiler.evaluate import open_evaluation

    machine = targets.find(target)
    output = output or model.with_name(f"{model.stem}.{Path(recipe or machine.recipe).stem}.onnx")
    files = [output, *([report] if report else []), *engines.files(engine)]
    sources = [model, *(p for p in (points, stats, plan) if p)]
    o.refuse_existing(files, overwrite=overwrite, sources=sources)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        o.refuse_existing(product_paths(keep), overwrite=overwrite, sources=[*sources, *files])
    planned = engines.planned(engine, engine_target, machine.name, gpu)
    if gpu is not None and engine is None and not machine.weighs:
        raise UsageError(f"--gpu says nothing about {target} without --engine PLAN")
    shapes = Shapes(*(shapes_of(words) for words in (min_shapes, opt_shapes, max_shapes)))
    progress = display(quiet=format == "json")
    result = run(
        model,
        data=data,
        recipe=recipe,
        target=target,
        evaluation=open_evaluation(evaluate) if evaluate else None,
        options=Options(
            exclude=exclude,
            images=o.images(mean, std, layout),
            custom_ops=custom_ops,
            seed=seed,
            force=force,
            io=io_dtype,
            shapes=shapes,
            gpu=gpu if machine.weighs else None,
            points=products.read(points, products.Points) if points else None,
            statistics=Statistics.read(stats) if stats else None,
            plan=products.read(plan, products.QuantPlan) if plan else None,
            progress=progress,
        ),
    )
    finished = result.save(output)
    if keep is not None:
        write_products(result, keep, model, target)
    if report is not None:
        products.save(finished, report)
    samples = Samples(data, o.images(mean, std, layout)) if data is not None else None
    gating = Gating.planned(model, planned, gpu, wanted=gate, samples=samples)
    built = engines.built(output, engine, planned, gating, shapes, progress)
    if format == "json":
        sys.stdout.buffer.write(products.encode(finished))
    else:
        console = Console(highlight=False)
        summarize(finished, console)
        engines.show(output, engine, built, console)
        explain(gating, built, console)
    return closed(built, quiet=format == "json")
