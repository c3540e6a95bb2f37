"""The verb ``export``, with one command for each form."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from qcompiler.cli import options as o

if TYPE_CHECKING:
    from qcompiler.export.manifest import Manifest
    from qcompiler.export.triton import Exported

export = App(
    name="export",
    help="Export a model for deployment: a Triton model repository, or a bundle.",
)


@export.command
def triton(
    model: Annotated[
        Path, Parameter(help="An ONNX model, or a TensorRT plan with its facts beside it.")
    ],
    /,
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="The repository; made if it is not there.")
    ],
    name: Annotated[str, Parameter(help="Of the model; the file's name without it.")] = "",
    version: Annotated[int, Parameter(help="Folder of this version.")] = 1,
    max_batch: Annotated[
        int | None,
        Parameter(
            help="Most requests in a batch, 0 for no batching. Without it 8, or what the engine's "
            "profile allows, if the first axes of all inputs and outputs are one batch."
        ),
    ] = None,
    preferred_batch: Annotated[
        tuple[int, ...],
        Parameter(consume_multiple=True, negative="", help="Batches worth waiting for."),
    ] = (),
    queue_delay_us: Annotated[
        int | None, Parameter(help="Microseconds a request may wait for others.")
    ] = None,
    instances: Annotated[int | None, Parameter(help="Copies that run at a time.")] = None,
    force: Annotated[
        bool, Parameter(negative="", help="Write a plan that Triton's own backend cannot load.")
    ] = False,
    overwrite: o.Overwrite = False,
    format: o.Format = "text",  # noqa: A002
) -> int:
    """Write an ONNX model or a TensorRT plan into a Triton model repository.

    Makes NAME/config.pbtxt and NAME/1/model.onnx or NAME/1/model.plan. Other models and other
    versions in the repository stay.
    """
    import msgspec

    from qcompiler.export import triton as repository
    from qcompiler.export.triton_config import Serving

    serving = Serving(max_batch, preferred_batch, queue_delay_us, instances)
    done = repository.export(
        model,
        output,
        name=name,
        version=version,
        serving=serving,
        force=force,
        overwrite=overwrite,
    )
    if format == "json":
        document = {"schema_version": 1, **asdict(done), "folder": str(done.folder)}
        sys.stdout.buffer.write(msgspec.json.encode(document) + b"\n")
    else:
        _show_repository(done)
    return 0


def _show_repository(done: Exported) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    for note in done.notes:
        console.print(f"[bold yellow]warning[/]: {escape(note)}")
    console.print(f"[bold]{escape(str(done.folder))}[/]: {escape(', '.join(done.files))}")
    if done.max_batch:
        console.print(f"batches of up to {done.max_batch}")
    elif done.unbatched:
        console.print(f"not batched: {escape(done.unbatched)}")
    console.print(escape(f"serve it with: tritonserver --model-repository={done.folder.parent}"))


@export.command
def bundle(
    model: o.Model,
    /,
    *,
    output: Annotated[
        Path, Parameter(name=["--output", "-o"], help="A .zip, or a folder to make.")
    ],
    plan: Annotated[
        Path | None, Parameter(help="An engine built from MODEL, with its facts beside it.")
    ] = None,
    quant_plan: Annotated[
        Path | None, Parameter(help="The plan.json that MODEL was made with: every scale.")
    ] = None,
    source: Annotated[
        Path | None, Parameter(help="The float model that MODEL was made from, to compare with.")
    ] = None,
    data: o.Data = None,
    samples: Annotated[int, Parameter(help="Golden samples.")] = 4,
    seed: o.Seed = 0,
    mean: o.Mean = (0.0,),
    std: o.Std = (1.0,),
    layout: o.Layout = "nchw",
    custom_ops: o.CustomOps = (),
    overwrite: o.Overwrite = False,
    format: o.Format = "text",  # noqa: A002
) -> int:
    """Write a bundle that `check` verifies on another machine.

    It holds the model, its engine, its scales, and golden inputs and outputs: those of ONNX
    Runtime without its graph optimizations. How near another machine must come to them is measured
    here and written into the manifest.
    """
    from qcompiler.cli.display import display
    from qcompiler.export import bundle as bundles
    from qcompiler.plan import encode

    bundles.refuse_existing(output, overwrite=overwrite)
    contents = bundles.Contents(
        plan=plan,
        quantization=quant_plan,
        source=source,
        data=data,
        samples=samples,
        seed=seed,
        images=o.images(mean, std, layout),
        custom_ops=custom_ops,
    )
    made = bundles.export(model, output, contents, display(quiet=format == "json"))
    if format == "json":
        sys.stdout.buffer.write(encode(made))
    else:
        _show_bundle(output, made)
    return 0


def _show_bundle(output: Path, made: Manifest) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False, soft_wrap=True)
    size = sum(entry.bytes for entry in made.files.values())
    console.print(
        f"[bold]{escape(str(output))}[/]: {len(made.files)} files, {size / 1e6:.2f} MB, "
        f"{made.samples} golden samples from {escape(made.data)}"
    )
    for found in made.tolerances:
        equal = found.measure == "equal"
        floor = f"{found.floor:.2%} equal" if equal else f"SQNR {found.floor:.1f} dB"
        console.print(escape(f"output '{found.output}': at least {floor} ({found.derived})"))
    console.print(escape(f"verify it elsewhere with: qcompiler check {output}"))
