"""Looking at tensors inside a running graph, for little.

A tap adds a few small nodes beside a tensor and fetches only what they give:

* of any tensor ``ReduceMin``, ``ReduceMax`` and a strided ``Slice`` of the flattened values, whose
  prime stride does not fall into step with channels;
* of a feature map ``[N, C, H, W]`` a ``GlobalMaxPool`` for the maximum and a ``MaxPool`` with a
  1x1 window and a stride for the sample.  They read the blocked layout in which ONNX Runtime keeps
  feature maps, where any other reader makes it convert the whole tensor first;
* no minimum after an operator that gives none below zero (ReLU, Clip from 0, Sigmoid): zero is the
  lower end of its range whatever was seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

Array = NDArray[Any]
Shape = tuple[int, ...]
_PREFIX = "qcompiler."
_PRIMES = np.array(
    [1, 2, 3, 5, 7, 11, 17, 29, 47, 79, 127, 211, 347, 577, 967, 1601, 2677, 4463, 7433, 12377,
     20627, 34403, 57329, 95549, 159233, 265387, 442307, 737179],
    np.int64,
)  # fmt: skip
# Fewer places than this along a side of a feature map would be its border mostly.
_LEAST_PLACES = 3
_SMALL = 4096


class Seen(NamedTuple):
    """What a tap saw of one tensor in one run: exact extremes, and some values (float32 [n])."""

    extremes: tuple[float, float]
    sample: Array


@dataclass(frozen=True)
class Tap:
    """The outputs that one tensor's tap adds.

    Attributes:
        sample: Output with the sample.
        maximum: Output with the maximum, or one per channel.
        minimum: Output with the minimum; empty where zero bounds it.
    """

    sample: str
    maximum: str
    minimum: str

    def read(self, outputs: Mapping[str, Array]) -> Seen:
        """Pick this tensor's values from the outputs of a run.

        An empty tensor has the neutral extremes.
        """
        sample = outputs[self.sample].reshape(-1)
        if not sample.size:
            return Seen((np.inf, -np.inf), sample)
        high = float(outputs[self.maximum].max())
        low = float(outputs[self.minimum]) if self.minimum else float(sample.min())
        return Seen((low, high), sample)


def instrument(
    proto: ModelProto, tensors: Mapping[str, Any], shapes: Mapping[str, Shape], size: int
) -> dict[str, Tap]:
    """Replace the outputs of a model by taps on some of its tensors, in place.

    Args:
        proto: The model.
        tensors: Tensor -> dtype; float16 is widened.
        shapes: Tensor -> shape, where it is known.
        size: Elements wanted in a sample.

    Returns:
        Tensor -> tap.
    """
    graph = proto.graph
    del graph.output[:]
    producers = {o: n for n in graph.node for o in n.output}
    constants = {t.name: t for t in graph.initializer}
    build = _Builder(graph, size)
    taps: dict[str, Tap] = {}
    for number, (name, dtype) in enumerate(tensors.items()):
        bounded = _never_negative(producers.get(name), constants)
        taps[name] = build.tap(number, name, np.dtype(dtype), shapes.get(name), bounded=bounded)
    return taps


def _never_negative(node: NodeProto | None, constants: Mapping[str, TensorProto]) -> bool:
    if node is None or node.domain not in ("", "ai.onnx"):
        return False
    if node.op_type == "Clip" and len(node.input) > 1 and node.input[1] in constants:
        return bool(onnx.numpy_helper.to_array(constants[node.input[1]]) >= 0)
    return node.op_type in ("Relu", "Sigmoid", "HardSigmoid", "Softmax")


class _Builder:
    """Adds nodes and outputs to a graph."""

    def __init__(self, graph: onnx.GraphProto, size: int) -> None:
        self._graph = graph
        self._size = size
        self._shared = False

    def tap(
        self, number: int, name: str, dtype: np.dtype[Any], shape: Shape | None, *, bounded: bool
    ) -> Tap:
        base, source = f"{_PREFIX}{number}", name
        if dtype != np.float32:
            source = f"{base}.wide"
            self._node("Cast", [name], source, to=TensorProto.FLOAT)
        if shape is not None and len(shape) == 4 and 0 not in shape:
            self._pools(base, source, shape)
        else:
            self._node("ReduceMax", [source], f"{base}.max", keepdims=0)
            self._slice(base, source, shape)
        if not bounded:
            self._node("ReduceMin", [source], f"{base}.min", keepdims=0)
        minimum = "" if bounded else f"{base}.min"
        for output in filter(None, (base, f"{base}.max", minimum)):
            self._graph.output.append(
                helper.make_tensor_value_info(output, TensorProto.FLOAT, None)
            )
        return Tap(base, f"{base}.max", minimum)

    def _pools(self, base: str, source: str, shape: Shape) -> None:
        self._node("GlobalMaxPool", [source], f"{base}.max")
        stride = pool_stride(shape, self._size)
        self._node("MaxPool", [source], base, kernel_shape=[1, 1], strides=[stride, stride])

    def _slice(self, base: str, source: str, shape: Shape | None) -> None:
        flat, zero, end, axis, primes = (
            f"{_PREFIX}{n}" for n in ("flat", "zero", "end", "axis", "primes")
        )
        if not self._shared:
            self._shared = True
            limits = {flat: [-1], zero: [0], end: [np.iinfo(np.int64).max], axis: [0]}
            for key, value in limits.items():
                self._constant(key, value)
            self._constant(primes, list(_PRIMES))
            self._constant(f"{_PREFIX}reach", list(_PRIMES * self._size))
        self._node("Reshape", [source, flat], f"{base}.flat")
        step = f"{base}.step"
        if shape is not None:
            count = int(np.prod(shape, dtype=np.int64))
            place = min(int(np.searchsorted(_PRIMES * self._size, count)), len(_PRIMES) - 1)
            self._constant(step, [int(_PRIMES[place])])
        else:
            self._node("Size", [source], f"{base}.size")
            self._node("Less", [f"{_PREFIX}reach", f"{base}.size"], f"{base}.less")
            self._node("Cast", [f"{base}.less"], f"{base}.ones", to=TensorProto.INT64)
            self._node("ReduceSum", [f"{base}.ones"], f"{base}.place", keepdims=1)
            self._node("Gather", [primes, f"{base}.place"], step)
        self._node("Slice", [f"{base}.flat", zero, end, axis, step], base)

    def _constant(self, name: str, values: list[int]) -> None:
        self._graph.initializer.append(
            helper.make_tensor(name, TensorProto.INT64, [len(values)], values)
        )

    def _node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        self._graph.node.append(helper.make_node(op, inputs, [output], **attributes))


def pool_stride(shape: Shape, size: int) -> int:
    """The stride that leaves about ``size`` elements of ``[N, C, H, W]``, but three a side at least."""
    batch, channels, height, width = shape
    stride = 1
    while (
        batch * channels * -(-height // stride) * -(-width // stride) > size
        and -(-min(height, width) // (stride + 1)) >= _LEAST_PLACES
    ):
        stride += 1
    return stride


def fix_shapes(proto: ModelProto, feeds: Mapping[str, Shape]) -> dict[str, Shape]:
    """Write concrete input shapes into a model, and infer as many others as they fix.

    Args:
        proto: The model, changed in place.
        feeds: Input -> shape.

    Returns:
        Tensor -> shape, where every dimension is known.
    """
    for value in proto.graph.input:
        if value.name in feeds and value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            for dim, length in zip(dims, feeds[value.name], strict=False):
                dim.dim_value = length
    # Declared shapes inside the graph may name symbols that are numbers now.
    del proto.graph.value_info[:]
    skeleton = ModelProto()
    skeleton.CopyFrom(proto)
    del skeleton.graph.initializer[:], skeleton.graph.output[:]
    for tensor in proto.graph.initializer:
        if len(tensor.raw_data) > _SMALL or tensor.data_location == TensorProto.EXTERNAL:
            declared = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            skeleton.graph.input.append(declared)
        else:
            skeleton.graph.initializer.append(tensor)
    for output in proto.graph.output:
        skeleton.graph.output.add(name=output.name)
    try:
        inferred = onnx.shape_inference.infer_shapes(skeleton, data_prop=True).graph
    except Exception:  # noqa: BLE001  (inference gives up with bare errors; taps then measure)
        return {}
    shapes: dict[str, Shape] = {}
    for value in (*inferred.value_info, *inferred.output, *inferred.input):
        declared_type = value.type.tensor_type
        dims = declared_type.shape.dim
        if declared_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    return shapes
