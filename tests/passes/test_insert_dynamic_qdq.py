"""Pairs with scales of run time, as whole listings, and what an edited plan may not ask for."""

from __future__ import annotations

from textwrap import dedent

import msgspec
import numpy as np
import pytest

from qcompiler.errors import InputError
from qcompiler.graph import Graph, label
from qcompiler.passes.insert_dynamic_qdq import InsertDynamicQdq
from qcompiler.passes.insert_qdq import InsertQdq
from qcompiler.pipeline import Pipeline
from qcompiler.plan import Decision, QuantPlan, Slot, Storage
from qcompiler.text import listing
from tests.contract.running import run
from tests.hand_made import graph


def decision(*nodes: str, block: int = 8, tensor: str = "x", dtype: str = "float32") -> Decision:
    """A tensor that these nodes read in slot 0."""
    slots = tuple(Slot(n, 0, "activation") for n in nodes)
    storage = Storage("fp8_e4m3", -1, block=block, dynamic=True, behind=block == 8)
    return Decision(tensor, slots, storage, dtype, 2**-10, 0, "dynamic", "")


def carried_out(made: Graph, *decisions: Decision) -> str:
    """The nodes after the pass."""
    plan = QuantPlan("", "onnxruntime", "fp8-rowwise", False, decisions, (), {})
    Pipeline((InsertQdq(plan=plan), InsertDynamicQdq(plan=plan))).run(made)
    return listing(made).split("\n#")[0]


def test_the_scale_of_a_row_stands_behind_the_product() -> None:
    made = graph("g (float[2,8] x) => (float[2,4] y) { [p] y = MatMul (x, W) }", W=(8, 4))
    assert carried_out(made, decision("p")) == dedent("""\
        <opset_import: ["" : 21]>
        g (float[2,8] x) => (float[2,4] y) {
          x_abs = Abs (x)
          x_amax = ReduceMax <keepdims = 1> (x_abs, run_time_axes)
          x_quotient = Div (x_amax, run_time_range)
          x_scale = Max (x_quotient, run_time_least)
          x_normalized = Div (x, x_scale)
          x_q = QuantizeLinear (x_normalized, run_time_unit, run_time_zero_point)
          x_dq = DequantizeLinear (x_q, run_time_unit)
          y_normalized = MatMul (x_dq, W)
          y = Mul (y_normalized, x_scale)
        }""")
    assert [label(n) for n in made.nodes if n.op == "MatMul"] == ["p"]


def test_a_bias_of_gemm_is_added_after_it() -> None:
    made = graph(
        "g (float[2,8] x) => (float[2,4] y) { [p] y = Gemm <transB = 1> (x, W, b) }",
        W=(4, 8),
        b=(4,),
    )
    text = carried_out(made, decision("p"))
    assert text.endswith(
        "  y_normalized = Gemm <transB = 1> (x_dq, W)\n"
        "  y_mul = Mul (y_normalized, x_scale)\n"
        "  y = Add (y_mul, b)\n}"
    )


def test_one_tensor_is_quantized_once_and_others_read_it_in_float() -> None:
    made = graph(
        "g (float[2,8] x) => (float[2,4] a, float[2,4] b, float[2,8] c) "
        "{ [p] a = MatMul (x, W)  [q] b = MatMul (x, V)  c = Relu (x) }",
        W=(8, 4),
        V=(8, 4),
    )
    text = carried_out(made, decision("p", "q"))
    assert text.count(" QuantizeLinear (") == text.count(" DequantizeLinear (") == 1
    assert "c = Relu (x)" in text
    assert "a = Mul (a_normalized, x_scale)" in text
    assert "b = Mul (b_normalized, x_scale)" in text


def test_the_scale_of_a_block_stays_inside() -> None:
    made = graph("g (float[2,3,8] x) => (float[2,3,4] y) { [p] y = MatMul (x, W) }", W=(8, 4))
    assert carried_out(made, decision("p", block=4)) == dedent("""\
        <opset_import: ["" : 21]>
        g (float[2,3,8] x) => (float[2,3,4] y) {
          x_blocks = Reshape (x, run_time_blocks)
          x_abs = Abs (x_blocks)
          x_amax = ReduceMax <keepdims = 0> (x_abs, run_time_axes)
          x_quotient = Div (x_amax, run_time_range)
          x_scale = Max (x_quotient, run_time_least)
          x_q = QuantizeLinear <axis = 2, block_size = 4, output_dtype = 17> (x, x_scale)
          x_dq = DequantizeLinear <axis = 2, block_size = 4> (x_q, x_scale)
          y = MatMul (x_dq, W)
        }""")


def test_a_block_as_long_as_the_row_stays_inside_if_the_plan_says_so() -> None:
    made = graph("g (float[2,8] x) => (float[2,4] y) { [p] y = MatMul (x, W) }", W=(8, 4))
    storage = Storage("fp8_e4m3", -1, block=8, dynamic=True)
    text = carried_out(made, msgspec.structs.replace(decision("p"), storage=storage))
    assert "QuantizeLinear <axis = 1, block_size = 8, output_dtype = 17> (x, x_scale)" in text


def test_numbers_have_the_type_of_the_graph() -> None:
    weight = np.ones((8, 4), np.float16)
    made = graph("g (float16[2,8] x) => (float16[2,4] y) { [p] y = MatMul (x, W) }", W=weight)
    carried_out(made, decision("p", dtype="float16"))
    small = {t.name: t for t in made.constants() if t.name.startswith("run_time")}
    types = {n.removeprefix("run_time_"): str(t.dtype) for n, t in small.items()}
    floats = dict.fromkeys(("range", "least", "unit"), "float16")
    assert types == floats | {"axes": "int64", "zero_point": "float8_e4m3fn"}
    rows = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float16)
    (found,) = run(made.proto(), {"x": rows})
    np.testing.assert_allclose(found[:, 0], rows.sum(axis=1), atol=2**-4 * np.abs(rows).sum())


@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("block", [4, 8])
def test_any_number_of_rows(block: int, rows: int) -> None:
    made = graph("g (float[n,8] x) => (float[n,4] y) { [p] y = MatMul (x, W) }", W=(8, 4))
    carried_out(made, decision("p", block=block))
    (found,) = run(made.proto(), {"x": np.zeros((rows, 8), np.float32)})
    assert found.shape == (rows, 4)
    assert not found.any()


def test_what_is_skipped_stays() -> None:
    made = graph("g (float[2,8] x) => (float[2,4] y) { [p] y = MatMul (x, W) }", W=(8, 4))
    before = listing(made)
    plan = QuantPlan("", "t", "r", False, (decision("p"),), (), {"p": "by hand"})
    (step,) = Pipeline((InsertDynamicQdq(plan=plan),)).run(made)
    assert (step.rewrites, listing(made)) == (0, before)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"slots": (Slot("nobody", 0, "activation"),)}, "no row of a product"),
        ({"slots": (Slot("p", 1, "activation"),)}, "no row of a product"),
        ({"slots": (Slot("r", 0, "activation"),)}, "no row of a product"),
        ({"storage": Storage("fp8_e4m3", -1, block=3, dynamic=True)}, "blocks of 3 elements"),
        ({"storage": Storage("fp8_e4m3", -1, dynamic=True)}, "blocks of None elements"),
        (
            {"storage": Storage("fp8_e4m3", -1, block=4, dynamic=True, behind=True)},
            "blocks of 4 elements for rows of 8",
        ),
        ({"scale": (1.0, 2.0)}, "list of scales"),
        ({"scale": 0.0}, "finite and positive"),
        ({"tensor": "z"}, "does not have"),
        ({"dtype": "float16"}, "float16 scale for a float32 tensor"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, object], told: str) -> None:
    made = graph(
        "g (float[2,8] x) => (float[2,4] y, float[2,8] s) "
        "{ [p] y = MatMul (x, W)  [r] s = Relu (x) }",
        W=(8, 4),
    )
    with pytest.raises(InputError, match=told):
        carried_out(made, msgspec.structs.replace(decision("p"), **changes))
