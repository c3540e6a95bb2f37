"""``open_data``: one way in for every kind of calibration data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from numpy.typing import ArrayLike

from qcompiler.data.chunk import Reader
from qcompiler.data.dataset import Dataset, Stream
from qcompiler.data.folder import ACCEPTED, folder_reader
from qcompiler.data.images import SUFFIXES, ImageOptions, image_reader
from qcompiler.data.iterable import python_reader
from qcompiler.data.loader import loader_reader, split_loader
from qcompiler.data.npy import npy_reader
from qcompiler.data.npz import NpzReader
from qcompiler.data.spec import Feeds, InputSpec
from qcompiler.errors import InputError, UsageError

__all__ = ["DataSource", "ImageOptions", "open_data"]

DataSource: TypeAlias = (
    str
    | Path
    | Mapping[str, ArrayLike]
    | Iterable[Feeds]
    | Callable[[], Mapping[str, ArrayLike] | Iterable[Feeds]]
)
"""What ``open_data`` takes."""


def open_data(
    source: DataSource,
    inputs: Sequence[InputSpec],
    *,
    images: ImageOptions = ImageOptions(),  # noqa: B008 - frozen
    limit: int | None = None,
) -> Dataset:
    """Open calibration or evaluation data for a model, and check its first part against the model.

    Accepted: an ``.npz`` file (keys = inputs); a folder of ``.npz``; an ``.npy`` file or a folder
    of them (for a model with one input, or named like the inputs); images; ``loader.py[:function]``
    that yields dicts; from Python a mapping of arrays, an iterable of feeds, or a function that
    returns one of these. Nothing is held in memory but the current feed, and pickles are never
    loaded.

    The rank rule: an array of the input's rank has the batch as its first axis; with one axis more,
    each entry is one complete input. Samples are fed one by one, or in groups of N if the model
    fixes its batch at N.

    Args:
        source: The data.
        inputs: The model's inputs.
        images: How pictures become inputs.
        limit: Give at most so many samples (rounded up to the model's fixed batch); None for all.

    Returns:
        The dataset. It can be iterated again and gives the same feeds, except over an iterator from
        Python.

    Raises:
        InputError: The source does not exist, is of no known kind, is damaged, or does not fit the
            model. Faults further on in the data are raised while iterating.
        UsageError: ``limit`` is below 1.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"limit: expected at least 1 sample, found {limit}")
    reader = (
        _path_reader(source, inputs, images)
        if isinstance(source, (str, Path))
        else python_reader(source)
    )
    stream = Stream(reader, inputs, limit)
    # Looks at the first headers, so that a wrong file is refused before any work.
    stream.__length_hint__()
    return stream


def _path_reader(source: str | Path, inputs: Sequence[InputSpec], images: ImageOptions) -> Reader:
    label, path = str(source), Path(source)
    if path.is_dir():
        return folder_reader(label, path, inputs, images)
    if loader := split_loader(label):
        return loader_reader(label, *loader)
    if not path.exists():
        raise InputError(
            "the data does not exist", where=label, hint=f"check the path; data is {ACCEPTED}"
        )
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return NpzReader(label, [path])
    if suffix == ".npy":
        return npy_reader(label, [path], inputs)
    if suffix in SUFFIXES:
        return image_reader(label, [path], inputs, images)
    raise InputError(
        f"unknown kind of data: {suffix or 'no suffix'}", where=label, hint=f"data is {ACCEPTED}"
    )
