"""fold-norm-scales on random norms in FP64, where folding is exact to a few units of 2^-53."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from qcompiler.load import load
from qcompiler.passes.fold_norm_scales import FoldNormScales
from qcompiler.pipeline import Pipeline

F64 = NDArray[np.float64]
# Operator -> shape of the data, of its parameters, and attributes.
NORMS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, Any]]] = {
    "LayerNormalization": ((2, 3, 4), (3, 4), {"axis": 1}),
    "RMSNormalization": ((2, 3, 4), (4,), {"axis": -1}),
    "InstanceNormalization": ((2, 3, 4), (3,), {}),
    "GroupNormalization": ((2, 4, 3), (4,), {"num_groups": 2}),
    "BatchNormalization": ((2, 3, 4), (3,), {}),
}


def build(norm: str, op: str, constant: F64, *, first: bool, beta: bool) -> ModelProto:
    """A norm with an element-wise op of a constant behind it."""
    shape, size, attrs = NORMS[norm]
    rng = np.random.default_rng(1)
    constants: dict[str, F64] = {"gamma": rng.uniform(0.5, 2, size), "c": constant}
    if beta:
        constants["beta"] = rng.standard_normal(size)
    if norm == "BatchNormalization":
        constants |= {"mean": rng.standard_normal(size), "var": rng.uniform(0.5, 2, size)}
    parameters = [k for k in ("gamma", "beta", "mean", "var") if k in constants]
    nodes = [
        helper.make_node(norm, ["x", *parameters], ["a"], **attrs),
        helper.make_node(op, ["c", "a"] if first else ["a", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, shape)],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def run(model: ModelProto, x: F64) -> F64:
    outputs = ReferenceEvaluator(model).run(None, {"x": x})
    assert isinstance(outputs, list)
    return np.asarray(outputs[0])


def constant_shape(norm: str, along: str) -> tuple[int, ...]:
    """A scalar, or what varies along the axes of gamma, or along the rows too."""
    shape, size, _ = NORMS[norm]
    if along == "nothing":
        return ()
    if along == "rows":
        return (shape[0], *(1,) * (len(shape) - 1))
    return size if norm in ("LayerNormalization", "RMSNormalization") else (*size, 1)


@settings(deadline=None, max_examples=200)
@given(
    norm=st.sampled_from(sorted(NORMS)),
    op=st.sampled_from(["Mul", "Div", "Add", "Sub"]),
    along=st.sampled_from(["nothing", "gamma", "rows"]),
    first=st.booleans(),
    beta=st.booleans(),
)
def test_the_function_stays_and_folding_happens_where_the_algebra_allows(
    norm: str, op: str, along: str, first: bool, beta: bool
) -> None:
    """The exact conditions of the module's docstring."""
    beta = norm != "RMSNormalization" and (beta or norm != "LayerNormalization")
    rng = np.random.default_rng(7)
    constant = rng.uniform(0.5, 2, constant_shape(norm, along))
    before = build(norm, op, constant, first=first, beta=beta)
    x = rng.standard_normal(NORMS[norm][0])
    expected = run(before, x)
    graph = load(before)
    graph.infer()
    (step,) = Pipeline((FoldNormScales(),)).run(graph)
    actual = run(graph.proto(), x)
    # The norm itself is computed alike; at most 4 roundings each side of the equation, and what
    # onnx.reference keeps in FP32 on the way (mean and deviation) is the same in both.
    np.testing.assert_allclose(
        actual, expected, rtol=0, atol=16 * 2.0**-53 * np.abs(expected).max()
    )
    possible = along != "rows" and not (op == "Div" and first)
    if norm == "RMSNormalization" and op in ("Add", "Sub"):
        possible = False
    assert step.rewrites == int(possible)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 3, 4)])
def test_a_constant_that_adds_an_axis_or_varies_everywhere_stays(shape: tuple[int, ...]) -> None:
    graph = load(build("LayerNormalization", "Mul", np.full(shape, 2.0), first=False, beta=True))
    graph.infer()
    assert FoldNormScales().run(graph) == 0
