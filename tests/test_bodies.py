"""Sub-graphs laid out flat and folded back: the same function, and every name where it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from onnx import ModelProto, numpy_helper

from models import build
from qcompiler import protos
from qcompiler.bodies import flatten, is_link
from qcompiler.carried import sums
from qcompiler.errors import InputError
from qcompiler.graph import Graph, label
from qcompiler.load import load
from qcompiler.text import listing
from qcompiler.verify import check_onnx, check_structure
from tests import body_models, hand_made
from tests.contract.running import Feeds, session

NESTED = """g (float[2] x, bool c) => (float[2] y) <int64 trips = {3}> {
  [first] a = Tanh (x)
  [outer] y = If (c) <
    then_branch = t () => (float[2] p) {
      h = Neg (a)
      p, all = Loop (trips, , h) <
        body = b (int64 i, bool on, float[2] s) => (bool on_, float[2] s_, float[2] seen) {
          on_ = Identity (on)
          [step] s_ = Mul (s, x)
          seen = Neg (s_)
        }
      >
    },
    else_branch = e () => (float[2] q) { q = Identity (a) }
  >
}"""
SAME_NAMES = """g (float[2] x, bool c) => (float[2] y) {
  y = If (c) <
    then_branch = t () => (float[2] p) {
      k = Constant <value_float = 2.0> ()
      a = Mul (x, k)
      p = If (c) <
        then_branch = tt () => (float[2] q) { q = Neg (a) },
        else_branch = kept () => (float[2] q) { q = Exp (a) }
      >
    },
    else_branch = e () => (float[2] p) { a = Neg (x) p = Neg (a) }
  >
}"""
FEEDS: tuple[Feeds, ...] = tuple(
    {"x": np.array([0.5, -1.5], np.float32), "c": np.array(c)} for c in (True, False)
)


def _folded(graph: Graph) -> ModelProto:
    flat = flatten(graph)
    return flat.fold(flat.graph.proto())


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body_models.models())
def test_folding_back_changes_no_bit(model: ModelProto) -> None:
    graph = load(model)
    graph.infer()
    before, after = graph.proto(), _folded(graph)
    check_structure(after)
    assert check_onnx(Graph.of(_folded(graph))) == ""
    one, two = session(before), session(after)
    for feeds in body_models.feeds(model):
        assert np.array_equal(one.run(None, feeds)[0], two.run(None, feeds)[0])


def test_a_flat_graph_has_all_nodes_by_their_paths_and_links_between_them() -> None:
    flat = flatten(hand_made.graph(NESTED))
    then = "outer/then_branch/"
    loop = f"{then}node_of_p/"
    nodes = [label(n) for n in flat.graph.nodes if n.op != "Control"]
    assert nodes == [
        "first",
        f"{then}node_of_h",
        f"{loop}s",
        f"{loop}body/node_of_on_",
        f"{loop}body/step",
        f"{loop}body/node_of_seen",
        f"{loop}all",
        "outer/else_branch/node_of_q",
        "outer/y",
    ]
    wiring = {
        label(n): ([t.name for t in n.inputs], [t.name for t in n.outputs])
        for n in flat.graph.nodes
        if is_link(n) and n.op != "Control"
    }
    assert wiring == {
        f"{loop}s": (["h", "s_"], ["s", "p"]),
        f"{loop}all": (["seen"], ["all"]),
        "outer/y": (["p", "q"], ["y"]),
    }
    assert flat.inner == {"h", "p", "all", "i", "on", "s", "on_", "s_", "seen", "q"}
    assert {str(t.dtype) for n in flat.graph.nodes for t in n.inputs if t.name == "s_"} == {
        "float32"
    }


def test_a_graph_without_bodies_is_its_own_flat_graph() -> None:
    graph = load(build.load("mlp"))
    flat = flatten(graph)
    assert flat.graph is graph
    assert (flat.inner, flat.owners) == (frozenset(), frozenset())


def test_names_become_distinct() -> None:
    model = hand_made.model(SAME_NAMES)
    loaded = load(model)
    text = listing(loaded)
    assert 'kept () => (float[2] "node_of_y/then_branch/node_of_p/else_branch/q")' in text
    assert '"node_of_y/else_branch/a" = Neg (x)' in text
    bodies = [g for n in loaded.nodes for g in loaded.bodies(n)]
    names = [n for body in bodies for n in protos.names_inside(body)]
    assert sorted(names) == sorted(set(names))
    for feeds in FEEDS:
        (one,), (two,) = (session(m).run(None, feeds) for m in (model, loaded.proto()))
        assert np.array_equal(one, two)


def test_distinct_names_are_left_alone() -> None:
    proto = build.load("branch_if").graph
    before = proto.SerializeToString()
    protos.distinct(proto)
    assert proto.SerializeToString() == before


def test_the_label_of_a_node_with_bodies_stands_for_all_that_is_in_it() -> None:
    flat = flatten(hand_made.graph(NESTED))
    found = flat.labels(["first", "outer/then_branch/node_of_p"])
    assert found[:2] == ("first", "outer/then_branch/node_of_p")
    assert {f for f in found if f.endswith(("/step", "/s", "/all"))} == {
        "outer/then_branch/node_of_p/body/step",
        "outer/then_branch/node_of_p/s",
        "outer/then_branch/node_of_p/all",
    }
    assert "outer/y" not in found
    with pytest.raises(InputError, match="keep names") as caught:
        flat.labels(["step"])
    assert caught.value.where == "step"


def test_constants_stay_in_their_body() -> None:
    """A Constant becomes an initializer of the same body; a new one is as near as can be."""
    graph = hand_made.graph(SAME_NAMES)
    flat = flatten(graph)
    user = next(n for n in flat.graph.nodes if label(n) == "node_of_y/then_branch/node_of_a")
    flat.graph.set_input(user, 0, flat.graph.const("new", np.array([3.0, 4.0], np.float32)))
    (node,) = flat.fold(flat.graph.proto()).graph.node
    then = node.attribute[0].g
    assert {t.name: numpy_helper.to_array(t).tolist() for t in then.initializer} == {
        "k": 2.0,
        "new": [3.0, 4.0],
    }
    assert [n.op_type for n in then.node] == ["Mul", "If"]


def test_bodies_of_unknown_operators_stay_closed() -> None:
    source = hand_made.model(
        """g (float[2] x) => (float[2] y) {
          a = Neg (x)
          y = other.Twice <body = t () => (float[2] p) { p = Exp (a) }> (x)
        }"""
    )
    source.opset_import.add(domain="other", version=1)
    graph = load(source)
    assert flatten(graph).graph is graph


@pytest.mark.parametrize(
    ("step", "found"),
    [
        ("t = Add (s, x)", {"sum", "t"}),
        ("t = Sub (x, s)", {"sum", "t"}),
        ("m = Mul (s, x) n = Neg (m) t = Add (n, x)", {"sum", "m", "n", "t"}),
        ("m = MatMul (s, W) t = Add (m, x)", set()),
        ("m = Add (s, x) t = Tanh (m)", set()),
        ("t = Identity (s)", set()),
        ("t = Max (s, x)", set()),
    ],
)
def test_which_carried_values_are_sums(step: str, found: set[str]) -> None:
    graph = hand_made.graph(
        f"""g (float[2] x) => (float[2] y) <int64 trips = {{3}}, bool go = {{1}}> {{
          y = Loop (trips, go, x) <
            body = b (int64 i, bool on, float[2] s) => (bool more, float[2] t) {{
              more = Identity (on)
              {step}
            }}
          >
        }}""",
        W=(2, 2),
    )
    nodes = sums(flatten(graph).graph).values()
    assert {"sum" if is_link(n) else n.outputs[0].name for n in nodes} == found
