"""quantize and dequantize against onnx.reference and ONNX Runtime, bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qcompiler.errors import InputError
from qcompiler.granularity import Granularity, PerAxis, PerBlock, PerTensor
from qcompiler.numerics.quantize import dequantize, fake_quantize, quantize
from qcompiler.spec import QParams, Spec

GRANULARITIES: list[Granularity] = [
    PerTensor(),
    PerAxis(0),
    PerAxis(1),
    PerAxis(-1),
    PerBlock(0, 2),
    PerBlock(1, 3),
]
SPECS = [Spec("int8"), Spec("int8", symmetric=False), Spec("uint8", symmetric=False)]
SHAPE = (4, 6)
Oracle: TypeAlias = Callable[[onnx.ModelProto, NDArray[np.float32]], list[NDArray[Any]]]


def model(spec: Spec, qparams: QParams, shape: tuple[int, ...]) -> onnx.ModelProto:
    """``q, y = QuantizeLinear(x), DequantizeLinear(q)`` with the parameters as initializers."""
    attributes: dict[str, Any] = {}
    granularity = spec.granularity
    if isinstance(granularity, PerAxis | PerBlock):
        attributes["axis"] = granularity.axis
    if isinstance(granularity, PerBlock):
        attributes["block_size"] = granularity.size
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"], **attributes),
            helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"], **attributes),
        ],
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [
            helper.make_tensor_value_info("q", spec.element.onnx_type, shape),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, shape),
        ],
        [
            onnx.numpy_helper.from_array(qparams.scale, "s"),
            onnx.numpy_helper.from_array(qparams.zero_point, "z"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def onnx_runtime(proto: onnx.ModelProto, x: NDArray[np.float32]) -> list[NDArray[Any]]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    outputs: list[NDArray[Any]] = session.run(None, {"x": x})
    return outputs


def onnx_reference(proto: onnx.ModelProto, x: NDArray[np.float32]) -> list[NDArray[Any]]:
    return [np.asarray(output) for output in ReferenceEvaluator(proto).run(None, {"x": x})]


def random_qparams(rng: np.random.Generator, spec: Spec, shape: tuple[int, ...]) -> QParams:
    scale_shape = spec.granularity.scale_shape(shape)
    scale = np.exp2(rng.uniform(-6, 2, scale_shape)).astype(np.float32)
    element = spec.element
    zero = np.zeros(scale_shape, element.dtype)
    if not spec.symmetric:
        zero = rng.integers(int(element.min), int(element.max) + 1, scale_shape)
    return QParams(scale, np.asarray(zero, element.dtype))


def assert_same_bits(found: NDArray[Any], expected: NDArray[Any]) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    # + 0: the sign of a zero is not part of the specification, nor of any kernel's contract
    assert (found + 0).tobytes() == (expected + 0).tobytes()


@pytest.mark.parametrize("oracle", [onnx_runtime, onnx_reference])
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("base", SPECS, ids=["int8", "int8-asymmetric", "uint8"])
def test_bit_equal_to_onnx(oracle: Oracle, granularity: Granularity, base: Spec) -> None:
    spec = Spec(base.format, granularity, base.symmetric)
    rng = np.random.default_rng(7)
    for _ in range(5):
        qparams = random_qparams(rng, spec, SHAPE)
        x = (rng.standard_normal(SHAPE) * np.exp2(rng.uniform(-8, 8, SHAPE))).astype(np.float32)
        codes, values = oracle(model(spec, qparams, SHAPE), x)
        assert_same_bits(quantize(x, qparams, spec), codes)
        assert_same_bits(dequantize(codes, qparams, spec), values)
        assert_same_bits(fake_quantize(x, qparams, spec), values)


@pytest.mark.parametrize("oracle", [onnx_runtime, onnx_reference])
@pytest.mark.parametrize("scale", [1.0, 0.1, 0.0078125, 1 / 3, 3e-5])
@pytest.mark.parametrize("zero", [0, 1, -1, 7, -128, 127])
def test_ties_and_their_neighbours(oracle: Oracle, scale: float, zero: int) -> None:
    """Every tie of every code, and the floats beside it, under even and odd zero points."""
    spec = Spec("int8", symmetric=False)
    qparams = QParams(scale, np.int8(zero))
    ties = ((np.arange(-260, 260) + 0.5) * scale).astype(np.float32)
    x = np.concatenate(
        [ties, np.nextafter(ties, np.float32(9)), np.nextafter(ties, np.float32(-9))]
    )
    codes, values = oracle(model(spec, qparams, x.shape), x)
    assert_same_bits(quantize(x, qparams, spec), codes)
    assert_same_bits(fake_quantize(x, qparams, spec), values)


def test_dividing_is_not_multiplying_by_the_reciprocal() -> None:
    """Some ties in division are not ties in multiplication by the rounded reciprocal."""
    scale = np.float32(0.3)
    multiples = (np.arange(-127, 127, dtype=np.float32) + np.float32(0.5)) * scale
    by_reciprocal = np.rint(multiples * (np.float32(1) / scale))
    codes = quantize(multiples, QParams(scale, np.int8(0)), Spec())
    assert np.array_equal(codes, np.rint(multiples / scale))
    assert (codes != by_reciprocal).any()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 0, 3), (2, 3, 4, 5)])
def test_any_rank_and_empty(shape: tuple[int, ...]) -> None:
    x = np.full(shape, 3.2, np.float32)
    codes = quantize(x, QParams(1.0, np.int8(0)), Spec())
    assert codes.shape == shape
    assert (codes == 3).all()


def test_empty_per_axis() -> None:
    spec = Spec(granularity=PerAxis(0))
    x = np.zeros((0, 3), np.float32)
    assert quantize(x, QParams(np.ones(0), np.zeros(0, np.int8)), spec).shape == (0, 3)


def test_huge_values_saturate() -> None:
    x = np.array([-np.inf, -3e38, 3e38, np.inf], np.float32)
    codes = quantize(x, QParams(1e-30, np.int8(0)), Spec())
    assert codes.tolist() == [-128, -128, 127, 127]


def test_input_is_untouched() -> None:
    x = np.array([0.3, 1.7], np.float32)
    quantize(x, QParams(1.0, np.int8(5)), Spec(symmetric=False))
    codes = np.array([1, 2], np.int8)
    dequantize(codes, QParams(1.0, np.int8(5)), Spec(symmetric=False))
    assert x.tolist() == np.array([0.3, 1.7], np.float32).tolist()
    assert codes.tolist() == [1, 2]


def test_wrong_shapes_and_zero_points_are_refused() -> None:
    x = np.zeros(SHAPE, np.float32)
    with pytest.raises(InputError, match=r"needs a scale of shape \[4\], found \[6\]"):
        quantize(x, QParams(np.ones(6), np.zeros(6, np.int8)), Spec(granularity=PerAxis(0)))
    with pytest.raises(InputError, match=r"scale of shape \[\], found \[1\]"):
        dequantize(x.astype(np.int8), QParams(np.ones(1), np.zeros(1, np.int8)), Spec())
    with pytest.raises(InputError, match="zero point outside int8"):
        quantize(x, QParams(1.0, np.int32(200)), Spec(symmetric=False))
    with pytest.raises(InputError, match="NaN"):
        quantize(np.array([np.nan], np.float32), QParams(1.0, np.int8(0)), Spec())
