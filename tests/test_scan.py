"""Placement, one rule a test."""

from __future__ import annotations

import pytest
from onnx import ModelProto

from models import build
from qcompiler import ops, targets
from qcompiler.graph import label
from qcompiler.load import load
from qcompiler.plan import Slot
from qcompiler.prepare import prepare
from qcompiler.recipe import Recipe, Rule
from qcompiler.scan import model_digest, scan
from tests.hand_made import INT8, by_tensor, model, nodes, normal, scanned, table

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
    prepared, _ = prepare(build.load(name), targets.find(target))
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
