"""What stays in float, and what a target's rows say, one rule a test."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import TensorProto, helper

from models import build
from qcompiler import targets
from qcompiler.load import load
from qcompiler.prepare import prepare
from qcompiler.scan import scan
from tests.hand_made import INT8, model, normal, scanned

ONE_CONV = "g (float[1,16,8,8] x) => (float[1,16,8,8] y) { [conv] y = Conv (x, W) }"


# ---------------------------------------------------------------------- shapes that do not pay


@pytest.mark.parametrize(
    ("x", "shape", "reason"),
    [
        ("float[32,15]", (15, 32), "K=15"),
        ("float[32,16]", (16, 15), "N=15"),
        ("float[32,16]", (16, 1), "matrix-vector"),
        ("float[1,64]", (64, 64), "matrix-vector"),
        ("float[1,1,64]", (64, 64), "matrix-vector"),
        ("float[64]", (64, 64), "matrix-vector"),
        ("float[2,64]", (64, 64), ""),
        ("float[N,64]", (64, 64), ""),
        ("float[1,N,64]", (64, 64), ""),
        ("float[32,16]", (16, 16), ""),
    ],
)
def test_d16_small_products_and_vectors_stay_float(
    x: str, shape: tuple[int, ...], reason: str
) -> None:
    dims = x[6:-1].split(",")
    y = f"float[{','.join([*dims[:-1], str(shape[1])])}]"
    points = scanned(f"g ({x} x) => ({y} y) {{ [p] y = MatMul (x, W) }}", W=shape)
    assert bool(points.weights) is (reason == "")
    assert reason in points.skipped.get("p", "")


@pytest.mark.parametrize(("columns", "quantized"), [("1", False), ("2", True), ("N", True)])
def test_d16_a_left_weight_times_a_vector_stays_float(columns: str, quantized: bool) -> None:
    points = scanned(
        f"g (float[32,{columns}] x) => (float[16,{columns}] y) {{ y = MatMul (W, x) }}", W=(16, 32)
    )
    assert bool(points.weights) is quantized


def test_d16_a_left_weight_times_a_tensor_of_rank_one_stays_float() -> None:
    points = scanned("g (float[32] x) => (float[16] y) { y = MatMul (W, x) }", W=(16, 32))
    assert points.weights == ()


@pytest.mark.parametrize(("trans", "rows"), [(0, "1,32"), (1, "32,1")])
def test_d16_gemm_counts_its_rows_after_the_transposition(trans: int, rows: str) -> None:
    text = f"g (float[{rows}] x) => (float[1,16] y) {{ [p] y = Gemm <transA = {trans}> (x, W) }}"
    assert "matrix-vector" in scanned(text, W=(32, 16)).skipped["p"]


# ---------------------------------------------------------------------- targets


def _only(target: str, node: str, **weights: Any) -> tuple[int | None, str]:
    """Axis of the only weight (-1: skipped), and the reason if it is skipped."""
    text = f"g (float[1,32,8,8] x) => (float[a,b,c,d] y) {{ [n] y = {node} }}"
    points = scanned(text, target, **weights)
    return (points.weights[0].storage.axis if points.weights else -1), points.skipped.get("n", "")


@pytest.mark.parametrize(
    ("target", "axis", "reason"),
    [
        ("tensorrt", 0, ""),
        ("onnxruntime", 0, ""),
        ("tensorrt-rtx", -1, "stores its activation fourfold"),
    ],
)
def test_d13_depthwise_convolutions_by_the_row_of_the_target(
    target: str, axis: int, reason: str
) -> None:
    found = _only(target, "Conv <group = 32> (x, W)", W=(32, 1, 3, 3))
    assert found[0] == axis
    assert reason in found[1]


@pytest.mark.parametrize(
    ("target", "group", "axis", "reason"),
    [
        ("tensorrt", 1, None, ""),
        ("tensorrt", 2, -1, "D07"),
        ("tensorrt", 32, -1, "D07"),
        ("tensorrt-rtx", 1, -1, "never runs in INT8"),
        ("onnxruntime", 1, -1, "no integer kernel"),
    ],
)
def test_d07_conv_transpose_by_the_row_of_the_target(
    target: str, group: int, axis: int | None, reason: str
) -> None:
    found = _only(target, f"ConvTranspose <group = {group}> (x, W)", W=(32, 32 // group, 2, 2))
    assert found[0] == axis
    assert reason in found[1]


@pytest.mark.parametrize(("target", "axis"), [("tensorrt", 0), ("tensorrt-rtx", None)])
def test_dense_convolutions_by_the_row_of_the_target(target: str, axis: int | None) -> None:
    assert _only(target, "Conv (x, W)", W=(16, 32, 3, 3)) == (axis, "")


@pytest.mark.parametrize("target", ["tensorrt", "tensorrt-rtx", "onnxruntime"])
@pytest.mark.parametrize(
    ("text", "shape", "axis"),
    [
        ("g (float[4,32] x) => (float[4,48] y) { y = MatMul (x, W) }", (32, 48), 1),
        ("g (float[32,4] x) => (float[48,4] y) { y = MatMul (W, x) }", (48, 32), 0),
        ("g (float[2,4,32] x) => (float[2,4,48] y) { y = MatMul (x, W) }", (2, 32, 48), 2),
        ("g (float[2,32,4] x) => (float[2,48,4] y) { y = MatMul (W, x) }", (2, 48, 32), 1),
        ("g (float[4,32] x) => (float[4,48] y) { y = Gemm (x, W) }", (32, 48), 1),
        ("g (float[4,32] x) => (float[4,48] y) { y = Gemm <transB = 1> (x, W) }", (48, 32), 0),
    ],
)
def test_d06_scales_stand_on_the_output_channels(
    text: str, shape: tuple[int, ...], axis: int, target: str
) -> None:
    (weight,) = scanned(text, target, W=shape).weights
    assert weight.storage.axis == axis


def test_a_weight_read_along_two_axes_has_two_points() -> None:
    points = scanned(
        """g (float[32,32] x) => (float[32,32] y) {
          h = Gemm (x, W)
          y = Gemm <transB = 1> (h, W)
        }""",
        W=(32, 32),
    )
    assert [(w.tensor, w.storage.axis) for w in points.weights] == [("W", 1), ("W", 0)]


MERGED = """g (float[4,32] x) => (float[4,32] q, float[4,32] k, float[4,{last}] v) {{
  {product}
  q, k, v = Split <axis = 1{parts}> ({sizes})
}}"""
PRODUCTS = {
    "matmul": "p = MatMul (x, W)",
    "bias": "m = MatMul (x, W) p = Add (b, m)",
    "gemm": "p = Gemm (x, W, b)",
}


@pytest.mark.parametrize("product", PRODUCTS.values(), ids=PRODUCTS)
@pytest.mark.parametrize(
    ("sizes", "parts", "last", "merged"),
    [
        ("p", ", num_outputs = 3", 32, True),
        ("p, even", "", 32, True),
        ("p, uneven", "", 16, False),
    ],
)
@pytest.mark.parametrize("target", targets.names())
def test_a_merged_projection_has_one_scale_where_the_split_would_move(
    product: str, sizes: str, parts: str, last: int, merged: bool, target: str
) -> None:
    columns = 64 + last
    points = scanned(
        MERGED.format(product=product, sizes=sizes, parts=parts, last=last),
        target,
        W=(32, columns),
        b=(columns,),
        even=np.array([32, 32, 32], np.int64),
        uneven=np.array([32, 32, 16], np.int64),
    )
    (weight,) = points.weights
    one_scale = merged and target != "onnxruntime"
    assert weight.storage.axis == (None if one_scale else 1)


# ---------------------------------------------------------------------- what cannot be quantized


def test_recurrent_operators_and_sub_graphs_are_skipped_with_a_reason() -> None:
    points = scanned(
        """g (float[4,2,32] x, bool c) => (float[4,1,2,8] y, float[4,2,32] z) {
          [lstm] y = LSTM <hidden_size = 8> (x, W, R)
          [branch] z = If (c) <
            then_branch = t () => (float[4,2,32] p) { p = Relu (x) },
            else_branch = e () => (float[4,2,32] q) { q = Neg (x) }
          >
        }""",
        W=(1, 32, 32),
        R=(1, 32, 8),
    )
    assert points.skipped == {
        "lstm": "recurrent operators have no Q/DQ form",
        "branch": "what is in a sub-graph is not quantized",
    }


def test_operators_of_other_domains_are_no_linear_operators() -> None:
    proto = model(ONE_CONV, W=(16, 16, 1, 1))
    proto.graph.node[0].domain = "custom"
    proto.opset_import.add(domain="custom", version=1)
    points = scan(load(proto), INT8, targets.find("tensorrt"))
    assert (points.activations, points.weights, points.skipped) == ((), (), {})


@pytest.mark.parametrize(
    ("dtype", "quantized"),
    [("float", True), ("float16", True), ("bfloat16", False), ("double", False)],
)
def test_b02_float_types(dtype: str, quantized: bool) -> None:
    numpy = {"float": np.float32, "float16": np.float16, "double": np.float64}
    kind = np.dtype(numpy.get(dtype, ml_dtypes.bfloat16))
    points = scanned(
        f"g ({dtype}[4,32] x) => ({dtype}[4,32] y) {{ [p] y = MatMul (x, W) }}",
        W=normal("W", (32, 32), kind),
    )
    if quantized:
        (activation,), (weight,) = points.activations, points.weights
        assert activation.dtype == weight.dtype == str(kind)
    else:
        assert f"its weight is {kind}" in points.skipped["p"]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_b02_a_weight_that_is_not_finite_stays_float(value: float) -> None:
    weight = normal("W", (32, 32))
    weight[3, 4] = value
    points = scanned("g (float[4,32] x) => (float[4,32] y) { [p] y = MatMul (x, W) }", W=weight)
    assert points.skipped == {"p": "its weight holds NaN or infinity"}


@pytest.mark.parametrize("shape", [(32,), (32, 0)])
def test_a_weight_without_output_channels_stays_float(shape: tuple[int, ...]) -> None:
    y = "float[4]" if len(shape) == 1 else "float[4,0]"
    points = scanned(
        f"g (float[4,32] x) => ({y} y) {{ [p] y = MatMul (x, W) }}", W=np.ones(shape, np.float32)
    )
    assert "no output channels" in points.skipped["p"]


def test_a_weight_that_is_an_output_of_the_graph_stays_float() -> None:
    proto = model("g (float[4,32] x) => (float[4,32] y) { [p] y = MatMul (x, W) }", W=(32, 32))
    proto.graph.output.append(helper.make_tensor_value_info("W", TensorProto.FLOAT, [32, 32]))
    points = scan(load(proto), INT8, targets.find("tensorrt"))
    assert points.skipped == {"p": "its weight is an output of the graph"}


def test_a_model_that_is_quantized_already_is_left_alone() -> None:
    prepared, _ = prepare(build.load("int8_already"), targets.find("tensorrt"))
    points = scan(prepared, INT8, targets.find("tensorrt"))
    assert (points.activations, points.weights) == ((), ())
    assert set(points.skipped) == {"/conv1/Conv", "/conv2/Conv"}
    assert all("already quantized" in why for why in points.skipped.values())


def test_b30_a_float_weight_behind_a_dequantized_activation_stays_float() -> None:
    points = scanned(
        """g (float[4,32] x) => (float[4,32] y) <float s = {0.5}, int8 z = {0}> {
          q = QuantizeLinear (x, s, z)
          d = DequantizeLinear (q, s, z)
          [p] y = MatMul (d, W)
        }""",
        W=(32, 32),
    )
    assert points.skipped == {"p": "its activation is already quantized"}
