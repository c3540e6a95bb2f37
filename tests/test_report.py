"""Figures of a compilation."""

from __future__ import annotations

import math

import msgspec
import pytest

from models import build
from qcompiler import plan as products
from qcompiler.compare import Distance
from qcompiler.plan import Decision, QuantPlan, Slot, Storage
from qcompiler.report import Coverage, OutputError, Report, coverage, op_counts
from tests.compiled import compiled
from tests.hand_made import graph


def _plan(*nodes: str) -> QuantPlan:
    """A plan that quantizes the weights of some nodes."""
    weights = tuple(
        Decision(n, (Slot(n, 1, "weight"),), Storage("int8"), "float32", 1.0, 0, "", "")
        for n in nodes
    )
    return QuantPlan("", "tensorrt", "int8", False, (), weights, {})


MIXED = """g (float[N,16,8,8] x) => (float[N,10] y) {
  [conv] a = Conv <kernel_shape = [3, 3], pads = [1, 1, 1, 1]> (x, C)
  p = GlobalAveragePool (a)
  f = Flatten (p)
  [linear] y = Gemm (f, L)
}"""
# 32 outputs x 64 places x 16 * 9 products, and 10 outputs x 32 products.
CONV, LINEAR = 32 * 64 * 16 * 9, 10 * 32


@pytest.mark.parametrize(
    ("nodes", "macs", "weights"),
    [
        (("conv", "linear"), 1.0, 1.0),
        (("conv",), CONV / (CONV + LINEAR), 4608 / 4928),
        (("linear",), LINEAR / (CONV + LINEAR), 320 / 4928),
        ((), 0.0, 0.0),
    ],
)
def test_coverage(nodes: tuple[str, ...], macs: float, weights: float) -> None:
    found = coverage(graph(MIXED, C=(32, 16, 3, 3), L=(32, 10)), _plan(*nodes))
    assert found.macs == pytest.approx(macs)
    assert found.weight_bytes == pytest.approx(weights)
    assert (found.nodes, found.linear_nodes) == (len(nodes), 2)


@pytest.mark.parametrize(
    ("node", "shape", "macs"),
    [
        ("Conv <group = 4> (x, W)", (32, 8, 1, 1), 32 * 64 * 8),
        ("Conv <group = 32> (x, W)", (32, 1, 3, 3), 32 * 36 * 9),
        # Each of 32 * 64 inputs meets 16 output channels x 4 taps.
        ("ConvTranspose <strides = [2, 2]> (x, W)", (32, 16, 2, 2), 32 * 64 * 16 * 4),
        ("MatMul (x, W)", (8, 5), 32 * 8 * 8 * 5),
    ],
)
def test_multiply_accumulates(node: str, shape: tuple[int, ...], macs: int) -> None:
    """Measured against a product of known size beside it."""
    made = graph(
        f"""g (float[1,32,8,8] x, float[1000,16] z) => (float[a,b,c,d] y, float[1000,10] w) {{
          [n] y = {node}
          [yardstick] w = MatMul (z, V)
        }}""",
        W=shape,
        V=(16, 10),
    )
    assert coverage(made, _plan("n")).macs == pytest.approx(macs / (macs + 160_000))


def test_a_shared_weight_counts_once() -> None:
    made = graph(
        """g (float[4,32] x) => (float[4,32] y) {
          [a] h = MatMul (x, W)
          [b] i = MatMul (h, W)
          [c] y = MatMul (i, V)
        }""",
        W=(32, 32),
        V=(32, 32),
    )
    assert coverage(made, _plan("a", "b")).weight_bytes == pytest.approx(0.5)


def test_a_graph_without_linear_operators_has_no_coverage() -> None:
    made = graph("g (float[4] x) => (float[4] y) { y = Relu (x) }")
    assert coverage(made, _plan()) == Coverage(0.0, 0.0, 0, 0)


def test_operators_are_counted_with_their_domain() -> None:
    made = graph("g (float[4] x) => (float[4] y) { a = Relu (x) b = Relu (a) y = custom.Neg (b) }")
    assert list(op_counts(made).items()) == [("Relu", 2), ("custom::Neg", 1)]


@pytest.mark.parametrize(
    ("sqnr", "written"), [(31.5, 31.5), (math.inf, 999.0), (-math.inf, -999.0)]
)
def test_ratios_are_numbers_in_json(sqnr: float, written: float) -> None:
    error = OutputError.of("y", Distance(sqnr, 1.0), Distance(sqnr, 1.0))
    raw = msgspec.json.encode(error)
    assert msgspec.json.decode(raw, type=OutputError) == error
    assert error == OutputError("y", written, 1.0, written)


def test_an_optimizer_that_fails_is_none() -> None:
    assert OutputError.of("y", Distance(30.0, 1.0), None).sqnr_db_optimized is None


@pytest.mark.parametrize("name", build.names())
def test_a_report_survives_json(name: str) -> None:
    report = compiled(name).report
    assert msgspec.json.decode(products.encode(report), type=Report) == report


def test_a_report_of_a_compilation() -> None:
    result = compiled("residual")
    report = result.report
    assert (report.target, report.recipe, report.data) == ("tensorrt", "int8+fp16", "synthetic")
    assert (report.samples, report.held_out) == (7, 1)
    assert report.ops_before["Conv"] == report.ops_after["Conv"] == 6
    pairs = len(result.plan.activations)
    assert report.ops_after["QuantizeLinear"] == pairs
    assert report.ops_after["DequantizeLinear"] == pairs + len(result.plan.weights)
    assert report.plan_digest == result.plan.digest()
    assert report.skipped == result.plan.skipped
    assert report.bytes_after < report.bytes_before / 2
    assert set(report.timings) == {"prepare", "scan", "calibrate", "decide", "apply", "verify"}
    assert report.passes["insert-qdq"] == pairs
