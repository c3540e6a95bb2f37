"""Points + data + backend -> statistics.

The graph is run as it is, with four small nodes added beside each tensor of interest::

    flat = Reshape(x, [-1]);  ReduceMin(flat), ReduceMax(flat);  Slice(flat, step p)

so that a tensor never leaves the engine: exact extremes and a strided sample of at most a few
thousand elements do.  The stride is a prime, so it does not fall into step with channels.  One
sample runs at a time; statistics are integer counts: neither the order nor the batching of the
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
from onnx import ModelProto, TensorProto, helper

from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.errors import InputError
from qcompiler.observers.histogram import Histogram, HistogramBuilder
from qcompiler.weights import atomic

Array = NDArray[Any]
Feeds = Mapping[str, Array]
VERSION = 1

# At most this many elements of one tensor of one sample are binned; extremes are always exact.
SAMPLE = 4096
# Held-out samples: one in eight, at least one if there are two, at most this many.
HELD_OUT = 16
_PRIMES = np.array(
    [1, 2, 3, 5, 7, 11, 17, 29, 47, 79, 127, 211, 347, 577, 967, 1601, 2677, 4463, 7433, 12377,
     20627, 34403, 57329, 95549, 159233, 265387, 442307, 737179],
    np.int64,
)  # fmt: skip
# Samples of one tensor wait in a buffer, so that counting costs no Python call each.
_FLUSH_EVERY = 16
_PREFIX = "qcompiler."


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
    probe = _Probe(model, tensors, custom_ops)
    waiting: dict[str, list[Array]] = {name: [] for name in tensors}
    count = 0
    for feeds in samples:
        extremes, values = probe.run(feeds)
        for i, name in enumerate(tensors):
            low, high = extremes[2 * i], extremes[2 * i + 1]
            if values[i].size:
                builders[name].update(_EMPTY, float(low), float(high))
            waiting[name].append(values[i])
        count += 1
        if count % _FLUSH_EVERY == 0:
            _flush(builders, waiting)
        progress(count, total)
    _flush(builders, waiting)
    if count == 0:
        raise InputError("the data hold no samples", hint="pass at least one; a few hundred are usual")
    return {name: b.histogram() for name, b in builders.items()}, count


_EMPTY = np.zeros(0, np.float32)


def _flush(builders: Mapping[str, HistogramBuilder], waiting: dict[str, list[Array]]) -> None:
    for name, parts in waiting.items():
        if parts:
            builders[name].update(np.concatenate(parts))
        parts.clear()


class _Probe:
    """A session on the instrumented model; opened for the shapes of the first sample.

    While all samples have one shape, symbolic axes are fixed and strides are constants; the first
    sample of another shape reopens the session with strides computed in the graph.
    """

    def __init__(
        self, model: ModelProto | Path, tensors: Mapping[str, Any], custom_ops: Sequence[Path]
    ) -> None:
        self._model = model
        self._tensors = tensors
        self._custom_ops = custom_ops
        self._shapes: dict[str, tuple[int, ...]] | None = None
        self._session: OrtSession | None = None

    def run(self, feeds: Feeds) -> tuple[Array, list[Array]]:
        shapes = {k: tuple(v.shape) for k, v in feeds.items()}
        if self._session is None or (self._shapes is not None and shapes != self._shapes):
            first = self._session is None
            self._session = self._open(shapes if first else None)
            self._shapes = shapes if first else None
        out = self._session.run(feeds, [_PREFIX + "extremes", *(f"{_PREFIX}{i}" for i in range(len(self._tensors)))])
        values = list(out.values())
        return values[0], values[1:]

    def _open(self, shapes: Mapping[str, tuple[int, ...]] | None) -> OrtSession:
        sizes: dict[str, int] = {}
        if isinstance(self._model, Path):
            proto = onnx.load(self._model, load_external_data=False)
        else:
            proto = ModelProto()
            proto.CopyFrom(self._model)
        if shapes is not None:
            sizes = _fix_inputs(proto, shapes)
        instrument(proto, self._tensors, sizes)
        if isinstance(self._model, Path):
            path = self._model.with_name("probe.onnx")
            path.write_bytes(proto.SerializeToString())
            return OrtSession(path, level="all", custom_ops=self._custom_ops)
        return OrtSession(proto, level="all", custom_ops=self._custom_ops)


def _fix_inputs(proto: ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Write concrete shapes into the inputs; tensor -> number of elements where that fixes it."""
    for value in proto.graph.input:
        if value.name in shapes and value.type.tensor_type.HasField("shape"):
            for dim, size in zip(value.type.tensor_type.shape.dim, shapes[value.name], strict=False):
                dim.dim_value = size
    # Declared shapes inside the graph may name symbols that are now numbers.
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.ClearField("dim_param")
    skeleton = ModelProto()
    skeleton.CopyFrom(proto)
    for tensor in skeleton.graph.initializer:
        if len(tensor.raw_data) > 4096:
            skeleton.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    kept = [t for t in skeleton.graph.initializer if len(t.raw_data) <= 4096]
    del skeleton.graph.initializer[:]
    skeleton.graph.initializer.extend(kept)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    except Exception:  # noqa: BLE001  (inference gives up with bare errors; strides are then computed)
        return {}
    sizes: dict[str, int] = {}
    for value in (*inferred.graph.value_info, *inferred.graph.output, *inferred.graph.input):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            sizes[value.name] = int(np.prod([d.dim_value for d in dims], dtype=np.int64))
    return sizes


def instrument(proto: ModelProto, tensors: Mapping[str, Any], sizes: Mapping[str, int]) -> None:
    """Replace the outputs of a model by extremes and samples of some of its tensors, in place.

    Args:
        proto: The model.
        tensors: Tensor -> dtype; float16 is widened.
        sizes: Tensor -> number of elements, where it is known.
    """
    graph = proto.graph
    del graph.output[:]
    flat_shape, zero, end, axis = (f"{_PREFIX}{n}" for n in ("flat", "zero", "end", "axis"))
    limits = {flat_shape: [-1], zero: [0], end: [np.iinfo(np.int64).max], axis: [0]}
    for name, value in limits.items():
        graph.initializer.append(helper.make_tensor(name, TensorProto.INT64, [1], value))
    graph.initializer.append(helper.make_tensor(f"{_PREFIX}primes", TensorProto.INT64, [len(_PRIMES)], _PRIMES))
    graph.initializer.append(helper.make_tensor(f"{_PREFIX}sample", TensorProto.INT64, [], [SAMPLE]))
    ends: list[str] = []
    for i, (name, dtype) in enumerate(tensors.items()):
        base = f"{_PREFIX}{i}"
        source = name
        if np.dtype(dtype) != np.float32:
            graph.node.append(helper.make_node("Cast", [name], [f"{base}.wide"], to=TensorProto.FLOAT))
            source = f"{base}.wide"
        graph.node.append(helper.make_node("Reshape", [source, flat_shape], [f"{base}.flat"]))
        for op, end_name in (("ReduceMin", f"{base}.min"), ("ReduceMax", f"{base}.max")):
            graph.node.append(helper.make_node(op, [f"{base}.flat"], [end_name], keepdims=1))
            ends.append(end_name)
        step = _stride(graph, base, source, sizes.get(name))
        graph.node.append(helper.make_node("Slice", [f"{base}.flat", zero, end, axis, step], [base]))
        graph.output.append(helper.make_tensor_value_info(base, TensorProto.FLOAT, [None]))
    if ends:
        graph.node.append(helper.make_node("Concat", ends, [f"{_PREFIX}extremes"], axis=0))
        graph.output.append(
            helper.make_tensor_value_info(f"{_PREFIX}extremes", TensorProto.FLOAT, [len(ends)])
        )


def _stride(graph: onnx.GraphProto, base: str, source: str, size: int | None) -> str:
    """The smallest prime stride that leaves at most ``SAMPLE`` elements, constant or computed."""
    step = f"{base}.step"
    if size is not None:
        prime = _PRIMES[min(np.searchsorted(_PRIMES * SAMPLE, size), len(_PRIMES) - 1)]
        graph.initializer.append(helper.make_tensor(step, TensorProto.INT64, [1], [int(prime)]))
        return step
    primes, flat_shape = f"{_PREFIX}primes", f"{_PREFIX}flat"
    nodes = (
        ("Size", [source], "size", {}),
        ("Mul", [primes, f"{_PREFIX}sample"], "reach", {}),
        ("Less", [f"{base}.reach", f"{base}.size"], "less", {}),
        ("Cast", [f"{base}.less"], "ones", {"to": TensorProto.INT64}),
        ("ReduceSum", [f"{base}.ones"], "index", {"keepdims": 0}),
        ("Gather", [primes, f"{base}.index"], "prime", {}),
        ("Reshape", [f"{base}.prime", flat_shape], "step", {}),
    )
    for op, inputs, output, attributes in nodes:
        graph.node.append(helper.make_node(op, inputs, [f"{base}.{output}"], **attributes))
    return step
