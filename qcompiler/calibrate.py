"""Points + data + backend -> statistics.

The graph is run as it is, with taps beside the tensors of interest (``qcompiler.taps``): exact
extremes and a sample of a few thousand elements leave the engine, the tensor itself does not.  One
sample runs at a time, and statistics are integer counts: neither the order nor the batching of the
samples changes a bit of the result.

Some samples are held out for verification: those with the smallest hashes of their bytes.  That
choice, too, does not depend on order, and needs one pass over a stream of unknown length.
"""

from __future__ import annotations

import hashlib
import heapq
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.errors import InputError
from qcompiler.observers.histogram import Histogram, HistogramBuilder
from qcompiler.taps import Seen, Tap, fix_shapes, instrument
from qcompiler.weights import atomic

Array = NDArray[Any]
Feeds = Mapping[str, Array]
VERSION = 1

# At most this many elements of one tensor of one sample are binned; extremes are always exact.
SAMPLE = 2048
# Held-out samples: one in eight, at least one if there are two, at most this many.
HELD_OUT = 16
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
        histograms: Tensor -> histogram of its values.
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
            with np.load(path, allow_pickle=False) as file:
                arrays = {k: file[k] for k in file.files}
            header = json.loads(arrays["header"].tobytes())
        except (OSError, KeyError, ValueError) as error:
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


def sample_hash(feeds: Feeds) -> bytes:
    """Sixteen bytes that identify a sample by its content."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(feeds):
        array = np.ascontiguousarray(feeds[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.digest()


class Split:
    """Divides a stream into samples to calibrate on and samples held out, in one pass.

    Iterate over it for the former; ``held_out`` is complete afterwards.  The samples with the
    smallest hashes are held out: one in eight, at least one of two, at most ``HELD_OUT``.
    """

    def __init__(self, samples: Iterable[Feeds]) -> None:
        self._samples = samples
        self.held_out: list[Feeds] = []
        self.count = 0

    def __iter__(self) -> Iterator[Feeds]:
        heap: list[tuple[bytes, int, Feeds]] = []
        for number, feeds in enumerate(self._samples):
            self.count += 1
            # heapq keeps the least on top; inverted hashes put the largest kept hash there.
            key = bytes(255 - b for b in sample_hash(feeds))
            entry = (key, -number, dict(feeds))
            if len(heap) < HELD_OUT:
                heapq.heappush(heap, entry)
            else:
                yield heapq.heappushpop(heap, entry)[2]
        kept = min(HELD_OUT, max(self.count // 8, 1)) if self.count > 1 else 0
        ranked = sorted(heap, reverse=True)
        self.held_out = [feeds for _, _, feeds in ranked[:kept]]
        for _, _, feeds in ranked[kept:]:
            yield feeds


def collect(
    model: ModelProto | Path,
    tensors: Mapping[str, Any],
    samples: Iterable[Feeds],
    *,
    custom_ops: Sequence[Path] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Histogram], int]:
    """Run the samples and count the values of some tensors.

    Args:
        model: The prepared model; a path if its weights lie beside it.
        tensors: Tensor -> its ``numpy`` dtype.
        samples: Feeds, one sample each.
        custom_ops: Libraries for ONNX Runtime.
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
    probe = _Probe(model, tensors, custom_ops)
    count = 0
    for feeds in samples:
        for name, seen in probe.run(feeds).items():
            builders[name].update(_NONE, *seen.extremes)
            waiting[name].append(seen.sample)
        count += 1
        if count % _FLUSH_EVERY == 0:
            _flush(builders, waiting)
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


class _Probe:
    """A session on the instrumented model; opened for the shapes of the first sample.

    While all samples have one shape, that shape is written into the model and strides are
    constants; the first sample of another shape reopens the session with strides computed in the
    graph.
    """

    def __init__(
        self, model: ModelProto | Path, tensors: Mapping[str, Any], custom_ops: Sequence[Path]
    ) -> None:
        self._model = model
        self._tensors = tensors
        self._custom_ops = custom_ops
        self._shapes: dict[str, tuple[int, ...]] | None = None
        self._session: OrtSession | None = None
        self._taps: dict[str, Tap] = {}

    def run(self, feeds: Feeds) -> dict[str, Seen]:
        """Extremes and a sample of every tensor for one feed."""
        shapes = {k: tuple(v.shape) for k, v in feeds.items()}
        if self._session is None or self._shapes not in (None, shapes):
            self._shapes = shapes if self._session is None else None
            self._open()
        assert self._session is not None
        out = self._session.run(feeds)
        return {name: tap.read(out) for name, tap in self._taps.items()}

    def _open(self) -> None:
        proto = ModelProto()
        if isinstance(self._model, Path):
            proto = onnx.load(self._model, load_external_data=False)
        else:
            proto.CopyFrom(self._model)
        known = fix_shapes(proto, self._shapes) if self._shapes is not None else {}
        self._taps = instrument(proto, self._tensors, known, SAMPLE)
        source: ModelProto | Path = proto
        if isinstance(self._model, Path):
            source = self._model.with_name("probe.onnx")
            source.write_bytes(proto.SerializeToString())
        self._session = OrtSession(source, level="all", custom_ops=self._custom_ops)
