"""Options that several verbs share, spelled once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

if TYPE_CHECKING:
    from qcompiler.data.open import ImageOptions

Model = Annotated[Path, Parameter(help="The ONNX model; it is never written to.")]
Data = Annotated[
    str | None,
    Parameter(
        help="Calibration samples: .npz, .npy, a folder of either or of images, or "
        "loader.py[:function] yielding dicts. Without it inputs are made up."
    ),
]
RecipeName = Annotated[
    str | None,
    Parameter(help="Recipe: a name or the path of a .toml file; without it that of the target."),
]
TargetName = Annotated[
    str,
    Parameter(
        help="Target: tensorrt, tensorrt-rtx or onnxruntime, with a release and compute "
        "capabilities if they matter: tensorrt-rtx-1.7:sm89."
    ),
]
Force = Annotated[
    bool,
    Parameter(negative="", help="Quantize what can be, even if it is slower or costs too much."),
]
IoDtype = Annotated[
    Literal["keep", "float16", "float32"] | None,
    Parameter(help="Type of the float inputs and outputs; without it that of the recipe: keep."),
]
Words = Annotated[
    tuple[str, ...],
    Parameter(consume_multiple=True, help="input:1x3x224x224,mask:1x128 or input:[1,3,224,224]."),
]
Exclude = Annotated[
    tuple[str, ...],
    Parameter(consume_multiple=True, help="Globs over node names that stay in float."),
]
Overwrite = Annotated[bool, Parameter(negative="", help="Replace output files that exist.")]
Format = Annotated[
    Literal["text", "json"],
    Parameter(help="What goes to standard output; json is one document."),
]
Seed = Annotated[int, Parameter(help="Seed of the synthetic data.")]
Mean = Annotated[
    tuple[float, ...],
    Parameter(consume_multiple=True, help="Image folder: mean per channel, after scaling to 0-1."),
]
Std = Annotated[
    tuple[float, ...],
    Parameter(consume_multiple=True, help="Image folder: standard deviation per channel."),
]
Layout = Annotated[Literal["nchw", "nhwc"], Parameter(help="Image folder: layout of the input.")]
CustomOps = Annotated[
    tuple[Path, ...],
    Parameter(
        consume_multiple=True,
        help="Shared libraries with custom operators for ONNX Runtime; they run with your rights.",
    ),
]
Output = Annotated[Path | None, Parameter(name=["--output", "-o"], help="File to write.")]


def images(mean: Sequence[float], std: Sequence[float], layout: str) -> ImageOptions:
    """Image options from the command line."""
    from qcompiler.data.open import ImageOptions

    return ImageOptions(mean=tuple(mean), std=tuple(std), layout=layout)


def refuse_existing(paths: Sequence[Path], *, overwrite: bool, sources: Sequence[Path]) -> None:
    """Check outputs before any work is done.

    Args:
        paths: What will be written.
        overwrite: Whether files that exist may be replaced.
        sources: What is read.

    Raises:
        UsageError: A file exists and ``--overwrite`` was not given, two outputs are one file, or
            an output is an input.
    """
    from qcompiler.errors import UsageError

    for number, path in enumerate(paths):
        if any(path.resolve() == p.resolve() for p in paths[:number]):
            raise UsageError(
                "two outputs have the same name", where=str(path), hint="choose another path"
            )
        if any(path.resolve() == s.resolve() for s in sources):
            raise UsageError(
                "the output is the input", where=str(path), hint="choose another path with -o"
            )
        # The weights of a large model go beside it.
        beside = [path.with_name(f"{path.name}.data")] if path.suffix == ".onnx" else []
        existing = next((p for p in (path, *beside) if p.exists()), None)
        if existing is not None and not overwrite:
            raise UsageError(
                "the file exists", where=str(existing), hint="pass --overwrite or another path"
            )
        if not path.parent.is_dir():
            raise UsageError(
                "the folder does not exist",
                where=str(path.parent),
                hint="create it or choose another path",
            )
