"""Patterns: orders, names, choices, what may not be inside, and how misses are told."""

from __future__ import annotations

import math

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from qcompiler.graph import Graph, Node
from qcompiler.load import load
from qcompiler.match import (
    Match,
    Miss,
    Pattern,
    any_of,
    const,
    match,
    matches,
    number,
    op,
    optional,
    put,
    scalar,
    var,
)

X = var("x")
SILU = op("Mul")(X, op("Sigmoid")(X))


def model(body: str, outputs: str = "float[N] y", constants: str = "") -> ModelProto:
    head = '<ir_version: 10, opset_import: ["" : 21]>'
    return parser.parse_model(
        f"{head} g (float[N] x, float[N] z) => ({outputs}) {constants} {{{body}}}"
    )


def graph_of(body: str, outputs: str = "float[N] y", constants: str = "") -> Graph:
    graph = load(model(body, outputs, constants))
    graph.infer()
    return graph


def last(graph: Graph) -> Node:
    return graph.nodes[-1]


def found(graph: Graph, pattern: Pattern) -> Match:
    result = match(graph, pattern, last(graph))
    assert result, result
    return result


def missed(graph: Graph, pattern: Pattern) -> Miss:
    result = match(graph, pattern, last(graph))
    assert not result
    return result


@pytest.mark.parametrize("order", ["x, s", "s, x"])
def test_commutative_ops_match_in_both_orders(order: str) -> None:
    result = found(graph_of(f"s = Sigmoid(x) y = Mul({order})"), SILU)
    assert result["x"].name == "x"
    assert [n.op for n in result.nodes] == ["Mul", "Sigmoid"]
    assert result.result.name == "y"


@pytest.mark.parametrize(("order", "fits"), [("x, s", True), ("s, x", False)])
def test_other_ops_keep_their_order(order: str, fits: bool) -> None:
    graph = graph_of(f"s = Sigmoid(x) y = Sub({order})")
    assert bool(match(graph, op("Sub")(X, op("Sigmoid")(X)), last(graph))) is fits


def test_a_name_means_one_tensor() -> None:
    miss = missed(graph_of("s = Sigmoid(z) y = Mul(x, s)"), SILU)
    assert miss == Miss("not the tensor called x in the pattern", "z")


def test_an_op_may_be_named_and_met_again() -> None:
    d = op("Relu")(X).named("d")
    graph = graph_of("d = Relu(x) y = Mul(d, d)")
    assert found(graph, op("Mul")(d, d))["d"].name == "d"
    twins = graph_of("d = Relu(x) e = Relu(x) y = Mul(d, e)")
    assert missed(twins, op("Mul")(d, d)).why == "not the tensor called d in the pattern"
    unnamed = op("Relu")(X)
    assert len(found(twins, op("Mul")(unnamed, unnamed)).nodes) == 3


def test_choices_are_searched_with_everything_around_them() -> None:
    """The first choice fits the inner part, but only the second leaves ``x`` for the rest."""
    inner = any_of(op("Neg")(X), op("Neg")(op("Relu")(X)))
    graph = graph_of("r = Relu(x) n = Neg(r) y = Mul(n, x)")
    assert found(graph, op("Mul")(inner, X))["x"].name == "x"


def test_an_optional_step_may_be_left_out() -> None:
    pattern = op("Relu")(optional(lambda p: op("Mul")(p, scalar("s")), op("Neg")(X)))
    with_step = graph_of("n = Neg(x) m = Mul(n, two) y = Relu(m)", constants="<float two = {2.0}>")
    assert "s" in found(with_step, pattern).tensors
    without = graph_of("n = Neg(x) y = Relu(n)")
    assert "s" not in found(without, pattern).tensors


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        ("s = Sigmoid(x) y = Mul(x, s)", "float[N] y, float[N] s"),
        ("s = Sigmoid(x) w = Neg(s) y = Mul(x, s)", "float[N] w, float[N] y"),
    ],
    ids=["output", "other reader"],
)
def test_tensors_inside_must_not_be_needed_outside(body: str, outputs: str) -> None:
    assert missed(graph_of(body, outputs), SILU) == Miss("is needed outside the pattern", "s")


def test_a_tensor_that_a_body_captures_is_needed() -> None:
    body = (
        "s = Sigmoid(x) n = Size(x) c = Cast <to = 9> (n) "
        "w = If (c) <then_branch = t () => (float[N] a) {a = Neg(s)}, "
        "else_branch = e () => (float[N] b) {b = Relu(z)}> y = Mul(x, s)"
    )
    assert missed(graph_of(body, "float[N] w, float[N] y"), SILU).where == "s"


def test_the_result_may_have_any_readers() -> None:
    graph = graph_of("s = Sigmoid(x) y = Mul(x, s) w = Neg(y)", "float[N] y, float[N] w")
    assert match(graph, SILU, graph.nodes[1])


def test_attributes_by_value_and_by_function() -> None:
    graph = graph_of("y = Softmax <axis = 0> (x)")
    assert match(graph, op("Softmax", axis=0)(X), last(graph))
    assert missed(graph, op("Softmax", axis=-1)(X)).why == "has axis = 0"
    assert match(graph, op("Softmax", axis=lambda a: a in (None, 0))(X), last(graph))


def test_the_number_of_inputs_counts_unless_open() -> None:
    graph = graph_of("y = Clip(x, low, low)", constants="<float low = {0.0}>")
    assert missed(graph, op("Clip")(X)).why == "has 3 inputs, not 1"
    assert match(graph, op("Clip")(X, ...), last(graph))
    assert match(graph, op("Clip")(X, const("a"), const("b")), last(graph))


def test_a_foreign_domain_is_another_op() -> None:
    proto = model("y = Relu(x)")
    proto.graph.node[0].domain = "my"
    proto.opset_import.add(domain="my", version=1)
    graph = load(proto)
    assert missed(graph, op("Relu")(X)).why == "is Relu, not Relu"


def test_the_deepest_attempt_is_told() -> None:
    """Two choices fail at the first node, one after two: that one explains most."""
    pattern = any_of(op("Add")(X, X), op("Relu")(op("Neg")(op("Exp")(X))), op("Sub")(X, X))
    graph = graph_of("s = Sigmoid(x) n = Neg(s) y = Relu(n)")
    assert missed(graph, pattern).why == "is Sigmoid, not Exp"


HALF = np.float16(math.sqrt(0.5))


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        (np.float32(math.sqrt(0.5)), True),
        (np.float32(0.7071), True),
        (np.float32(0.707), False),
        (HALF, True),
        (np.nextafter(HALF, np.float16(1)), True),
        (np.float16(0.71), False),
        (np.float32(HALF), False),
        (np.full((1, 1), math.sqrt(0.5)), True),
        (np.full(2, math.sqrt(0.5)), False),
    ],
    ids=str,
)
def test_how_near_a_number_must_be(value: np.generic, fits: bool) -> None:
    """Five digits, or one unit in the last place of the type the constant is stored in."""
    proto = model("y = Identity(c)", "float y")
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), "c"))
    graph = load(proto)
    assert bool(match(graph, op("Identity")(number(math.sqrt(0.5))), last(graph))) is fits


@pytest.mark.parametrize(("value", "fits"), [(0.0, True), (1e-30, False), (-math.inf, False)])
def test_zero_is_exact(value: float, fits: bool) -> None:
    proto = model("y = Identity(c)", "float y")
    proto.graph.initializer.append(numpy_helper.from_array(np.array(value, np.float32), "c"))
    graph = load(proto)
    assert bool(match(graph, op("Identity")(number(0.0)), last(graph))) is fits
    assert bool(match(graph, op("Identity")(number(value)), last(graph)))


@pytest.mark.parametrize(("shape", "keeps"), [("", True), ("[1]", True), ("[1,1]", False)])
def test_a_scalar_of_higher_rank_changes_the_shape(shape: str, keeps: bool) -> None:
    graph = graph_of("y = Mul(x, s)", "float y", f"<float{shape} s = {{2.0}}>")
    assert found(graph, op("Mul")(X, scalar("s"))).keeps_shape("x") is keeps


def test_longest_match_first_and_none_twice() -> None:
    """A chain of three: the last two are taken, the first stays alone."""
    double = optional(op("Neg"), op("Neg")(X))
    graph = graph_of("a = Neg(x) b = Neg(a) y = Neg(b)")
    taken = []
    for one in matches(graph, double):
        taken.append([n.outputs[0].name for n in one.nodes])
        put(graph, one, "Abs", [one["x"]])
    graph.sweep()
    assert taken == [["y", "b"], ["a"]]
    assert [n.op for n in graph.nodes] == ["Abs", "Abs"]


def test_a_rewritten_match_frees_its_inputs() -> None:
    """After the upper SiLU of ``y`` is gone, nothing but the new node reads ``b``."""
    graph = graph_of("a = Sigmoid(x) b = Mul(x, a) c = Sigmoid(b) y = Mul(b, c)")
    readers = []
    for one in matches(graph, SILU):
        readers.append([n.op for n, _ in graph.users(one.result)])
        put(graph, one, "Relu", [one["x"]])
    graph.sweep()
    assert readers == [[], ["Relu"]]
    assert [n.op for n in graph.nodes] == ["Relu", "Relu"]


def test_put_keeps_names_type_and_shape() -> None:
    proto = model("s = Sigmoid(x) b = Mul(x, s) y = Neg(b)")
    proto.graph.node[1].name = "act/Mul"
    graph = load(proto)
    graph.infer()
    for one in matches(graph, SILU):
        put(graph, one, "Relu", [one["x"]])
    graph.sweep()
    new = graph.nodes[0]
    assert (new.op, new.name, new.outputs[0].name) == ("Relu", "act/Mul", "b")
    assert (new.outputs[0].dtype, new.outputs[0].shape) == (np.dtype(np.float32), ["N"])


def test_a_declined_match_changes_nothing() -> None:
    graph = graph_of("s = Sigmoid(x) y = Mul(x, s)")
    assert len(list(matches(graph, SILU))) == 1
    assert [n.op for n in graph.nodes] == ["Sigmoid", "Mul"]
    assert len(graph.users(graph.inputs[0])) == 2
