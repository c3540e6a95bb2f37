"""What the two passes of the apply phase write, as whole listings.

They need a plan, so they have no text file under ``tests/passes``.
"""

from __future__ import annotations

from textwrap import dedent

import msgspec
import pytest

from qcompiler.errors import InputError
from qcompiler.graph import Graph
from qcompiler.passes.insert_qdq import InsertQdq
from qcompiler.passes.quantize_weights import QuantizeWeights
from qcompiler.pipeline import Pipeline
from qcompiler.plan import Decision, QuantPlan, Slot, Storage
from qcompiler.text import listing
from tests.hand_made import f32, graph

PER_TENSOR = Storage("int8", None)


def activation(tensor: str, *slots: Slot, scale: float = 0.5, dtype: str = "float32") -> Decision:
    """A symmetric INT8 decision."""
    return Decision(tensor, slots, PER_TENSOR, dtype, scale, 0, "calibrated", "")


def weight(
    tensor: str, *slots: Slot, scale: tuple[float, ...] | float, axis: int | None
) -> Decision:
    """A decision about a weight."""
    return Decision(tensor, slots, Storage("int8", axis), "float32", scale, 0, "searched", "")


def carried_out(made: Graph, *decisions: Decision, skipped: tuple[str, ...] = ()) -> str:
    """The listing after both passes."""
    roles = {d.tensor: {s.role for s in d.slots} == {"weight"} for d in decisions}
    plan = QuantPlan(
        "",
        "tensorrt",
        "int8",
        False,
        tuple(d for d in decisions if not roles[d.tensor]),
        tuple(d for d in decisions if roles[d.tensor]),
        dict.fromkeys(skipped, "by hand"),
    )
    Pipeline((InsertQdq(plan=plan), QuantizeWeights(plan=plan))).run(made)
    return listing(made)


def same(found: str, expected: str) -> bool:
    """Compare with an indented text, and show both when they differ."""
    text = dedent(expected).lstrip("\n")
    assert found == text
    return True


LINEAR = "g (float[2,2] x) => (float[2,3] y) { [n] y = MatMul (x, W) }"
W = f32([[0.7, -1.4, 7.0], [0.1, 0.2, -3.5]])


def test_a_linear_operator_before_and_after() -> None:
    made = graph(LINEAR, W=W)
    assert same(
        listing(made),
        """
        <opset_import: ["" : 21]>
        g (float[2,2] x) => (float[2,3] y) {
          y = MatMul (x, W)
        }
        # W: float[2, 3] = 0.7, -1.4, 7, 0.1, 0.2, -3.5
        """,
    )
    after = carried_out(
        made,
        activation("x", Slot("n", 0, "activation")),
        weight("W", Slot("n", 1, "weight"), scale=(0.1, 0.2, 1.0), axis=1),
    )
    assert same(
        after,
        """
        <opset_import: ["" : 21]>
        g (float[2,2] x) => (float[2,3] y) {
          x_q = QuantizeLinear (x, x_scale, x_zero_point)
          x_dq = DequantizeLinear (x_q, x_scale)
          W_dq = DequantizeLinear <axis = 1> (W_q, W_scale)
          y = MatMul (x_dq, W_dq)
        }
        # x_scale: float = 0.5
        # x_zero_point: int8 = 0
        # W_q: int8[2, 3] = 7, -7, 7, 1, 1, -4
        # W_scale: float[3] = 0.1, 0.2, 1
        """,
    )


def test_b18_a_scale_per_tensor_is_a_scalar_and_has_no_axis() -> None:
    after = carried_out(
        graph(LINEAR, W=W), weight("W", Slot("n", 1, "weight"), scale=0.1, axis=None)
    )
    assert same(
        after,
        """
        <opset_import: ["" : 21]>
        g (float[2,2] x) => (float[2,3] y) {
          W_dq = DequantizeLinear (W_q, W_scale)
          y = MatMul (x, W_dq)
        }
        # W_q: int8[2, 3] = 7, -14, 70, 1, 2, -35
        # W_scale: float = 0.1
        """,
    )


def test_b26_weights_saturate_and_round_half_to_even() -> None:
    values = f32([[0.5, 1.5, 2.5], [200, -200, -0.5]])
    after = carried_out(
        graph(LINEAR, W=values), weight("W", Slot("n", 1, "weight"), scale=1.0, axis=None)
    )
    assert "# W_q: int8[2, 3] = 0, 2, 2, 127, -128, 0\n" in after


def test_e15_all_planned_readers_share_one_pair_and_others_keep_the_float_tensor() -> None:
    after = carried_out(
        graph(
            """g (float[2,2] x) => (float[2,3] a, float[2,3] b, float[2,2] c) {
              [one] a = MatMul (x, W)
              [two] b = MatMul (x, W)
              c = Relu (x)
            }""",
            W=W,
        ),
        activation("x", Slot("one", 0, "activation"), Slot("two", 0, "activation")),
    )
    assert same(
        after,
        """
        <opset_import: ["" : 21]>
        g (float[2,2] x) => (float[2,3] a, float[2,3] b, float[2,2] c) {
          x_q = QuantizeLinear (x, x_scale, x_zero_point)
          x_dq = DequantizeLinear (x_q, x_scale)
          a = MatMul (x_dq, W)
          b = MatMul (x_dq, W)
          c = Relu (x)
        }
        # x_scale: float = 0.5
        # x_zero_point: int8 = 0
        # W: float[2, 3] = 0.7, -1.4, 7, 0.1, 0.2, -3.5
        """,
    )


def test_one_dequantized_weight_serves_two_readers_and_an_unplanned_one_keeps_it_whole() -> None:
    after = carried_out(
        graph(
            """g (float[2,2] x) => (float[2,3] a, float[2,3] b, float[2,3] c) {
              [one] a = MatMul (x, W)
              [two] b = MatMul (x, W)
              [three] c = Add (a, W)
            }""",
            W=W,
        ),
        weight("W", Slot("one", 1, "weight"), Slot("two", 1, "weight"), scale=1.0, axis=None),
    )
    assert same(
        after,
        """
        <opset_import: ["" : 21]>
        g (float[2,2] x) => (float[2,3] a, float[2,3] b, float[2,3] c) {
          W_dq = DequantizeLinear (W_q, W_scale)
          a = MatMul (x, W_dq)
          b = MatMul (x, W_dq)
          c = Add (a, W)
        }
        # W_q: int8[2, 3] = 1, -1, 7, 0, 0, -4
        # W_scale: float = 1
        # W: float[2, 3] = 0.7, -1.4, 7, 0.1, 0.2, -3.5
        """,
    )


def test_e04_the_skip_of_an_add_reads_the_pair_and_a_graph_output_keeps_its_name() -> None:
    after = carried_out(
        graph(
            """g (float[2,2] x) => (float[2,2] h, float[2,2] y) {
              h = Relu (x)
              [join] y = Add (x, h)
            }"""
        ),
        activation("h", Slot("join", 1, "skip")),
    )
    assert same(
        after,
        """
        <opset_import: ["" : 21]>
        g (float[2,2] x) => (float[2,2] h, float[2,2] y) {
          h = Relu (x)
          h_q = QuantizeLinear (h, h_scale, h_zero_point)
          h_dq = DequantizeLinear (h_q, h_scale)
          y = Add (x, h_dq)
        }
        # h_scale: float = 0.5
        # h_zero_point: int8 = 0
        """,
    )


def test_b29_equal_parameters_are_one_pair_of_constants() -> None:
    after = carried_out(
        graph(
            """g (float[2,2] x) => (float[2,2] y) {
              [one] h = Relu (x)
              [two] y = Neg (h)
            }"""
        ),
        activation("x", Slot("one", 0, "activation")),
        activation("h", Slot("two", 0, "activation")),
    )
    assert "h_q = QuantizeLinear (h, x_scale, x_zero_point)\n" in after
    assert after.count("# ") == 2


def test_b24_equal_numbers_of_two_types_are_two_pairs_of_constants() -> None:
    made = graph(
        """g (float[2,2] x) => (float16[2,2] y) {
          [one] h = Relu (x)
          c = Cast <to = 10> (h)
          [two] y = Neg (c)
        }"""
    )
    half = activation("c", Slot("two", 0, "activation"), dtype="float16")
    after = carried_out(made, activation("x", Slot("one", 0, "activation")), half)
    assert "# x_scale: float = 0.5\n" in after
    assert "# c_scale: float16 = 0.5\n" in after


def test_the_zero_point_of_an_unsigned_pair_is_written() -> None:
    decision = msgspec.structs.replace(
        activation("x", Slot("n", 0, "activation")),
        storage=Storage("uint8", None, symmetric=False),
        zero_point=7,
    )
    after = carried_out(graph(LINEAR, W=W), decision)
    assert "x_dq = DequantizeLinear (x_q, x_scale, x_zero_point)\n" in after
    assert "# x_zero_point: uint8 = 7\n" in after


def test_new_names_step_aside_for_those_in_use() -> None:
    after = carried_out(
        graph(
            """g (float[2,2] x, float[2,2] x_q) => (float[2,2] y, float[2,2] x_dq) {
              [n] y = Relu (x)
              x_dq = Neg (x_q)
            }"""
        ),
        activation("x", Slot("n", 0, "activation")),
    )
    assert "x_q_1 = QuantizeLinear (x, x_scale, x_zero_point)\n" in after
    assert "x_dq_1 = DequantizeLinear (x_q_1, x_scale)\n" in after


@pytest.mark.parametrize("skipped", [("one",), ("one", "two")])
def test_skipped_nodes_keep_their_float_operands(skipped: tuple[str, ...]) -> None:
    after = carried_out(
        graph(
            """g (float[2,2] x) => (float[2,3] a, float[2,3] b) {
              [one] a = MatMul (x, W)
              [two] b = MatMul (x, W)
            }""",
            W=W,
        ),
        activation("x", Slot("one", 0, "activation"), Slot("two", 0, "activation")),
        weight("W", Slot("one", 1, "weight"), Slot("two", 1, "weight"), scale=1.0, axis=None),
        skipped=skipped,
    )
    assert "  a = MatMul (x, W)\n" in after
    assert ("  b = MatMul (x_dq, W_dq)\n" in after) is (skipped == ("one",))
    assert ("QuantizeLinear" in after) is (skipped == ("one",))


def test_both_passes_say_how_much_they_did() -> None:
    plan = QuantPlan(
        "",
        "tensorrt",
        "int8",
        False,
        (activation("x", Slot("n", 0, "activation")),),
        (weight("W", Slot("n", 1, "weight"), scale=1.0, axis=None),),
        {},
    )
    made = graph(LINEAR, W=W)
    steps = Pipeline((InsertQdq(plan=plan), QuantizeWeights(plan=plan))).run(made)
    assert [(s.name, s.rewrites) for s in steps] == [("insert-qdq", 1), ("quantize-weights", 1)]
    nothing = msgspec.structs.replace(plan, skipped={"n": "by hand"})
    made = graph(LINEAR, W=W)
    steps = Pipeline((InsertQdq(plan=nothing), QuantizeWeights(plan=nothing))).run(made)
    assert [s.rewrites for s in steps] == [0, 0]


def test_the_scales_of_columns_can_stand_behind_the_product() -> None:
    made = graph(
        "g (float[2,2] x) => (float[2,2] y) { [p] y = Gemm (x, w, b) }",
        w=f32([[1, 2], [448, 896]]),
        b=f32([1, 2]),
    )
    storage = Storage("fp8_e4m3", 1, behind=True)
    slots = (Slot("p", 1, "weight"),)
    decision = Decision("w", slots, storage, "float32", (1.0, 2.0), 0, "searched", "")
    assert carried_out(made, decision) == dedent("""\
        <opset_import: ["" : 21]>
        g (float[2,2] x) => (float[2,2] y) {
          w_dq = DequantizeLinear (w_q, w_scale)
          y_normalized = Gemm (x, w_dq)
          y_mul = Mul (y_normalized, w_ratio)
          y = Add (y_mul, b)
        }
        # w_q: float8e4m3fn[2, 2] = 1, 1, 448, 448
        # w_scale: float = 0.00390625
        # w_ratio: float[2] = 256, 512
        # b: float[2] = 1, 2
        """)


def test_scales_of_tiles_are_repeated_along_n() -> None:
    made = graph(
        "g (float[2,2] x) => (float[2,3] y) { [p] y = MatMul (x, w) }",
        w=f32([[1, 2, 4], [448, 896, 8]]),
    )
    slots = (Slot("p", 1, "weight"),)
    storage = Storage("fp8_e4m3", 0, block=2)
    decision = Decision("w", slots, storage, "float32", (2.0, 0.5), 0, "largest value", "")
    assert carried_out(made, decision) == dedent("""\
        <opset_import: ["" : 21]>
        g (float[2,2] x) => (float[2,3] y) {
          w_dq = DequantizeLinear <axis = 0, block_size = 2> (w_q, w_scale)
          y = MatMul (x, w_dq)
        }
        # w_q: float8e4m3fn[2, 3] = 0.5, 1, 8, 224, 448, 16
        # w_scale: float[1, 3] = 2, 2, 0.5
        """)


def test_another_number_of_tiles_is_refused() -> None:
    made = graph("g (float[2,2] x) => (float[2,3] y) { [p] y = MatMul (x, w) }", w=(2, 3))
    slots = (Slot("p", 1, "weight"),)
    storage = Storage("fp8_e4m3", 0, block=2)
    decision = Decision("w", slots, storage, "float32", (2.0,), 0, "largest value", "")
    with pytest.raises(InputError, match="2 tiles of 2 x 2, found 1 scales") as caught:
        carried_out(made, decision)
    assert caught.value.where == "w"
