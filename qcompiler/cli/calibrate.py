"""The verb ``calibrate``."""

from __future__ import annotations

from qcompiler.cli import options as o


def calibrate(
    model: o.Model,
    /,
    *,
    data: o.Data = None,
    output: o.Output = None,
    recipe: o.RecipeName = None,
    target: o.TargetName = "tensorrt",
    exclude: o.Exclude = (),
    overwrite: o.Overwrite = False,
    seed: o.Seed = 0,
    mean: o.Mean = (0.0,),
    std: o.Std = (1.0,),
    layout: o.Layout = "nchw",
    custom_ops: o.CustomOps = (),
) -> int:
    """Run samples through a model and write the statistics of its tensors.

    Writes MODEL.stats.npz beside the model unless -o says otherwise; `plan` and `compile` take
    it with --stats, so that trying another range method costs no inference.
    """
    from rich.console import Console

    from qcompiler.cli.display import display
    from qcompiler.driver import Compilation, Options

    output = output or model.with_name(f"{model.stem}.stats.npz")
    o.refuse_existing([output], overwrite=overwrite, sources=[model])
    work = Compilation(
        model,
        recipe,
        target,
        Options(
            exclude=exclude,
            images=o.images(mean, std, layout),
            custom_ops=custom_ops,
            seed=seed,
            force=True,  # statistics of every tensor that some plan may quantize
            progress=display(quiet=False),
        ),
    )
    graph = work.prepare()
    points = work.scan(graph)
    statistics = work.calibrate(graph, points, data)
    statistics.save(output)
    binned = sum(h.count > 0 for h in statistics.histograms.values())
    watched = len(statistics.histograms) - binned
    Console(highlight=False).print(
        f"{output}: {binned} tensors, {statistics.samples} samples, "
        f"{len(work.held_out)} held out, from {statistics.source}"
        + (f"; extremes of {watched} more" if watched else "")
    )
    return 0
