"""Ranges that follow from what is read: no run of the operator leaves them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler.bounds import Range, follows, hull, inferred, is_contained, is_unit
from qcompiler.graph import Graph
from tests import hand_made
from tests.contract.running import session

TEXT = {
    "LSTM": """y, h, c = LSTM <hidden_size = 3> (x, W, R, , , h0, c0)""",
    "GRU": """y, h = GRU <hidden_size = 3> (x, W, R, , , h0) c = Identity (h)""",
    "RNN": """y, h = RNN <hidden_size = 3> (x, W, R, , , h0) c = Identity (h)""",
}
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def _graph(op: str, scale: float) -> Graph:
    gates = 3 * GATES[op]
    return hand_made.graph(
        f"""g (float[5,2,4] x, float[1,2,3] h0, float[1,2,3] c0) =>
          (float[5,1,2,3] y, float[1,2,3] h, float[1,2,3] c) {{ {TEXT[op]} }}""",
        W=hand_made.normal("W", (1, gates, 4)) * np.float32(scale),
        R=hand_made.normal("R", (1, gates, 3)) * np.float32(scale),
    )


@settings(max_examples=10, deadline=None)
@pytest.mark.parametrize("op", list(TEXT))
@given(scale=st.floats(0.1, 100), state=st.floats(0, 50))
def test_recurrent_states(op: str, scale: float, state: float) -> None:
    graph = _graph(op, scale)
    node = next(n for n in graph.nodes if n.op == op)
    generator = np.random.default_rng(7)
    # The hidden state of an LSTM and of an RNN is within [-1, 1], what it begins with aside.
    feeds = {
        "x": generator.standard_normal((5, 2, 4)).astype(np.float32),
        "h0": generator.uniform(-1, 1, (1, 2, 3)).astype(np.float32),
        "c0": generator.uniform(-state, state, (1, 2, 3)).astype(np.float32),
    }
    read = [Range(float(v.min()), float(v.max())) for v in feeds.values()]
    assert follows(node)
    for index, found in enumerate(session(graph.proto()).run(None, feeds)[: len(node.outputs)]):
        bound = inferred(graph, node, index, read)
        assert bound is not None
        assert bound.low <= found.min()
        assert found.max() <= bound.high


def test_other_activations_have_other_ranges() -> None:
    graph = hand_made.graph(
        """g (float[5,2,4] x) => (float[5,1,2,3] y) {
          y = RNN <hidden_size = 3, activations = ["Relu"]> (x, W, R)
        }""",
        W=(1, 3, 4),
        R=(1, 3, 3),
    )
    assert not follows(graph.nodes[0])


def test_what_only_passes_on() -> None:
    graph = hand_made.graph(
        """g (float[2] x) => (float[2] y) {
          a = Relu (x) b = Sigmoid (a) c = Exp (b) s = Shape (c)
          y = ConstantOfShape <value = float[1] {2.5}> (s)
        }"""
    )
    found = {n.op: (is_contained(n), is_unit(n), follows(n)) for n in graph.nodes}
    assert found == {
        "Relu": (True, False, False),
        "Sigmoid": (True, True, False),
        "Exp": (False, False, False),
        "Shape": (False, False, False),
        "ConstantOfShape": (False, False, True),
    }
    assert inferred(graph, graph.nodes[-1], 0, []) == Range(2.5, 2.5)


def test_the_hull_contains_zero() -> None:
    assert hull([Range(1, 2), Range(3, 4)]) == Range(0, 4)
    assert hull([Range(-3, -2)]) == Range(-3, 0)
    assert hull([]) is None
    assert Range(-3, 2).peak == 3
