"""A folder: which kind of data it holds."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from qcompiler.data.chunk import Reader
from qcompiler.data.images import SUFFIXES, ImageOptions, image_reader
from qcompiler.data.npy import npy_reader
from qcompiler.data.npz import NpzReader
from qcompiler.data.spec import InputSpec
from qcompiler.errors import InputError

ACCEPTED = (
    "an .npz file, a folder of .npz or .npy files or of images, "
    "or a Python file loader.py[:function]"
)
"""The kinds of data, for hints."""


def folder_reader(
    source: str, folder: Path, specs: Sequence[InputSpec], images: ImageOptions
) -> Reader:
    """Choose the reader for a folder by the names in it; other and hidden files are ignored.

    Images may lie in sub-folders (one a class); arrays must lie in the folder itself. The order is
    that of the names.

    Args:
        source: What the user gave.
        folder: The folder.
        specs: The model's inputs.
        images: How pictures become inputs.

    Returns:
        The reader.

    Raises:
        InputError: The folder holds no data, or several kinds.
    """
    try:
        files = sorted(
            path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")
        )
    except OSError as error:
        raise InputError(f"cannot list the folder: {error.strerror}", where=source) from error
    kinds = _by_kind(files)
    if not kinds:
        kinds = {"image": found} if (found := _nested_images(folder)) else {}
    if len(kinds) != 1:
        counts = ", ".join(f"{len(found)} {kind}" for kind, found in sorted(kinds.items()))
        raise InputError(
            f"expected one kind of data in the folder, found {counts or 'none'}",
            where=source,
            hint=f"data is {ACCEPTED}",
        )
    [(kind, files)] = kinds.items()
    if kind == ".npz":
        return NpzReader(source, files)
    if kind == ".npy":
        return npy_reader(source, files, specs)
    return image_reader(source, files, specs, images)


def _by_kind(files: Sequence[Path]) -> dict[str, list[Path]]:
    kinds: dict[str, list[Path]] = {}
    for path in files:
        suffix = path.suffix.lower()
        if suffix in (".npz", ".npy"):
            kinds.setdefault(suffix, []).append(path)
        elif suffix in SUFFIXES:
            kinds.setdefault("image", []).append(path)
    return kinds


def _nested_images(folder: Path) -> list[Path]:
    found = []
    for parent, _, names in os.walk(folder):  # does not follow links, so it ends
        found += [Path(parent, name) for name in names if Path(name).suffix.lower() in SUFFIXES]
    return sorted(path for path in found if not path.name.startswith("."))
