"""An INT8 calibration cache of TensorRT -> statistics from which ``decide`` takes the same scales.

The cache is text: a header, then one line a network tensor::

    TRT-8601-EntropyCalibration2
    input: 3c8950a4
    /conv1/Conv_output_0: 3d1a3f7e

The hexadecimal digits are the bits of a float32, most significant first, leading zeros left out.
It is the *scale* ``s``: TensorRT quantized by ``round(x / s)`` to [-127, 127], so the range is
``[-127 s, 127 s]``, whatever calibrator found it.

The range as a histogram.  ``decide`` asks a range method, and each must answer ``127 s``: by the
method of the recipe, and over a group of tensors that share a scale.  A histogram of one value 0
with the extremes ``-127 s`` and ``127 s`` does that.  Its values are three points, so *minmax* and
*percentile* end at the outer ones, *entropy* has no mass elsewhere to cut at, and for *mse* the
outer points are codes, hence without error.  Merged with others, the bin of 0 gains a count and the
extremes are the widest: the group gets its largest range, as it must to share one.

``127 s`` is exact in float64 (24 bits by 7), and so is ``127 s / 127``: a float32 graph gets the
very scale of the cache, bit for bit.  In a float16 graph the scale has 11 bits, like every scale
there.

Names.  The cache names tensors of the model, the points those of the prepared graph.  A pass that
replaces a tensor keeps its name and value, but a scale that is folded through data movement changes
what lies between: ``x -> Mul(2) -> a -> Reshape -> b`` becomes ``x -> Reshape -> b``, and ``b`` is
halved.  So an entry counts for a tensor only if both graphs agree where its values come from; the
range of that origin serves when the tensor itself has no entry (rules E01, E18: moved values have
one scale).
"""

from __future__ import annotations

import math
import re
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qcompiler import ops
from qcompiler.calibrate import Statistics
from qcompiler.errors import InputError
from qcompiler.graph import Graph, Tensor
from qcompiler.observers.histogram import Histogram
from qcompiler.plan import Points

_HEADER = re.compile(r"TRT-\w+-\w+")
_HEX = re.compile(r"(?:0[xX])?([0-9a-fA-F]{1,8})")
_CODES = 127
_LISTED = 3


@dataclass(frozen=True)
class Cache:
    """A calibration cache.

    Attributes:
        header: Its first line: release and calibrator.
        scales: Network tensor -> scale, a float32 as float; 0 for a tensor that was always 0.
    """

    header: str
    scales: dict[str, float]


@dataclass(frozen=True)
class Matched:
    """The statistics that a cache gave, and what it did not give.

    Attributes:
        statistics: For ``compile --stats``.
        scales: Point -> the scale that it has from the cache.
        moved: Point -> the tensor whose entry serves it, where that is not its own.
        missing: Points without an entry, in graph order; their nodes stay in float.
        nodes: Names of those nodes.
        unused: How many entries no point needed.
    """

    statistics: Statistics
    scales: dict[str, float]
    moved: dict[str, str]
    missing: tuple[str, ...]
    nodes: tuple[str, ...]
    unused: int


def read(path: Path) -> Cache:
    """Read a cache.

    Raises:
        InputError: No such file, no cache, or a line is damaged; the message has its number.
    """
    try:
        lines = path.read_bytes().decode("utf-8").split("\n")
    except OSError as error:
        raise InputError(
            f"cannot read the cache: {error.strerror}", where=str(path), hint="check the path"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(
            "this is no calibration cache: it is not text", where=str(path), hint=_EXAMPLE
        ) from error
    header = lines[0].strip()
    if not _HEADER.fullmatch(header):
        raise InputError(
            f"this is no calibration cache: the first line is {header[:60]!r}",
            where=f"{path}:1",
            hint=_EXAMPLE,
        )
    scales: dict[str, float] = {}
    for number, line in enumerate(lines[1:], start=2):
        if line.strip():
            name, scale = _entry(line.rstrip("\r"), f"{path}:{number}")
            if scales.setdefault(name, scale) != scale:
                raise InputError(
                    f"the tensor {name!r} has two scales",
                    where=f"{path}:{number}",
                    hint="delete the wrong line",
                )
    if not scales:
        raise InputError(
            "the cache has no entries", where=str(path), hint="calibrate with --data instead"
        )
    return Cache(header, scales)


_EXAMPLE = "it starts with a line such as TRT-8601-EntropyCalibration2"


def _entry(line: str, where: str) -> tuple[str, float]:
    name, colon, digits = line.rpartition(":")
    match = _HEX.fullmatch(digits.strip())
    if not colon or not name.strip() or match is None:
        raise InputError(
            f"not an entry: {line[:80]!r}",
            where=where,
            hint="a line is `tensor: 3c8950a4`, a name and up to eight hexadecimal digits",
        )
    scale: float = struct.unpack("!f", bytes.fromhex(match[1].zfill(8)))[0]
    if not math.isfinite(scale) or scale < 0 or math.copysign(1.0, scale) < 0:
        raise InputError(
            f"the scale of {name.strip()!r} is {scale}, expected a finite number from 0",
            where=where,
            hint="the calibration failed for this tensor: delete the line, and its readers stay "
            "in float, or calibrate with --data instead",
        )
    return name.strip(), scale


def histogram(scale: float) -> Histogram:
    """Statistics of which every range method makes ``[-127 scale, 127 scale]``.

    Args:
        scale: A float32, from 0.
    """
    amax = _CODES * scale
    zero = np.zeros(1, np.uint32)  # the bin of 0
    return Histogram(zero, np.ones(1, np.int64), -amax, amax, 0)


def match(cache: Cache, original: Graph, prepared: Graph, points: Points, source: str) -> Matched:
    """Give each tensor of the points the range that the cache has for it.

    Args:
        cache: What was read.
        original: The model as it was loaded.
        prepared: The prepared graph, whose tensors the points name.
        points: What scan proposed.
        source: Name of the cache, for reports.

    Returns:
        Statistics and what they lack; they hold the tensors of the points only.

    Raises:
        InputError: Not one tensor has an entry.
    """
    found: dict[str, str] = {}
    for point in points.activations:
        names = [n for n in _same_values(point.tensor, original, prepared) if n in cache.scales]
        if names:
            found[point.tensor] = names[0]
    if points.activations and not found:
        raise InputError(
            f"no tensor that is to be quantized has an entry: the cache has "
            f"{_some(list(cache.scales))}; the model has "
            f"{_some([p.tensor for p in points.activations])}",
            where=source,
            hint="the names must be those of this ONNX file: export it as it was when calibrated",
        )
    scales = {tensor: cache.scales[name] for tensor, name in found.items()}
    lacking = [p for p in points.activations if p.tensor not in found]
    statistics = Statistics(
        points.model_digest,
        f"{source} ({cache.header})",
        False,
        0,
        {tensor: histogram(scale) for tensor, scale in scales.items()},
    )
    return Matched(
        statistics,
        scales,
        {tensor: name for tensor, name in found.items() if tensor != name},
        tuple(p.tensor for p in lacking),
        tuple(dict.fromkeys(s.node for p in lacking for s in p.slots)),
        len(cache.scales.keys() - set(found.values())),
    )


def _some(names: list[str]) -> str:
    more = f", … ({len(names)})" if len(names) > _LISTED else ""
    return ", ".join(repr(n) for n in names[:_LISTED]) + more


def _same_values(name: str, original: Graph, prepared: Graph) -> list[str]:
    """Tensors of the model that hold the values of a tensor of the prepared graph, nearest first.

    The origin in the model must be on the way back in the prepared graph too; if it is not, a pass
    changed what is between, and only where the way ends can the names be trusted.
    """
    way = _way_back(prepared, name)
    before = _way_back(original, name)
    if before and before[-1] in way:
        return way[: way.index(before[-1]) + 1]
    last = way[-1:]
    return last if last and _way_back(original, last[0]) == last else []


def _way_back(graph: Graph, name: str) -> list[str]:
    """A tensor, and through data movement where its values come from; empty if there is none."""
    tensor: Tensor | None = graph.tensor(name)
    way: list[str] = []
    while tensor is not None:
        way.append(tensor.name)
        node = graph.producer(tensor)
        if node is None or not ops.moves_data(node):
            break
        tensor = node.inputs[0] if node.inputs and node.inputs[0].name else None
    return way
