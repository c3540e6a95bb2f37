"""What merge-siblings and split-heads leave to those who come after them."""

from __future__ import annotations

import numpy as np
import pytest

from models import build
from qcompiler import formats, ops, targets
from qcompiler import recipe as recipes
from qcompiler.attention import attentions
from qcompiler.graph import Graph, Node, label
from qcompiler.load import load
from qcompiler.passes.merge_siblings import MergeSiblings, keeps_accuracy
from qcompiler.passes.split_heads import SplitHeads
from qcompiler.pipeline import Pipeline
from qcompiler.plan import Points
from qcompiler.prepare import prepare
from qcompiler.scan import scan
from tests.hand_made import graph

MERGE = Pipeline((MergeSiblings(), SplitHeads()))
HEADS = """
  {projections}
  q2 = Reshape (q1, heads)  q = Transpose <perm = [0, 2, 1, 3]> (q2)
  k2 = Reshape (k1, heads)  k = Transpose <perm = [0, 2, 3, 1]> (k2)
  v2 = Reshape (v1, heads)  v = Transpose <perm = [0, 2, 1, 3]> (v2)
  s = MatMul (q, k)  p = Softmax <axis = -1> (s)  r = MatMul (p, v)
  c1 = Transpose <perm = [0, 2, 1, 3]> (r)  c = Reshape (c1, flat)  y = MatMul (c, O)
"""
THREE = '["/q"] q1 = MatMul (x, Q)  ["/k"] k1 = MatMul (x, K)  ["/v"] v1 = MatMul (x, V)'
CHUNKS = '["/qkv"] m = MatMul (x, W)  q1, k1, v1 = Split <axis = -1, num_outputs = 3> (m)'
GATED = """
  ["/gate"] a = MatMul (x, G)  ["/up"] b = MatMul (x, U)
  s = Sigmoid (a)  t = Mul (a, s)  h = Mul (t, b)  y = MatMul (h, D)
"""


def _heads(projections: str) -> Graph:
    return graph(
        "g (float[2,24,64] x) => (float[2,24,64] y) {"
        + HEADS.format(projections=projections)
        + "}",
        heads=np.array([2, 24, 4, 16]),
        flat=np.array([2, 24, 64]),
        W=(64, 192),
        **dict.fromkeys("QKVO", (64, 64)),
    )


def _gated() -> Graph:
    text = f"g (float[4,32] x) => (float[4,32] y) {{{GATED}}}"
    return graph(text, G=(32, 48), U=(32, 48), D=(48, 32))


def _scanned(made: Graph, format: str = "int8") -> Points:  # noqa: A002
    return scan(made, recipes.find(f"{format}+fp16"), targets.find("tensorrt-rtx:sm89"))


def _first(made: Graph) -> Node:
    return next(n for n in made.nodes if n.op == "MatMul")


def test_the_name_tells_what_was_merged() -> None:
    """Globs over node names (``*/k*``) still find the layer, and listings say what it was."""
    made = _heads(THREE)
    MERGE.run(made)
    assert label(_first(made)) == "/q + /k + /v"


@pytest.mark.parametrize("projections", [THREE, CHUNKS], ids=["three", "chunks"])
@pytest.mark.parametrize("format", ["int8", "fp8"])
def test_a_merged_weight_keeps_a_scale_for_each_channel(projections: str, format: str) -> None:  # noqa: A002
    """One scale for all would round the narrow part with the step of the wide one."""
    made = _heads(projections)
    MERGE.run(made)
    weights = {w.tensor: w.storage.axis for w in _scanned(made, format).weights}
    assert weights == {_first(made).inputs[1].name: 1, "O": 1}


def test_chunks_alone_need_one_scale() -> None:
    """The Split would be pushed back through the product, and the scales would not fit."""
    made = _heads(CHUNKS)
    weights = {w.tensor: w.storage.axis for w in _scanned(made).weights}
    assert weights == {"W": None, "O": 1}


def test_gate_and_up_keep_a_scale_for_each_channel() -> None:
    made = _gated()
    assert MERGE.run(made)[0].rewrites == 1
    assert {w.storage.axis for w in _scanned(made).weights} == {1}
    assert not ops.splits_evenly(made, _first(made))


@pytest.mark.parametrize("projections", [THREE, CHUNKS], ids=["three", "chunks"])
def test_query_key_and_value_keep_their_scales(projections: str) -> None:
    """They come from one tensor, but each is rounded by its own range."""
    made = _heads(projections)
    MERGE.run(made)
    (attention,) = attentions(made)
    groups = {p.tensor: p.group for p in _scanned(made).activations}
    inputs = [t.name for n in attention.nodes for t in n.inputs]
    assert len({groups[name] for name in inputs}) == 4


def test_attention_is_recognized_in_the_models() -> None:
    """Both passes leave the pattern that placement and the compiler look for."""
    for name in ("attention", "decoder_kv"):
        made, _ = prepare(build.load(name), targets.find("onnxruntime"))
        before = len(list(attentions(made)))
        steps = MERGE.run(made)
        assert steps[0].rewrites == 2
        assert len(list(attentions(made))) == before == 1


def test_nothing_is_stored_twice() -> None:
    made = _heads(THREE)
    before = made.weight_bytes()
    MERGE.run(made)
    added = sum(made.constant_bytes(t) for t in made.constants() if t.dtype == np.int64)
    assert made.weight_bytes() <= before + added


@pytest.mark.parametrize(
    ("storage", "per_channel", "verdict"),
    [
        ("int8", True, True),
        ("int8", False, False),
        ("fp8_e4m3", False, True),
        ("fp8_e4m3", True, True),
    ],
)
def test_what_formats_allow(storage: str, per_channel: bool, verdict: bool) -> None:
    assert keeps_accuracy(storage, per_channel=per_channel) is verdict


def test_integers_lose_by_a_common_scale_and_floats_do_not() -> None:
    """The reason: the narrow part's range is a fourth of the wide one's."""
    generator = np.random.default_rng(5)
    wide, narrow = generator.uniform(-4, 4, 4096), generator.uniform(-1, 1, 4096)
    for name, factor in (("int8", 4.0), ("fp8_e4m3", 1.0)):
        form = formats.get(name)
        errors = []
        for top in (np.abs(narrow).max(), np.abs(wide).max()):
            scale = top / form.max
            codes = form.decode(form.encode(narrow / scale))
            errors.append(np.sqrt(np.mean((codes * scale - narrow) ** 2)))
        assert errors[1] / errors[0] == pytest.approx(factor, rel=0.1)


def test_a_model_on_disk_is_merged_from_disk() -> None:
    """Constants that were made from constants on disk go back to disk."""
    made = load(build.load("swiglu"))
    made.infer()
    made.spill()
    assert MERGE.run(made)[0].rewrites == 1
