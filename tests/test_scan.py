"""Placement, one rule a test."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from models import build
from qcompiler import driver, ops, targets
from qcompiler.graph import label
from qcompiler.load import load
from qcompiler.plan import Slot
from qcompiler.recipe import Recipe, Rule
from qcompiler.scan import model_digest, scan
from tests.hand_made import INT8, by_tensor, f32, graph, model, nodes, normal, scanned, table

ONE_CONV = "g (float[1,16,8,8] x) => (float[1,16,8,8] y) { [conv] y = Conv (x, W) }"


# ---------------------------------------------------------------------- operands


def test_d01_both_operands_of_a_linear_operator() -> None:
    points = scanned(ONE_CONV, W=(16, 16, 1, 1))
    assert table(points.activations) == {"x": [Slot("conv", 0, "activation")]}
    assert table(points.weights) == {"W": [Slot("conv", 1, "weight")]}
    assert points.skipped == {}


@pytest.mark.parametrize("target", targets.names())
@pytest.mark.parametrize("name", build.names())
def test_d01_both_operands_or_neither_and_every_linear_node_has_its_answer(
    name: str, target: str
) -> None:
    prepared, _ = driver.prepare(build.load(name), targets.find(target))
    points = scan(prepared, INT8, targets.find(target))
    quantized = nodes(points.weights, "weight")
    assert nodes(points.activations, "activation") == quantized
    assert quantized.isdisjoint(points.skipped)
    assert all(points.skipped.values())
    linear = {label(n) for n in prepared.nodes if ops.is_weighted(n)}
    assert linear <= quantized | set(points.skipped)


def test_d20_d21_the_pair_stands_behind_activation_function_and_data_movement() -> None:
    points = scanned(
        """g (float[1,16,8,8] x) => (float[1,16,4,4] y, float[1,16,8,8] z) {
          a = Conv (x, W)
          r = Relu (a)
          p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (r)
          [after_pool] y = Conv (p, W)
          [before_pool] z = Conv (r, W)
        }""",
        W=(16, 16, 1, 1),
    )
    activations = table(points.activations)
    assert activations["p"] == [Slot("after_pool", 0, "activation")]
    assert activations["r"] == [Slot("before_pool", 0, "activation")]
    assert "a" not in activations
    group = by_tensor(points.activations, "p").group
    assert by_tensor(points.activations, "r").group == group
    assert by_tensor(points.activations, "x").group != group


@pytest.mark.parametrize(
    ("movement", "shares"),
    [
        ("Transpose <perm = [0, 1, 3, 2]> (x)", True),
        ("Reshape (x, shape)", True),
        ("Identity (x)", True),
        ('Pad <mode = "reflect"> (x, pads)', True),
        ("Pad (x, pads)", True),
        ("Pad (x, pads, seven)", False),
        ('Resize <mode = "nearest"> (x, , double)', True),
        ('Resize <mode = "linear"> (x, , double)', False),
        ("AveragePool <kernel_shape = [1, 1]> (x)", False),
        ("Relu (x)", False),
    ],
)
def test_e01_tensors_that_are_the_same_values_share_a_scale(movement: str, shares: bool) -> None:
    points = scanned(
        f"""g (float[1,16,8,8] x) => (float[a,b,c,d] y, float[1,16,8,8] z)
        <float[4] double = {{1, 1, 2, 2}}, int64[4] shape = {{1, 16, 4, 16}},
         int64[8] pads = {{0, 0, 1, 1, 0, 0, 1, 1}}, float seven = {{7}}> {{
          m = {movement}
          y = Conv (m, W)
          z = Conv (x, W)
        }}""",
        W=(16, 16, 1, 1),
    )
    groups = {p.tensor: p.group for p in points.activations}
    assert set(groups) == {"x", "m"}
    assert (groups["x"] == groups["m"]) is shares


def test_e07_inputs_and_output_of_a_concat_share_a_scale() -> None:
    points = scanned(
        """g (float[1,16,8,8] x) => (float[1,16,8,8] y, float[1,16,8,8] z) {
          a = Conv (x, W)
          b = Relu (a)
          c = Sigmoid (a)
          d = Concat <axis = 1> (b, c)
          y = Conv (d, V)
          z = Conv (b, W)
        }""",
        W=(16, 16, 1, 1),
        V=(16, 32, 1, 1),
    )
    groups = {p.tensor: p.group for p in points.activations}
    assert groups["b"] == groups["d"] != groups["x"]


def test_e15_one_tensor_one_point_whoever_reads_it() -> None:
    points = scanned(
        """g (float[4,32] x) => (float[4,32] q, float[4,32] k, float[4,32] v) {
          [query] q = MatMul (x, Q)
          [key] k = MatMul (x, K)
          [value] v = MatMul (x, V)
        }""",
        Q=(32, 32),
        K=(32, 32),
        V=(32, 32),
    )
    assert [s.node for s in table(points.activations)["x"]] == ["query", "key", "value"]
    assert len(points.activations) == 1


def test_a_shared_weight_is_one_decision_with_two_slots() -> None:
    points = scanned(
        """g (float[4,32] x) => (float[4,32] y) {
          [first] h = MatMul (x, W)
          [second] y = MatMul (h, W)
        }""",
        W=(32, 32),
    )
    assert table(points.weights) == {"W": [Slot("first", 1, "weight"), Slot("second", 1, "weight")]}


def test_f18_a_product_of_two_computed_tensors_stays_float() -> None:
    points = scanned(
        "g (float[4,32,32] a, float[4,32,32] b) => (float[4,32,32] y) { [p] y = MatMul (a, b) }"
    )
    assert (points.activations, points.weights) == ((), ())
    assert "both operands are computed" in points.skipped["p"]
    assert "F18" in points.skipped["p"]


def test_a_computed_convolution_weight_stays_float() -> None:
    points = scanned(
        "g (float[1,16,8,8] x, float[16,16,1,1] w) => (float[1,16,8,8] y) { [c] y = Conv (x, w) }"
    )
    assert points.skipped == {"c": "its weight is computed at run time"}


def test_two_constant_operands_stay_float() -> None:
    points = scanned(
        "g (float[32,32] x) => (float[32,32] y) { [c] k = MatMul (V, W)  y = Add (x, k) }",
        V=(32, 32),
        W=(32, 32),
    )
    assert points.skipped == {"c": "both operands are constant"}


# ---------------------------------------------------------------------- residual Add


RESIDUAL = """g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
  h = Relu (x)
  [first] a = Conv (h, A)
  r = Relu (a)
  [second] b = Conv (r, B)
  [join] s = Add (FIRST, SECOND)
  t = Relu (s)
  [next] y = Conv (t, C)
}"""
WEIGHTS: dict[str, Any] = {"A": (16, 16, 1, 1), "B": (16, 16, 1, 1), "C": (16, 16, 1, 1)}


@pytest.mark.parametrize(("order", "index"), [(("b", "h"), 1), (("h", "b"), 0)])
def test_e04_an_identity_skip_shares_the_pair_of_the_convolution(
    order: tuple[str, str], index: int
) -> None:
    text = RESIDUAL.replace("FIRST", order[0]).replace("SECOND", order[1])
    points = scanned(text, **WEIGHTS)
    slots = table(points.activations)
    assert slots["h"] == [Slot("first", 0, "activation"), Slot("join", index, "skip")]
    assert "b" not in slots


@pytest.mark.parametrize("swapped", [False, True])
def test_e05_of_two_convolutions_the_shorter_branch_is_the_skip(swapped: bool) -> None:
    order = "(d, b)" if swapped else "(b, d)"
    points = scanned(
        f"""g (float[1,16,8,8] x) => (float[1,16,8,8] y) {{
          h = Relu (x)
          a = Conv (h, A)
          r = Relu (a)
          b = Conv (r, B)
          d = Conv (h, D)
          [join] s = Add {order}
          t = Relu (s)
          y = Conv (t, C)
        }}""",
        D=(16, 16, 1, 1),
        **WEIGHTS,
    )
    slots = table(points.activations)
    assert slots["d"] == [Slot("join", 0 if swapped else 1, "skip")]
    assert "b" not in slots


def test_e05_of_two_equal_branches_the_first_is_the_skip() -> None:
    points = scanned(
        """g (float[1,16,8,8] x) => (float[1,16,8,8] y) {
          a = Conv (x, A)
          b = Conv (x, B)
          [join] s = Add (a, b)
          y = Conv (s, C)
        }""",
        **WEIGHTS,
    )
    assert nodes(points.activations, "skip") == {"join"}
    assert table(points.activations)["a"] == [Slot("join", 0, "skip")]


@pytest.mark.parametrize("name", ["residual", "resnet20", "depthwise", "concat_add"])
def test_e06_never_both_operands_of_an_add(name: str) -> None:
    prepared, _ = driver.prepare(build.load(name), targets.find("tensorrt"))
    points = scan(prepared, INT8, targets.find("tensorrt"))
    joins = [s.node for p in points.activations for s in p.slots if s.role == "skip"]
    assert len(joins) == len(set(joins))


@pytest.mark.parametrize(
    ("add", "why"),
    [
        ("s = Add (b, bias)", "a bias"),
        ("s = Add (b, b)", "a doubling"),
        ("s = Add (b, row)", "a broadcast"),
        ("u = Sigmoid (b)  s = Add (u, x)", "no convolution to fuse into"),
        ("v = Neg (b)  w = Relu (b)  s = Add (b, x)", "a convolution that others read"),
    ],
)
def test_e04_other_additions_are_left_alone(add: str, why: str) -> None:
    extra = ", float[1,16,8,8] v, float[1,16,8,8] w" if "v =" in add else ""
    points = scanned(
        f"""g (float[1,16,8,8] x, float[1,16,1,8] row) => (float[1,16,8,8] y{extra}) {{
          b = Conv (x, B)
          {add}
          y = Conv (s, C)
        }}""",
        B=WEIGHTS["B"],
        C=WEIGHTS["C"],
        bias=(16, 1, 1),
    )
    assert nodes(points.activations, "skip") == set(), why


def test_e04_an_addition_that_no_quantized_operator_reads_is_left_alone() -> None:
    points = scanned(
        "g (float[1,16,8,8] x) => (float[1,16,8,8] y) { b = Conv (x, B)  y = Add (b, x) }",
        B=WEIGHTS["B"],
    )
    assert nodes(points.activations, "skip") == set()


def test_f07_the_residual_stream_and_the_mask_of_a_transformer_are_untouched() -> None:
    points = scanned(
        """g (float[4,16,32] x, float[4,16,16] mask) => (float[4,16,32] y) {
          q = MatMul (x, Q)
          k = MatMul (x, K)
          t = Transpose <perm = [0, 2, 1]> (k)
          s = MatMul (q, t)
          [mask_add] m = Add (s, mask)
          p = Softmax (m)
          v = MatMul (x, V)
          c = MatMul (p, v)
          o = MatMul (c, O)
          [residual_add] r = Add (x, o)
          f = MatMul (r, F)
          [second_add] y = Add (r, f)
        }""",
        Q=(32, 32),
        K=(32, 32),
        V=(32, 32),
        O=(32, 32),
        F=(32, 32),
    )
    touched = {s.node for p in points.activations for s in p.slots}
    assert touched.isdisjoint({"mask_add", "residual_add", "second_add"})
    assert set(table(points.activations)) == {"x", "c", "r"}


# ---------------------------------------------------------------------- gates


SQUEEZE = """g (float[1,32,8,8] x) => (float[1,32,8,8] y) {{
  {pool}
  [reduce] a = Conv (p, A)
  {activation}
  [expand] e = Conv (r, B)
  {gate}
  [scale] m = Mul (x, s)
  [after] y = Conv (m, C)
}}"""


@pytest.mark.parametrize(
    "pool",
    ["p = GlobalAveragePool (x)", "p = ReduceMean <keepdims = 1> (x, axes)"],
    ids=["global", "reduce"],
)
@pytest.mark.parametrize(
    "activation",
    [
        "r = Relu (a)",
        "t = Sigmoid (a)  r = Mul (a, t)",
        "t = Sigmoid (a)  r = Mul (t, a)",
        "r = HardSwish (a)",
    ],
    ids=["relu", "silu", "silu_swapped", "hardswish"],
)
@pytest.mark.parametrize(
    "gate",
    ["s = Sigmoid (e)", "s = HardSigmoid (e)", "z = Add (e, half)  s = Clip (z)"],
    ids=["sigmoid", "hard", "clip"],
)
def test_e09_squeeze_excite_gates_stay_float(pool: str, activation: str, gate: str) -> None:
    points = scanned(
        SQUEEZE.format(pool=pool, activation=activation, gate=gate),
        A=(16, 32, 1, 1),
        B=(32, 16, 1, 1),
        C=(32, 32, 1, 1),
        axes=np.array([2, 3], np.int64),
        half=f32([0.5]),
    )
    assert nodes(points.weights, "weight") == {"after"}
    assert set(points.skipped) == {"reduce", "expand"}
    assert all("E09" in why for why in points.skipped.values())


def test_e09_a_classifier_behind_a_global_pool_is_no_gate() -> None:
    points = scanned(
        """g (float[4,32,8,8] x) => (float[4,16] y) {
          p = GlobalAveragePool (x)
          f = Flatten (p)
          [head] l = Gemm (f, W)
          y = Sigmoid (l)
        }""",
        W=(32, 16),
    )
    assert nodes(points.weights, "weight") == {"head"}


def test_e12_an_activation_function_is_no_gate() -> None:
    points = scanned(
        """g (float[1,32,8,8] x) => (float[1,32,8,8] y) {
          [conv] a = Conv (x, W)
          s = Sigmoid (a)
          y = Mul (a, s)
        }""",
        W=(32, 32, 1, 1),
    )
    assert nodes(points.weights, "weight") == {"conv"}


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
        "branch": "a sub-graph passes through untouched",
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
    prepared, _ = driver.prepare(build.load("int8_already"), targets.find("tensorrt"))
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


# ---------------------------------------------------------------------- the user's word


@pytest.mark.parametrize(
    ("glob", "left"), [("/head/*", {"/head/a"}), ("*", {"/body/a", "/head/a"}), ("/HEAD/*", set())]
)
def test_nodes_are_excluded_by_glob(glob: str, left: set[str]) -> None:
    points = scanned(
        """g (float[4,32] x) => (float[4,32] y) {
          ["/body/a"] h = MatMul (x, W)
          ["/head/a"] y = MatMul (h, W)
        }""",
        recipe=INT8.excluding([glob]),
        W=(32, 32),
    )
    assert points.skipped == dict.fromkeys(sorted(left), f"excluded by {glob!r}")
    assert nodes(points.weights, "weight") == {"/body/a", "/head/a"} - left


def test_the_first_rule_that_matches_wins() -> None:
    rules = (Rule(match="keep*", skip=False), Rule(match="*"))
    points = scanned(
        """g (float[4,32] x) => (float[4,32] y) {
          [keep_1] h = MatMul (x, W)
          [other] y = MatMul (h, W)
        }""",
        recipe=Recipe(name="r", rule=rules),
        W=(32, 32),
    )
    assert set(points.skipped) == {"other"}


# ---------------------------------------------------------------------- order and identity


def test_points_stand_in_the_order_of_their_readers() -> None:
    text = RESIDUAL.replace("FIRST", "b").replace("SECOND", "x")
    points = scanned(text, **WEIGHTS)
    assert [p.tensor for p in points.activations] == ["h", "r", "x", "t"]
    assert [p.tensor for p in points.weights] == ["A", "B", "C"]


def test_scan_reads_and_changes_nothing() -> None:
    loaded = graph(RESIDUAL.replace("FIRST", "b").replace("SECOND", "h"), **WEIGHTS)
    before = loaded.proto().SerializeToString(deterministic=True)
    scan(loaded, INT8, targets.find("tensorrt"))
    assert loaded.proto().SerializeToString(deterministic=True) == before


def _digest(proto: ModelProto) -> str:
    return model_digest(load(proto))


def test_the_digest_is_of_what_is_computed_not_of_what_is_said_about_it() -> None:
    base = model(ONE_CONV, W=(16, 16, 1, 1))
    told = model(ONE_CONV, W=(16, 16, 1, 1))
    told.doc_string, told.producer_name = "words", "somebody"
    told.metadata_props.add(key="author", value="somebody")
    told.graph.node[0].doc_string = "words"
    assert _digest(told) == _digest(base)
    weight = model(ONE_CONV, W=normal("other", (16, 16, 1, 1)))
    strided = model(ONE_CONV.replace("Conv (", "Conv <strides = [2, 2]> ("), W=(16, 16, 1, 1))
    assert len({_digest(m) for m in (base, weight, strided)}) == 3
