"""Points + data + backend -> statistics.

The graph is run as it is, with taps beside the tensors of interest (``qcompiler.taps``): exact
extremes and a sample of a few thousand elements leave the engine, the tensor itself does not.
Samples run a few at a time where the model keeps them apart, but are looked at one by one, and
statistics are integer counts: neither the order nor the batching of the samples changes a bit.

Some samples are held out for verification: those with the smallest hashes of their bytes.  That
choice, too, does not depend on order, and needs one pass over a stream of unknown length.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray
from onnx import ModelProto

from qcompiler import protos
from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.errors import InputError, UnsupportedError
from qcompiler.observers.histogram import Histogram, HistogramBuilder
from qcompiler.taps import Seen, Tap, fix_inputs, follows_batch, infer_shapes, instrument, skeleton
from qcompiler.weights import atomic

Array = NDArray[Any]
Feeds = Mapping[str, Array]
VERSION = 1

# About so many elements of a feature map of one sample are binned, eight times as many of other
# tensors; extremes are always exact.
SAMPLE = 1024
# Held-out samples: one in eight, at least one if there are two, at most this many.
HELD_OUT = 16
# Samples that run together, and the elements of tapped tensors that such a group may have.
_GROUP = 8
_GROUP_ELEMENTS = 1 << 25
# Of so many samples the values are binned, about, if there are more.
BINNED = 64
# Samples of one tensor wait in a buffer, so that counting costs no Python call each.
_FLUSH_EVERY = 16


@dataclass(frozen=True)
class Statistics:
    """What calibration saw.

    Attributes:
        model_digest: Of the prepared graph.
        source: Where the data came from.
        synthetic: Whether they were made up.
        samples: How many were calibrated on.
        histograms: Tensor -> histogram of its values; of a watched one its extremes alone.
    """

    model_digest: str
    source: str
    synthetic: bool
    samples: int
    histograms: dict[str, Histogram]

    def save(self, path: Path) -> None:
        """Write as ``.npz`` without pickles, the same bytes for the same statistics."""
        names = sorted(self.histograms)
        header = {
            "version": VERSION,
            "model_digest": self.model_digest,
            "source": self.source,
            "synthetic": self.synthetic,
            "samples": self.samples,
            "tensors": names,
        }
        text = np.frombuffer(json.dumps(header).encode(), np.uint8)
        arrays = {"header": text}
        for i, name in enumerate(names):
            for key, value in self.histograms[name].arrays().items():
                arrays[f"{i}.{key}"] = value
        with atomic(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: Path) -> Statistics:
        """Read ``save``'s file.

        Raises:
            InputError: No such file, or not statistics of this version.
        """
        try:
            with path.open("rb") as stream, NpzFile(stream, allow_pickle=False) as file:
                arrays = {k: file[k] for k in file.files}
            header = json.loads(arrays["header"].tobytes())
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"cannot read the statistics: {error}",
                where=str(path),
                hint="make them with `qcompiler calibrate`",
            ) from error
        if header.get("version") != VERSION:
            raise InputError(
                f"statistics of version {header.get('version')}, expected {VERSION}",
                where=str(path),
                hint="calibrate again with this release",
            )
        histograms = {
            name: Histogram.from_arrays(
                {k.split(".", 1)[1]: v for k, v in arrays.items() if k.startswith(f"{i}.")}
            )
            for i, name in enumerate(header["tensors"])
        }
        return cls(
            header["model_digest"],
            header["source"],
            header["synthetic"],
            header["samples"],
            histograms,
        )


class Sample(NamedTuple):
    """One complete feed and the 32 bytes that identify its content."""

    key: bytes
    feeds: Feeds

    @classmethod
    def of(cls, feeds: Feeds) -> Sample:
        """A sample with the SHA-256 of its names, types, shapes and bytes."""
        digest = hashlib.sha256()
        for name in sorted(feeds):
            array = np.ascontiguousarray(feeds[name])
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            # Memory of types that NumPy does not know itself (ml_dtypes) cannot be lent.
            lent = array.dtype.isbuiltin == 1 and 0 not in array.shape
            digest.update(array.data if lent else array.tobytes())
        return cls(digest.digest(), dict(feeds))

    def drawn(self, share: float) -> bool:
        """Whether this sample belongs to a share of all, 0 to 1; a matter of its content alone."""
        return int.from_bytes(self.key[-8:]) < share * 2.0**64


class Example:
    """Passes samples on and keeps the one with the largest hash, whatever their order."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._samples = samples
        self._kept: Sample | None = None

    @property
    def feeds(self) -> Feeds | None:
        """The sample that was kept; None if there was none."""
        return None if self._kept is None else self._kept.feeds

    def __length_hint__(self) -> int:
        """As of the samples."""
        return length_hint(self._samples, 0)

    def __iter__(self) -> Iterator[Sample]:
        """The samples."""
        for sample in self._samples:
            if self._kept is None or sample.key > self._kept.key:
                self._kept = sample
            yield sample


class Split:
    """Divides a stream into samples to calibrate on and samples held out, in one pass.

    Iterate over it for the former; ``held_out`` is complete afterwards.  The samples with the
    smallest hashes are held out: one in eight, at least one of two, at most ``HELD_OUT``.
    """

    def __init__(self, feeds: Iterable[Feeds]) -> None:
        self._feeds = feeds
        self.held_out: list[Feeds] = []
        self.count = 0

    @property
    def expected(self) -> int | None:
        """How many samples the stream holds, if that is certain before it is read."""
        found = len(self._feeds) if isinstance(self._feeds, Sized) else None
        exact: int | None = getattr(self._feeds, "exact_length", found)
        return exact

    def __length_hint__(self) -> int:
        """Samples to calibrate on, about; 0 if unknown."""
        count = length_hint(self._feeds, 0)
        return count - _held(count)

    def __iter__(self) -> Iterator[Sample]:
        """The samples to calibrate on."""
        heap: list[tuple[bytes, int, Sample]] = []
        for number, feeds in enumerate(self._feeds):
            self.count += 1
            sample = Sample.of(feeds)
            # heapq keeps the least on top; inverted hashes put the largest kept hash there.
            entry = (bytes(255 - b for b in sample.key), -number, sample)
            if len(heap) < HELD_OUT:
                heapq.heappush(heap, entry)
            else:
                yield heapq.heappushpop(heap, entry)[2]
        ranked = [sample for _, _, sample in sorted(heap, reverse=True)]
        kept = _held(self.count)
        self.held_out = [s.feeds for s in ranked[:kept]]
        yield from ranked[kept:]


def _held(count: int) -> int:
    return min(HELD_OUT, max(count // 8, 1)) if count > 1 else 0


def collect(
    model: ModelProto | Path,
    tensors: Mapping[str, Any],
    samples: Iterable[Sample],
    *,
    expected: int | None = None,
    custom_ops: Sequence[Path] = (),
    watched: Collection[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Histogram], int]:
    """Run the samples and count the values of some tensors.

    Args:
        model: The prepared model; a path if its weights lie beside it.
        tensors: Tensor -> its ``numpy`` dtype.
        samples: What to run.
        expected: How many there are, if that is certain: of many samples a share drawn by their
            hashes is binned, while extremes are taken of all.
        custom_ops: Libraries for ONNX Runtime.
        watched: Those of the tensors whose extremes suffice; they are taken of the share alone.
        progress: Called with samples done and expected (0 if unknown).

    Returns:
        Tensor -> histogram, and the number of samples.

    Raises:
        InputError: There are no samples.
        UnsupportedError: ONNX Runtime cannot load the model.
        BackendError: A run failed.
    """
    total = length_hint(samples, 0)
    builders = {name: HistogramBuilder() for name in tensors}
    waiting: dict[str, list[Array]] = {name: [] for name in tensors}
    share = BINNED / expected if expected else 1.0
    probe = _Probe(model, tensors, custom_ops, share, frozenset(watched))
    count = flushed = 0
    for group in probe.groups(samples):
        for name, seen in probe.run(group).items():
            low, high = seen.extremes
            if not low > high:  # of an empty tensor they are the neutral ones
                builders[name].update(_NONE, low, high)
            if seen.sample is not None:
                waiting[name].append(seen.sample)
        count += len(group.feeds)
        if count - flushed >= _FLUSH_EVERY:
            _flush(builders, waiting)
            flushed = count
        progress(count, total)
    _flush(builders, waiting)
    if count == 0:
        raise InputError(
            "the data hold no samples", hint="pass at least one; a few hundred are usual"
        )
    return {name: b.histogram() for name, b in builders.items()}, count


_NONE = np.zeros(0, np.float32)


def _flush(builders: Mapping[str, HistogramBuilder], waiting: dict[str, list[Array]]) -> None:
    for name, parts in waiting.items():
        if parts:
            builders[name].update(np.concatenate(parts))
        parts.clear()


class Group(NamedTuple):
    """Samples that run together, and whether their values are binned."""

    feeds: list[Feeds]
    binned: bool


def _rest(waiting: dict[bool, list[Feeds]]) -> Iterator[Group]:
    for binned, feeds in waiting.items():
        if feeds:
            yield Group(feeds, binned)
        waiting[binned] = []


class _Probe:
    """A session on the instrumented model; opened for the shapes of the first sample.

    While all samples have one shape, that shape is written into the model, strides are constants,
    and a few samples run together if the model keeps them apart.  The first sample of another
    shape reopens the session for single samples of any shape; so does a model that cannot be loaded
    with that shape, because it has a branch for inputs of another one.
    """

    def __init__(
        self,
        model: ModelProto | Path,
        tensors: Mapping[str, Any],
        custom_ops: Sequence[Path],
        share: float,
        watched: frozenset[str],
    ) -> None:
        self._model = model
        self._tensors = tensors
        self._custom_ops = custom_ops
        self._share = share
        self._watched = watched
        self._shapes: dict[str, tuple[int, ...]] | None = None
        self._session: OrtSession | None = None
        self._taps: dict[str, Tap] = {}
        self._batch = 1

    def groups(self, samples: Iterable[Sample]) -> Iterator[Group]:
        """Samples that run together: of the first one's shape, and all binned or none."""
        waiting: dict[bool, list[Feeds]] = {True: [], False: []}
        for sample in samples:
            shapes = {k: tuple(v.shape) for k, v in sample.feeds.items()}
            if self._session is None:
                self._open(shapes)
            if self._shapes is not None and shapes != self._shapes:
                yield from _rest(waiting)
                self._open(None)
            binned = sample.drawn(self._share)
            waiting[binned].append(sample.feeds)
            if len(waiting[binned]) == self._batch:
                yield Group(waiting[binned], binned)
                waiting[binned] = []
        yield from _rest(waiting)

    def run(self, group: Group) -> dict[str, Seen]:
        """Extremes and a sample of every tensor; an incomplete group repeats its first sample."""
        assert self._session is not None
        feeds, count = group.feeds[0], len(group.feeds)
        wanted = {n: o for n, t in self._taps.items() if (o := t.outputs(binned=group.binned))}
        if not wanted:
            return {}
        if self._batch > 1:
            padded = [*group.feeds, *[feeds] * (self._batch - count)]
            feeds = {k: np.concatenate([f[k] for f in padded]) for k in feeds}
        fetch = {o for outputs in wanted.values() for o in outputs}
        out = self._session.run(feeds, sorted(fetch), only_fetched=True)
        real = count if self._batch > 1 else None
        return {name: self._taps[name].read(out, real) for name in wanted}

    def _open(self, shapes: dict[str, tuple[int, ...]] | None) -> None:
        proto = ModelProto()
        if isinstance(self._model, Path):
            proto = onnx.load(self._model, load_external_data=False)
        else:
            proto.CopyFrom(self._model)
        self._shapes, self._batch = shapes, 1
        known: dict[str, tuple[int, ...]] = {}
        if shapes is not None:
            bare = skeleton(proto)
            self._batch = self._group_size(bare, shapes)
            batched = {k: (self._batch * s[0], *s[1:]) if s else s for k, s in shapes.items()}
            known = infer_shapes(bare, batched)
            fix_inputs(proto, batched)
        self._taps = instrument(proto, self._tensors, known, SAMPLE, self._batch, self._watched)
        source: ModelProto | Path = proto
        if isinstance(self._model, Path):
            source = self._model.with_name("probe.onnx")
            source.write_bytes(proto.SerializeToString())
        try:
            self._session = OrtSession(source, level="all", custom_ops=self._custom_ops)
        except UnsupportedError:
            branches = any(protos.graphs_of(a) for n in proto.graph.node for a in n.attribute)
            if shapes is None or not branches:
                raise
            self._open(None)

    def _group_size(self, bare: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """How many samples run together: few if they are large, one if the model mixes them."""
        if not follows_batch(bare, shapes, self._tensors):
            return 1
        known = infer_shapes(bare, shapes)
        elements = sum(math.prod(known[n]) for n in self._tensors if n in known)
        return max(1, min(_GROUP, _GROUP_ELEMENTS // max(elements, 1)))
