"""A zero key does what torch's guard does: who reads nothing gets zero, the others the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qcompiler.attention import attentions
from qcompiler.graph import Graph
from qcompiler.passes.drop_nan_guards import DropNanGuards
from qcompiler.pipeline import Pipeline
from tests.contract.running import assert_same_function, run
from tests.hand_made import f32, graph

DROP = Pipeline((DropNanGuards(),))
KEEP = np.random.default_rng(3).random((2, 1, 6, 9)) < 0.5
KEEP[0, :, 0] = False
KEEP[1] |= ~KEEP[1].any(-1, keepdims=True)
MASKED = {
    "bias of a mask": "bias = Where (mask, zero, low)  m = Add (s, bias)",
    "mask": "m = Where (mask, s, low)",
    "bias": "m = Add (s, mask)",
}
TURNED = {
    "turned": "t = Transpose <perm = [0, 1, 3, 2]> (k)",
    "turned in three axes": "k3 = Reshape (k, flat)  t3 = Transpose <perm = [0, 2, 1]> (k3)  "
    "t = Reshape (t3, whole)",
}


def _guarded(masked: str, turned: str) -> Graph:
    mask = "float" if masked == "bias" else "bool"
    return graph(
        f"g (float[2,4,6,16] q, float[2,4,9,16] k, float[2,4,9,8] v, {mask}[2,1,6,9] mask) "
        f"=> (float[2,4,6,8] y) {{ {TURNED[turned]} [scores] s = MatMul (q, t)  {MASKED[masked]}  "
        "p = Softmax <axis = -1> (m)  n = IsNaN (p)  g = Where (n, zero, p)  "
        "[result] y = MatMul (g, v) }",
        zero=f32(0),
        low=f32(-np.inf),
        flat=np.array([8, 9, 16]),
        whole=np.array([2, 4, 16, 9]),
    )


@pytest.mark.parametrize("turned", TURNED)
@pytest.mark.parametrize("masked", MASKED)
def test_queries_that_read_nothing_still_give_zero(masked: str, turned: str) -> None:
    made = _guarded(masked, turned)
    before = made.proto()
    assert DROP.run(made)[0].rewrites == 1
    assert "IsNaN" not in {n.op for n in made.nodes}
    rng = np.random.default_rng(4)
    shapes = {"q": (2, 4, 6, 16), "k": (2, 4, 9, 16), "v": (2, 4, 9, 8)}
    feeds: dict[str, Any] = {
        n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()
    }
    bias = np.where(KEEP, rng.standard_normal(KEEP.shape), -np.inf).astype(np.float32)
    feeds["mask"] = bias if masked == "bias" else KEEP
    assert_same_function(before, made.proto(), feeds)
    (result,) = run(made.proto(), feeds)
    assert np.array_equal(result.any(axis=(1, 3)), KEEP.any(axis=(1, 3)))


@pytest.mark.parametrize("turned", TURNED)
def test_it_is_still_known_as_attention(turned: str) -> None:
    """Under its old names: a plan or a recipe may say them."""
    made = _guarded("mask", turned)
    DROP.run(made)
    (found,) = attentions(made)
    assert (found.scores.name, found.result.name) == ("scores", "result")
    assert found.keys == 10
