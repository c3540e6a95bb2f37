"""Looking at tensors inside a running graph, for little.

A tap adds a few small nodes beside a tensor and fetches only what they give:

* of a feature map ``[N, C, ...]``, which is what a convolution reads, a ``GlobalMaxPool`` for the
  maximum and a ``MaxPool`` with a window of 1 and a stride for the sample: all channels, some
  places. They read the blocked layout in which ONNX Runtime keeps feature maps, where any other
  reader makes it convert the whole tensor first;
* of any other tensor ``[..., C]`` ``ReduceMax`` and every k-th row: some tokens, all channels.
  Transformers keep their outliers in a few channels of a few tokens, so more values are taken;
* ``ReduceMin``, but not after an operator that gives nothing below zero (ReLU, Clip from 0,
  Sigmoid): zero is the lower end of its range whatever was seen;
* a sum or a mean beside each sample: ONNX Runtime's maxima and minima pass over most NaN, sums do
  not.

Of a tensor that is only watched, the extremes leave the engine and nothing else; those of a tensor
in a body come from ``qcompiler/body_taps.py``.

Of a batch, each sample is read at the places where it would be read alone: what is seen of one does
not depend on those it ran with.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from qcompiler import protos
from qcompiler.body_taps import add_extremes, inside

Array = NDArray[Any]
Shape = tuple[int, ...]
_PREFIX = "qcompiler."
# Strides over a flat tensor of unknown shape: primes that no usual number of channels contains.
_PRIMES = np.array(
    [1, 17, 29, 47, 79, 127, 211, 347, 577, 967, 1601, 2677, 4463, 7433, 12377, 20627, 34403, 57329,
     95549, 159233, 265387, 442307, 737179],
    np.int64,
)  # fmt: skip
# Fewer places than this along a side of a feature map would be its border mostly.
_LEAST_PLACES = 2
_SMALL = 4096
_END = int(np.iinfo(np.int64).max)
# Of a tensor that is no feature map so many times more values are taken.
_ROWS = 8
_CONVOLUTIONS = ("Conv", "ConvTranspose")


class Seen(NamedTuple):
    """What a tap saw of one tensor in one run: exact extremes, and some values (float32 [n])."""

    extremes: tuple[float, float]
    sample: Array | None


@dataclass(frozen=True)
class Tap:
    """The outputs that one tensor's tap adds.

    Attributes:
        sample: Output with the sample; empty if the tensor is only watched.
        maximum: Output with the maximum.
        minimum: Output with the minimum; empty where zero bounds it.
        total: Output with the sum or mean, which is NaN if any value is; empty if it is only
            watched.
        channels: Which part of the maxima and means of all feature maps is this tensor's; None if
            it has outputs of its own.
    """

    sample: str
    maximum: str
    minimum: str
    total: str
    channels: slice | None = None

    def outputs(self, *, binned: bool) -> tuple[str, ...]:
        """What to fetch: with the sample, or extremes alone; of a watched one they are binned."""
        if not self.sample and not binned:
            return ()
        extra = (self.sample, self.total) if binned else ()
        return tuple(filter(None, (*extra, self.maximum, self.minimum)))

    def read(self, outputs: Mapping[str, Array], samples: int | None = None) -> Seen:
        """Pick this tensor's values from the outputs of a run.

        Args:
            outputs: Of the run.
            samples: How many entries of a padded batch are real; all without it.

        Returns:
            Extremes and values; an empty tensor has the neutral extremes, a tensor that zero bounds
            from below has zero, and one with a NaN has NaN.
        """
        high = float(self._part(outputs[self.maximum]).max())
        low = float(outputs[self.minimum]) if self.minimum else 0.0
        found = outputs.get(self.sample)
        if found is None:
            return Seen((low, high), None)
        if np.isnan(self._part(outputs[self.total])).any():
            high = np.nan
        return Seen((low, high), found[:samples].reshape(-1))

    def _part(self, joined: Array) -> Array:
        return joined if self.channels is None else joined[:, self.channels]


def instrument(
    proto: ModelProto,
    tensors: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    size: int,
    batch: int = 1,
    watched: Collection[str] = (),
) -> dict[str, Tap]:
    """Replace the outputs of a model by taps on some of its tensors, in place.

    Args:
        proto: The model.
        tensors: Tensor -> dtype; float16 is widened.
        shapes: Tensor -> shape, where it is known.
        size: Elements wanted of each sample of a feature map; eight times as many of others.
        batch: Samples in a run; more than one needs every shape, with the batch first.
        watched: Those of which only the extremes are wanted; tensors in bodies must be.

    Returns:
        Tensor -> tap.
    """
    graph = proto.graph
    inner = add_extremes(graph, inside(graph).intersection(watched))
    del graph.output[:]
    producers = {o: n for n in graph.node for o in n.output}
    maps = {i for n in graph.node if n.op_type in _CONVOLUTIONS for i in n.input[:1]}
    constants = {t.name: t for t in graph.initializer}
    build = _Builder(graph, size, batch)
    taps: dict[str, Tap] = {}
    for number, (name, dtype) in enumerate(tensors.items()):
        if name in inner:
            taps[name] = build.inner(*inner[name])
            continue
        bounded = _never_negative(producers.get(name), constants)
        tensor = Tapped(name, np.dtype(dtype), shapes.get(name), name in maps, bounded)
        make = build.watch if name in watched else build.tap
        taps[name] = make(number, tensor)
    build.finish()
    return taps


def _never_negative(node: NodeProto | None, constants: Mapping[str, TensorProto]) -> bool:
    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Clip" and len(node.input) > 1 and node.input[1] in constants:
        return bool(onnx.numpy_helper.to_array(constants[node.input[1]]) >= 0)
    return node.op_type in ("Relu", "Sigmoid", "HardSigmoid", "Softmax")


class Tapped(NamedTuple):
    """What is known of a tensor to tap: ``shape`` None if unknown, ``bounded`` by zero below."""

    name: str
    dtype: np.dtype[Any]
    shape: Shape | None
    is_map: bool
    bounded: bool


class _Builder:
    """Adds nodes and outputs to a graph."""

    def __init__(self, graph: onnx.GraphProto, size: int, batch: int) -> None:
        self._graph = graph
        self._size = size
        self._batch = batch
        self._pooled: dict[str, list[str]] = {}
        self._channels: dict[int, int] = {}

    def watch(self, number: int, tensor: Tapped) -> Tap:
        """Add the nodes and outputs of a tap that sees the extremes only."""
        base = f"{_PREFIX}{number}"
        source, minimum = self._source(base, tensor)
        self._node("ReduceMax", [source], f"{base}.max", {"keepdims": 0})
        self._output(f"{base}.max")
        return Tap("", f"{base}.max", minimum, "")

    def inner(self, maximum: str, minimum: str) -> Tap:
        """Let the extremes that a body gives leave the engine."""
        self._output(maximum)
        self._output(minimum)
        return Tap("", maximum, minimum, "")

    def _source(self, base: str, tensor: Tapped) -> tuple[str, str]:
        """The tensor in float32, and the output with its minimum, if it has one."""
        source, minimum = tensor.name, ""
        if tensor.dtype != np.float32:
            source = f"{base}.wide"
            self._node("Cast", [tensor.name], source, {"to": TensorProto.FLOAT})
        if not tensor.bounded:
            minimum = f"{base}.min"
            self._node("ReduceMin", [source], minimum, {"keepdims": 0})
            self._output(minimum)
        return source, minimum

    def tap(self, number: int, tensor: Tapped) -> Tap:
        """Add the nodes and outputs of one tap."""
        base, shape = f"{_PREFIX}{number}", tensor.shape
        source, minimum = self._source(base, tensor)
        self._output(base)
        if tensor.is_map and shape is not None and len(shape) >= 3 and 0 not in shape:
            channels = self._pools(base, source, shape)
            return Tap(
                base,
                f"{_PREFIX}maxima{len(shape)}",
                minimum,
                f"{_PREFIX}means{len(shape)}",
                channels,
            )
        for op, output in (("ReduceMax", f"{base}.max"), ("ReduceSum", f"{base}.sum")):
            self._node(op, [source], output, {"keepdims": 0})
            self._output(output)
        if shape and 0 not in shape:
            self._rows(base, source, shape)
        else:
            self._flat(base, source)
        return Tap(base, f"{base}.max", minimum, f"{base}.sum")

    def finish(self) -> None:
        """Join what is known of all feature maps: one conversion of the layout instead of many."""
        for kind, parts in self._pooled.items():
            self._node("Concat", parts, f"{_PREFIX}{kind}", {"axis": 1})
            self._output(f"{_PREFIX}{kind}")

    def _output(self, name: str) -> None:
        self._graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))

    def _pools(self, base: str, source: str, shape: Shape) -> slice:
        rank = len(shape)
        for kind, op in (("maxima", "GlobalMaxPool"), ("means", "GlobalAveragePool")):
            self._node(op, [source], f"{base}.{kind}")
            self._pooled.setdefault(f"{kind}{rank}", []).append(f"{base}.{kind}")
        stride = pool_stride(shape[1:], self._size)
        window = {"kernel_shape": [1] * (rank - 2), "strides": [stride] * (rank - 2)}
        self._node("MaxPool", [source], base, window)
        first = self._channels.get(rank, 0)
        self._channels[rank] = first + shape[1]
        return slice(first, first + shape[1])

    def _rows(self, base: str, source: str, shape: Shape) -> None:
        """Every k-th row of ``[batch, rows, C]``; of very long rows every p-th value."""
        width = shape[-1] if len(shape) > 1 else 1
        rows = math.prod(shape) // (self._batch * width)
        wanted = self._size * _ROWS
        thin = min(int(np.searchsorted(_PRIMES * wanted, width)), len(_PRIMES) - 1)
        values = {
            "rows": [self._batch, rows, width],
            "step": [-(-rows // max(1, wanted // width)), int(_PRIMES[thin])],
            "zero": [0, 0],
            "end": [_END, _END],
            "axis": [1, 2],
        }
        for key, value in values.items():
            self._constant(f"{base}.{key}", value)
        self._node("Reshape", [source, f"{base}.rows"], f"{base}.view")
        slots = [f"{base}.{key}" for key in ("view", "zero", "end", "axis", "step")]
        self._node("Slice", slots, base)

    def _flat(self, base: str, source: str) -> None:
        """Every p-th value, p a prime that the size of the tensor decides at run time."""
        reach = _PRIMES * self._size * _ROWS
        values = {
            "flat": [-1],
            "primes": list(_PRIMES),
            "reach": list(reach),
            "zero": [0],
            "end": [_END],
            "axis": [0],
        }
        for key, value in values.items():
            self._constant(f"{base}.{key}", value)
        self._node("Reshape", [source, f"{base}.flat"], f"{base}.view")
        self._node("Size", [source], f"{base}.size")
        self._node("Less", [f"{base}.reach", f"{base}.size"], f"{base}.less")
        self._node("Cast", [f"{base}.less"], f"{base}.ones", {"to": TensorProto.INT64})
        self._node("ReduceSum", [f"{base}.ones"], f"{base}.place", {"keepdims": 1})
        self._node("Gather", [f"{base}.primes", f"{base}.place"], f"{base}.step")
        slots = [f"{base}.{key}" for key in ("view", "zero", "end", "axis", "step")]
        self._node("Slice", slots, base)

    def _constant(self, name: str, values: list[int]) -> None:
        self._graph.initializer.append(
            helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        )

    def _node(
        self, op: str, inputs: list[str], output: str, attrs: Mapping[str, Any] | None = None
    ) -> None:
        self._graph.node.append(helper.make_node(op, inputs, [output], **(attrs or {})))


def pool_stride(shape: Shape, size: int) -> int:
    """The stride that leaves about ``size`` elements of ``[C, ...]``, but two a side at least."""
    channels, *sides = shape
    stride = 1
    while (
        channels * math.prod(-(-side // stride) for side in sides) > size
        and -(-min(sides) // (stride + 1)) >= _LEAST_PLACES
    ):
        stride += 1
    return stride


def follows_batch(bare: ModelProto, feeds: Mapping[str, Shape], tensors: Iterable[str]) -> bool:
    """Whether all these tensors and all outputs have one entry a sample along their first axis.

    Shapes are inferred for two and for three samples: an axis that is the batch follows, every
    other one stays.  A model that folds the batch into another axis, or was exported for one
    sample, fails the test.

    Args:
        bare: Skeleton of the model.
        feeds: Input -> shape for one sample.
        tensors: Tensors that must follow.
    """
    if not all(s and s[0] == 1 for s in feeds.values()):
        return False
    found: list[dict[str, Shape]] = []
    for batch in (2, 3):
        found.append(infer_shapes(bare, {k: (batch, *s[1:]) for k, s in feeds.items()}))
    two, three = found
    wanted = [*tensors, *(o.name for o in bare.graph.output)]
    return all(
        n in two and n in three and two[n][:1] == (2,) and three[n] == (3, *two[n][1:])
        for n in wanted
    )


def skeleton(proto: ModelProto) -> ModelProto:
    """A model without its large constants, which become inputs: enough for shape inference."""
    out = protos.shell(proto)
    out.graph.node.extend(proto.graph.node)
    out.graph.input.extend(proto.graph.input)
    out.graph.output.extend(proto.graph.output)
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) > _SMALL or tensor.data_location == TensorProto.EXTERNAL:
            declared = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            out.graph.input.append(declared)
        else:
            out.graph.initializer.append(tensor)
    return out


def fix_inputs(proto: ModelProto, feeds: Mapping[str, Shape]) -> None:
    """Write concrete shapes into the inputs of a model, in place."""
    for value in proto.graph.input:
        if value.name in feeds and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            for dim, length in zip(dims, feeds[value.name], strict=False):
                dim.dim_value = length
    # Declared shapes inside the graph may name symbols that are numbers now.
    del proto.graph.value_info[:]


def infer_shapes(bare: ModelProto, feeds: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shapes of a model's tensors for given input shapes.

    Args:
        bare: Skeleton of the model.
        feeds: Input -> shape.

    Returns:
        Tensor -> shape, where every dimension is known.
    """
    trial = ModelProto()
    trial.CopyFrom(bare)
    fix_inputs(trial, feeds)
    del trial.graph.output[:]
    for output in bare.graph.output:
        trial.graph.output.add(name=output.name)
    try:
        inferred = onnx.shape_inference.infer_shapes(trial, data_prop=True).graph
    except Exception:  # noqa: BLE001  (inference gives up with bare errors; taps then measure)
        return {}
    shapes: dict[str, Shape] = {}
    for value in (*inferred.value_info, *inferred.output, *inferred.input):
        declared = value.type.tensor_type
        dims = declared.shape.dim
        if declared.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    return shapes
