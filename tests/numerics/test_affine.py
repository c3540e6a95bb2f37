"""From a range to a scale and a zero point."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from qcompiler.errors import InputError
from qcompiler.granularity import PerAxis
from qcompiler.numerics.affine import SAFE_SCALE, Range, affine, to_qparams
from qcompiler.numerics.quantize import fake_quantize, quantize
from qcompiler.spec import Spec

INT8 = Spec()
UINT8 = Spec("uint8", symmetric=False)
INT8_ASYMMETRIC = Spec("int8", symmetric=False)


def test_symmetric_uses_the_larger_magnitude() -> None:
    for lo, hi in ((-127.0, 3.0), (-3.0, 127.0), (-127.0, 127.0), (127.0, 127.0)):
        qparams = to_qparams(Range(lo, hi), INT8)
        assert qparams.scale == 1.0
        assert qparams.zero_point == 0
        assert qparams.scale.shape == qparams.zero_point.shape == ()
        assert qparams.zero_point.dtype == np.int8


@pytest.mark.parametrize(
    ("lo", "hi", "spec", "scale", "zero"),
    [
        (0.0, 255.0, UINT8, 1.0, 0),
        (-255.0, 0.0, UINT8, 1.0, 255),
        (-100.0, 155.0, UINT8, 1.0, 100),
        (51.0, 255.0, UINT8, 1.0, 0),  # widened to hold zero
        (-255.0, -51.0, UINT8, 1.0, 255),
        (0.0, 255.0, INT8_ASYMMETRIC, 1.0, -128),
        (-128.0, 127.0, INT8_ASYMMETRIC, 1.0, 0),
        (-12.5, 242.5, UINT8, 1.0, 12),  # tie to even
    ],
)
def test_asymmetric(lo: float, hi: float, spec: Spec, scale: float, zero: int) -> None:
    qparams = to_qparams(Range(lo, hi), spec)
    assert (float(qparams.scale), int(qparams.zero_point)) == (scale, zero)
    assert qparams.zero_point.dtype == spec.element.dtype
    assert fake_quantize(np.zeros(1), qparams, spec) == 0.0


def test_uint8_agrees_with_onnx_dynamic_quantize_linear() -> None:
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    graph = helper.make_graph(
        [node],
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None])],
        [
            helper.make_tensor_value_info("s", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("z", TensorProto.UINT8, []),
        ],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    onnx.checker.check_model(proto)
    reference = ReferenceEvaluator(proto)
    rng = np.random.default_rng(5)
    for _ in range(50):
        x = (rng.standard_normal(8) * np.exp2(rng.uniform(-9, 9))).astype(np.float32)
        scale, zero = reference.run(None, {"x": x})
        qparams = to_qparams(Range(float(x.min()), float(x.max())), UINT8)
        # The standard computes hi - lo and the quotient in float32, this package in float64:
        # two roundings of 2**-24 each. The zero point may then differ where it is next to a tie.
        assert qparams.scale == pytest.approx(scale, rel=2**-22)
        exact = -min(float(x.min()), 0.0) / float(scale)
        if abs(exact % 1 - 0.5) > 2**-14:
            assert qparams.zero_point == zero


@pytest.mark.parametrize("spec", [INT8, UINT8, INT8_ASYMMETRIC])
@pytest.mark.parametrize("extent", [0.0, 1e-45, 1e-38])
def test_degenerate_range_has_a_safe_scale(spec: Spec, extent: float) -> None:
    qparams = to_qparams(Range(-extent, extent), spec)
    assert qparams.scale == SAFE_SCALE
    assert (fake_quantize(np.array([-extent, 0.0, extent]), qparams, spec) == 0).all()


@pytest.mark.parametrize("spec", [INT8, UINT8])
def test_widest_range_is_finite(spec: Spec) -> None:
    largest = float(np.finfo(np.float32).max)
    qparams = to_qparams(Range(-largest, largest), spec)
    codes = quantize(np.array([-largest, largest], np.float32), qparams, spec)
    assert int(codes[1]) - int(codes[0]) >= 254


def test_many_at_once_are_each_alone() -> None:
    rng = np.random.default_rng(2)
    lo, hi = -rng.random(40), rng.random(40)
    for spec in (INT8, UINT8):
        scale, zero = affine(lo, hi, spec)
        for i in range(40):
            alone = to_qparams(Range(lo[i], hi[i]), spec)
            assert (alone.scale, alone.zero_point) == (scale[i], zero[i])


def test_refusals() -> None:
    for lo, hi in ((1.0, -1.0), (np.nan, 1.0), (0.0, np.inf)):
        with pytest.raises(InputError, match="not a range"):
            Range(lo, hi)
    with pytest.raises(InputError, match="one range gives one scale"):
        to_qparams(Range(0, 1), Spec(granularity=PerAxis(0)))
