"""Placement around residual additions and gates, one rule a test."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models import build
from qcompiler import targets
from qcompiler.plan import Slot
from qcompiler.prepare import prepare
from qcompiler.scan import scan
from tests.hand_made import INT8, f32, graph, nodes, scanned, table

ONE_CONV = "g (float[1,16,8,8] x) => (float[1,16,8,8] y) { [conv] y = Conv (x, W) }"


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
    prepared, _ = prepare(build.load(name), targets.find("tensorrt"))
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
