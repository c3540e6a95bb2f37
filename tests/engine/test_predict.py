"""What is predicted without a build, against real builds and against the documented rules."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import ModelProto

from models import build as models
from qcompiler.engine.build import BuildOptions
from qcompiler.engine.build import build as build_engine
from qcompiler.engine.predict import (
    UNKNOWN,
    PredictedNode,
    PredictedQuantizer,
    Prediction,
    predict,
)
from qcompiler.engine.report import EngineReport
from qcompiler.engine.shapes import Shapes
from qcompiler.engine.target_string import parse
from qcompiler.plan import encode
from tests.compiled import compiled
from tests.hand_made import f32, model

RTX, FULL = parse("tensorrt-rtx-1.7:sm89"), parse("tensorrt-11.4:sm90")
RECIPES = ("int8", "int8+fp16", "fp8+fp16")
ZERO = np.int8(0)
CODES = np.arange(-127, 127, dtype=np.int8)


def _codes(*shape: int) -> Any:
    return np.resize(CODES, shape)


def _graph(text: str, **constants: Any) -> ModelProto:
    """A graph with scales ``s`` and ``ws`` and a zero point ``z``."""
    return model(text, s=f32(0.05), ws=f32(0.01), z=np.asarray(ZERO), **constants)


def _node(found: Prediction, name: str) -> PredictedNode:
    return next(n for n in found.linear if n.node == name)


def _quantizer(found: Prediction, name: str) -> PredictedQuantizer:
    return next(q for q in found.quantizers if q.node == name)


# ---------------------------------------------------------------------- against real builds


@cache
def _built(name: str, recipe: str) -> EngineReport:
    """The report on a real engine of TensorRT for RTX, everything quantized that can be."""
    proto = _model(name, recipe)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(proto, path)
        return build_engine(path, path.with_suffix(".plan"), RTX, options=BuildOptions()).report


@cache
def _predicted(name: str, recipe: str) -> Prediction:
    """What is predicted for the same model and target."""
    return predict(_model(name, recipe), RTX)


def _model(name: str, recipe: str) -> ModelProto:
    return compiled(name, "tensorrt-rtx", recipe, force=True).model()


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", models.names())
def test_precision_of_every_node_is_that_of_the_engine(name: str, recipe: str) -> None:
    real = _built(name, recipe)
    found = _predicted(name, recipe)
    assert [(n.node, n.precision) for n in found.linear] == [
        (n.node, n.precision) for n in real.linear
    ]
    assert [n.quantized for n in found.linear] == [n.quantized for n in real.linear]
    assert found.macs == real.macs
    assert found.low_macs == pytest.approx(real.low_macs)
    assert not found.refused
    assert [q.node for q in found.quantizers] == [q.node for q in real.quantizers]


def test_fates_of_quantizers_agree_with_engines() -> None:
    """Counted over all models: most are right, and no more than one in ten is not."""
    pairs = [
        (q.fate, _quantizer(_predicted(name, recipe), q.node).fate)
        for name in models.names()
        for recipe in RECIPES
        for q in _built(name, recipe).quantizers
    ]
    agree = sum(real == found for real, found in pairs)
    assert len(pairs) > 100
    assert agree >= 0.9 * len(pairs), (agree, len(pairs))


@pytest.mark.parametrize("recipe", ["int8+fp16", "fp8+fp16"])
def test_bytes_by_rule_are_near_those_of_the_demo_engine(recipe: str) -> None:
    real, found = _built("resnet20", recipe), _predicted("resnet20", recipe)
    assert 0.75 < found.bytes_moved / real.bytes_moved < 1.25
    assert found.unsized == 0


# ---------------------------------------------------------------------- what is said


def test_says_that_it_is_predicted_and_what_it_lacks() -> None:
    found = predict(_model("residual", "int8+fp16"), FULL)
    document = msgspec.json.decode(encode(found))
    assert document["predicted"] is True
    assert "nothing was built" in document["statement"]
    assert document["target"] == "tensorrt-11.4:sm90"
    fields = set(EngineReport.__struct_fields__)
    assert set(UNKNOWN) == fields - set(Prediction.__struct_fields__)
    assert set(UNKNOWN).isdisjoint(document)


def test_every_line_has_its_ground() -> None:
    for name in models.names():
        found = predict(compiled(name, "tensorrt", "int8+fp16").model(), FULL)
        lines: list[PredictedNode | PredictedQuantizer] = [*found.linear, *found.quantizers]
        for line in lines:
            assert line.source
            assert line.confidence in ("tried", "documented", "reported")
            assert line.verified or line.confidence != "tried"


def test_two_predictions_are_equal() -> None:
    proto = _model("attention", "int8+fp16")
    assert encode(predict(proto, FULL)) == encode(predict(proto, FULL))


# ---------------------------------------------------------------------- full TensorRT, by its rules

CONV = """g (float[1, 32, 8, 8] x) => (float[1, 32, 8, 8] y) {{
    xq = QuantizeLinear(x, s, z)
    xd = DequantizeLinear(xq, s, z)
    wd = DequantizeLinear{axis}(w, {scale}{zero})
    c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(xd, wd)
    r = {between}(c)
    rq = QuantizeLinear(r, s, z)
    rd = DequantizeLinear(rq, s, z)
    vd = DequantizeLinear(w, ws, z)
    y = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(rd, vd)
}}"""


def _named(proto: ModelProto) -> ModelProto:
    """Every node named by its output."""
    for node in proto.graph.node:
        node.name = node.output[0]
    return proto


def _conv(between: str = "Relu", *, axis: int | None = None) -> Prediction:
    per_channel = axis is not None
    text = CONV.format(
        axis=f"<axis = {axis}>" if per_channel else "",
        scale="cs" if per_channel else "ws",
        zero="" if per_channel else ", z",
        between=between,
    )
    scales = {"cs": np.full(32, 0.01, np.float32)} if per_channel else {}
    return predict(_named(_graph(text, w=_codes(32, 32, 3, 3), **scales)), FULL)


def test_a_quantized_convolution_and_the_q_behind_its_activation() -> None:
    found = _conv(axis=0)
    assert _node(found, "c").precision == "int8"
    assert _node(found, "c").source == "rules D01, D06"
    fate = _quantizer(found, "rq")
    assert (fate.fate, fate.producer, fate.source) == ("folded", "c", "rules D20, D21")
    assert _quantizer(found, "xq").fate == "own"


def test_scales_along_the_wrong_axis() -> None:
    found = _node(_conv(axis=1), "c")
    assert (found.precision, found.source) == ("fp32", "rule D06")
    assert "axis 1" in found.reason


def test_a_pointwise_kernel_between_takes_q_along() -> None:
    assert _quantizer(_conv("HardSwish"), "rq").source == "rules D22, E12"


def test_bytes_of_two_convolutions() -> None:
    # xq: 2048 elements read in 32 bits, written in 8; c with its Relu and rq: codes in and out;
    # y: codes in, floats out. Each weight is 9216 codes; each scale 4 bytes, each zero point 1.
    found, elements, weight = _conv(), 32 * 8 * 8, 32 * 32 * 9
    small = found.bytes_read - (4 + 1 + 1) * elements - 2 * weight
    assert found.bytes_written == (1 + 1 + 4) * elements
    assert 0 < small <= 3 * 3 * 5
    assert found.groups == 3


RESIDUAL = """g (float[1, 32, 8, 8] x) => (float[1, 32, 8, 8] y) {{
    xq = QuantizeLinear(x, s, z)
    xd = DequantizeLinear(xq, s, z)
    wd = DequantizeLinear(w, ws, z)
    c = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(xd, wd)
    a = Add({operands})
    r = Relu(a)
    rq = QuantizeLinear(r, s, z)
    rd = DequantizeLinear(rq, s, z)
    y = Conv<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(rd, wd)
}}"""


@pytest.mark.parametrize(
    ("operands", "fate"),
    [("c, xd", "folded"), ("xd, c", "folded"), ("c, x", "own"), ("x, c", "own")],
)
def test_q_behind_a_residual(operands: str, fate: str) -> None:
    proto = _named(_graph(RESIDUAL.format(operands=operands), w=_codes(32, 32, 3, 3)))
    found = _quantizer(predict(proto, FULL), "rq")
    assert (found.fate, found.producer, found.source) == (fate, "c", "rule E04")


PRODUCT = """g (float[8, 32] x) => (float[8, 32] y) {{
    xq = QuantizeLinear(x, s, z)
    xd = DequantizeLinear(xq, s, z)
    {between}
    wd = DequantizeLinear(w, ws, z)
    y = MatMul({left}, {right})
}}"""


def _product(between: str = "", left: str = "xd", right: str = "wd") -> PredictedNode:
    text = PRODUCT.format(between=between, left=left, right=right)
    proto = _graph(text, w=_codes(32, 32), f=(32, 32), two=f32(2.0))
    return _node(predict(_named(proto), FULL), "y")


def test_one_sided_products_are_float() -> None:
    weight, data = _product(left="x"), _product(right="f")
    assert (weight.precision, weight.reason) == ("fp32", "only the weight is quantized")
    assert (data.precision, data.reason) == ("fp32", "only the activation is quantized")
    assert weight.source == data.source == "rule D01"


def test_what_stands_behind_a_dequantize() -> None:
    firm = _product("h = Sigmoid(xd)", "h")
    assert (firm.precision, firm.source) == ("fp32", "rule D04")
    # The rule says float, and TensorRT for RTX was seen to move the factor: that is not known.
    open_question = _product("h = Mul(xd, two)", "h")
    assert open_question.precision == "unknown"
    assert "stands behind" in open_question.reason


def test_a_base_without_rows_is_unknown() -> None:
    proto = model(
        """g (bfloat16[8, 32] x) => (bfloat16[8, 32] y) {
            xq = QuantizeLinear(x, s, z)
            xd = DequantizeLinear<output_dtype = 16>(xq, t, z)
            wd = DequantizeLinear<output_dtype = 16>(w, t, z)
            y = MatMul(xd, wd)
        }""",
        opset=23,
        s=f32(0.05),
        t=f32(0.05),
        z=np.asarray(ZERO),
        w=_codes(32, 32),
    )
    found = predict(_named(proto), FULL)
    assert _node(found, "y").precision == "unknown"
    assert found.unknown_macs == 1.0


def test_fp8_on_a_card_without_it_is_refused() -> None:
    proto = compiled("mlp", "tensorrt", "fp8+fp16").model()
    old, new = predict(proto, parse("tensorrt-11.4:sm80")), predict(proto, FULL)
    assert {n.precision for n in old.linear if n.quantized} == {"refused"}
    assert old.refused
    assert "fp8" in {n.precision for n in new.linear}
    assert not new.refused


def test_per_channel_fp8_is_an_open_question_where_nothing_was_tried() -> None:
    proto = _model("mlp", "fp8+fp16")  # for TensorRT for RTX, with a scale for each channel
    assert {n.precision for n in predict(proto, RTX).linear if n.quantized} == {"fp8"}
    found = [n for n in predict(proto, FULL).linear if n.quantized]
    assert {n.precision for n in found} == {"unknown"}
    assert {n.source for n in found} == {"rule D09"}


def test_shapes_fix_dynamic_dimensions() -> None:
    proto = _model("resnet20", "int8+fp16")
    free = predict(proto, FULL)
    one, eight = (
        predict(proto, FULL, shapes=Shapes(opt={"input": (batch, 3, 32, 32)})) for batch in (1, 8)
    )
    assert eight.shapes == "input:8x3x32x32"
    assert free.shapes == ""
    assert (free.macs, free.bytes_moved) == (eight.macs, eight.bytes_moved)
    assert one.macs * 8 == eight.macs


def test_attention_of_full_tensorrt_is_one_kernel_in_float16_only() -> None:
    half, single = (
        predict(compiled("attention", "tensorrt", recipe).model(), FULL)
        for recipe in ("fp16", "int8")
    )
    assert {n.source for n in half.linear if n.attention} == {"rule F01"}
    assert not any(n.attention for n in single.linear)
