"""The operator Attention written out: the same function over all its options, in two runtimes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, helper
from onnx.reference import ReferenceEvaluator

from qcompiler import targets
from qcompiler.attention import attentions
from qcompiler.graph import Graph
from qcompiler.load import load
from qcompiler.passes.expand_attention import ExpandAttention
from qcompiler.passes.fuse_attention import FuseAttention
from qcompiler.pipeline import Pipeline
from qcompiler.prepare import PREPARE
from qcompiler.verify import check_onnx, check_structure
from tests.contract.running import in_double
from tests.hand_made import graph

Array = NDArray[Any]
EXPAND = Pipeline((ExpandAttention(),))
# Batch, query heads, queries, new keys, keys of the past, elements of a query and of a value.
BATCH, HEADS, QUERIES, KEYS, PAST, SIZE, VALUE = 2, 4, 3, 5, 2, 8, 6
NAMES = ("q", "k", "v", "mask", "past_key", "past_value", "filled")
AXES = {"B": BATCH, "H": HEADS, "S": QUERIES}
MASKS = ("ST", "1T", "S1", "HST", "11T", "B1ST", "BHST", "B11T", "11ST")


@dataclass(frozen=True, kw_only=True)
class Case:
    """The options of one Attention."""

    opset: int = 24
    flat: bool = False
    groups: int = HEADS
    mask: str = ""
    boolean: bool = True
    missing: int = 0
    causal: bool = False
    past: bool = False
    presents: bool = False
    filled: bool = False
    scale: float = 0.0
    cap: float = 0.0
    precision: int = 0
    dtype: str = "float32"
    free: bool = True
    seed: int = 0

    @property
    def keys(self) -> int:
        """Keys that are attended to, the past included."""
        return KEYS + PAST * self.past

    @property
    def attributes(self) -> dict[str, Any]:
        """As the node has them."""
        heads = {"q_num_heads": HEADS, "kv_num_heads": self.groups} if self.flat else {}
        said = {
            "is_causal": int(self.causal),
            "scale": self.scale,
            "softcap": self.cap,
            "softmax_precision": self.precision,
        }
        return {**heads, **{name: value for name, value in said.items() if value}}


def _feeds(case: Case) -> dict[str, Array]:
    rng = np.random.default_rng(case.seed)
    shapes = {"q": (HEADS, QUERIES, SIZE), "k": (case.groups, KEYS, SIZE)}
    shapes["v"] = (case.groups, KEYS, VALUE)
    out: dict[str, Array] = {}
    for name, (heads, length, size) in shapes.items():
        shape = (BATCH, length, heads * size) if case.flat else (BATCH, heads, length, size)
        out[name] = rng.standard_normal(shape).astype(case.dtype)
    if case.mask:
        out["mask"] = _mask(case, rng)
    if case.past:
        for name, size in (("past_key", SIZE), ("past_value", VALUE)):
            shape = (BATCH, case.groups, PAST, size)
            out[name] = rng.standard_normal(shape).astype(case.dtype)
    if case.filled:
        out["filled"] = rng.integers(0, KEYS + 1, BATCH)
    return out


def _mask(case: Case, rng: np.random.Generator) -> Array:
    """Half of it hides, and one query is hidden from everything."""
    axes = {**AXES, "T": case.keys - case.missing}
    shape = [1 if axis == "1" else axes[axis] for axis in case.mask]
    keep = rng.random(shape) < 0.5
    keep[..., 0, :] = False
    bias = np.where(keep, rng.standard_normal(shape), -np.inf).astype(case.dtype)
    return keep if case.boolean else bias


def _model(case: Case, feeds: dict[str, Array]) -> ModelProto:
    inputs = [name if name in feeds else "" for name in NAMES]
    while not inputs[-1]:
        inputs.pop()
    outputs = ["y", "new_key", "new_value"] if case.presents else ["y"]
    element = helper.np_dtype_to_tensor_dtype(np.dtype(case.dtype))
    ranks = [3 if case.flat else 4, 4, 4]
    made = helper.make_graph(
        [helper.make_node("Attention", inputs, outputs, name="attention", **case.attributes)],
        "g",
        [_declared(case, name, array) for name, array in feeds.items()],
        [
            helper.make_tensor_value_info(name, element, [f"{name}{i}" for i in range(rank)])
            for name, rank in zip(outputs, ranks, strict=False)
        ],
    )
    opsets = [helper.make_opsetid("", case.opset)]
    return helper.make_model(made, opset_imports=opsets, ir_version=11)


def _declared(case: Case, name: str, array: Array) -> Any:
    """An input; every length that a model may leave open is, if the case says so."""
    shape: list[int | str] = list(array.shape)
    long = {"q": "S", "k": "N", "v": "N", "past_key": "P", "past_value": "P"}
    if case.free and name == "mask":
        shape[-1] = "M"
    elif case.free:
        shape[0] = "B"
        if name in long:
            shape[-2] = long[name]
    element = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, element, shape)


def _tolerance(case: Case, feeds: dict[str, Array]) -> float:
    """How far rounding may move a result.

    A score is a sum of D products of which each is rounded, with the scale and a softcap around it:
    it is off by ``(D + 10) eps A`` at most, A the largest sum of absolute products, and by another
    ``eps (A + M)`` where a finite mask M is added.  A probability is off by twice that, relatively,
    and by its own sum of T; a result is a mean of values, off by its sum of T once more.
    """
    types = [np.dtype(case.dtype)]
    if case.precision:
        types.append(helper.tensor_dtype_to_np_dtype(case.precision))
    eps = max(float(np.finfo(t).eps) for t in types)
    largest = {n: float(np.abs(a).max()) for n, a in feeds.items() if a.dtype.kind == "f"}
    query, key, value = (
        max(largest.get(n, 0.0) for n in names)
        for names in (("q",), ("k", "past_key"), ("v", "past_value"))
    )
    scores = SIZE * query * key * (case.scale or SIZE**-0.5)
    mask = feeds.get("mask", np.zeros(1))
    added = float(np.abs(mask[np.isfinite(mask)]).max(initial=0)) if mask.dtype.kind == "f" else 0.0
    return value * eps * (2 * ((SIZE + 11) * scores + added) + 2 * case.keys + 16)


def _run(model: ModelProto, feeds: dict[str, Array], level: str) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return list(session.run(None, feeds))


def _results(model: ModelProto, feeds: dict[str, Array]) -> Iterator[Sequence[Array]]:
    yield [np.asarray(a) for a in ReferenceEvaluator(model).run(None, dict(feeds))]
    yield _run(model, feeds, "ORT_DISABLE_ALL")
    yield _run(model, feeds, "ORT_ENABLE_BASIC")


def _assert_same(case: Case) -> None:
    feeds = _feeds(case)
    source = _model(case, feeds)
    made = load(source)
    made.infer()
    assert EXPAND.run(made)[0].rewrites == 1
    assert check_onnx(made) == ""
    written = made.proto()
    check_structure(written)
    assert "Attention" not in {n.op_type for n in written.graph.node}
    wide = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in feeds.items()}
    exact = ReferenceEvaluator(in_double(source)).run(None, wide)
    tolerance = _tolerance(case, feeds)
    for results in _results(written, feeds):
        for result, truth in zip(results, exact, strict=True):
            assert result.dtype == case.dtype
            assert result.shape == truth.shape
            np.testing.assert_allclose(result, truth, rtol=0, atol=tolerance)


@st.composite
def _cases(draw: st.DrawFn) -> Case:
    def flag() -> bool:
        return draw(st.booleans())

    opset = draw(st.sampled_from((23, 24)))
    past = flag()
    mask = draw(st.sampled_from(("", *MASKS)))
    return Case(
        opset=opset,
        flat=flag(),
        groups=draw(st.sampled_from((1, 2, 4))),
        mask=mask,
        boolean=flag(),
        missing=draw(st.integers(0, 2)) if mask.endswith("T") else 0,
        causal=flag(),
        past=past,
        presents=past and flag(),
        filled=opset == 24 and not past and flag(),
        scale=draw(st.sampled_from((0.0, 1.0, 0.3))),
        cap=draw(st.sampled_from((0.0, 0.7))),
        precision=draw(st.sampled_from((0, 1, 10))),
        dtype=draw(st.sampled_from(("float32", "float16"))),
        free=flag(),
        seed=draw(st.integers(0, 999)),
    )


@given(_cases())
@settings(max_examples=250, deadline=None)
def test_the_same_function_whatever_the_options(case: Case) -> None:
    """``S1`` has one column: the op pads it to the keys, as any mask that is shorter."""
    _assert_same(case)


@pytest.mark.parametrize("free", [True, False])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("boolean", [True, False])
@pytest.mark.parametrize("causal", [True, False])
def test_the_same_function_under_every_mask(
    free: bool, mask: str, boolean: bool, causal: bool
) -> None:
    _assert_same(Case(free=free, mask=mask, boolean=boolean, causal=causal, groups=2))


@pytest.mark.parametrize("opset", [23, 24])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("free", [True, False])
def test_what_onnxruntime_says_of_the_operator_itself(
    opset: int, flat: bool, groups: int, free: bool
) -> None:
    """The reference is not the only witness: ONNX Runtime's own kernel gives the same numbers."""
    case = Case(
        opset=opset, flat=flat, groups=groups, free=free, causal=True, past=True, presents=True
    )
    feeds = _feeds(case)
    source = _model(case, feeds)
    made = load(source)
    made.infer()
    EXPAND.run(made)
    before, after = (_run(m, feeds, "ORT_DISABLE_ALL") for m in (source, made.proto()))
    np.testing.assert_allclose(after[0], before[0], rtol=0, atol=2 * _tolerance(case, feeds))


def test_a_query_that_reads_nothing_gives_zero() -> None:
    """Not almost: exactly, for the probabilities of all real keys are exp(-inf)."""
    for boolean in (True, False):
        case = Case(mask="B1ST", boolean=boolean)
        feeds = _feeds(case)
        made = load(_model(case, feeds))
        made.infer()
        EXPAND.run(made)
        for results in _results(made.proto(), feeds):
            assert not results[0][:, :, 0].any()
            assert results[0][:, :, 1:].all()


# ---------------------------------------------------------------------- its form


SHAPE = "float[B,4,24,16]"


def _graph(body: str, mask: str = "", **constants: Any) -> Graph:
    declared = f", {mask} mask" if mask else ""
    text = f"g ({SHAPE} q, {SHAPE} k, {SHAPE} v{declared}) => ({SHAPE} y) {{ {body} }}"
    return graph(text, opset=23, **constants)


@pytest.mark.parametrize(
    ("options", "mask"),
    [
        ("", ""),
        ("<is_causal = 1>", ""),
        ("<scale = 1.0>", "bool[B,1,24,24]"),
        ("", "float[24,24]"),
        ("<is_causal = 1>", "float[B,1,24,T]"),
    ],
)
def test_what_it_writes_is_known_as_attention(options: str, mask: str) -> None:
    made = _graph(f"[a] y = Attention {options} (q, k, v{', mask' if mask else ''})", mask)
    EXPAND.run(made)
    (found,) = attentions(made)
    assert found.result.name == "a"
    assert found.head == 16
    assert found.queries == 24


@pytest.mark.parametrize("bias", ["", ", bias"])
def test_fuse_attention_is_the_way_back(bias: str) -> None:
    """A float mask that hides nothing entirely, such as this constant, needs no zero key."""
    made = _graph(f"y = Attention <scale = 0.25> (q, k, v{bias})", bias=np.tri(24, dtype="f"))
    before = [t.name for t in made.nodes[0].inputs]
    assert EXPAND.run(made)[0].rewrites == 1
    assert Pipeline((FuseAttention(),)).run(made)[0].rewrites == 1
    (node,) = made.nodes
    assert node.op == "Attention"
    assert node.attrs["scale"] == pytest.approx(0.25, rel=1e-6)
    assert [t.name for t in node.inputs] == before


def test_attentions_that_are_masked_alike_share_the_mask() -> None:
    """A model of 12 layers looks once for queries that read nothing."""
    body = "a = Attention (q, k, v, mask)  b = Attention (a, k, v, mask)"
    made = _graph(
        f"{body}  c = Attention <is_causal = 1> (b, k, v)  y = Attention <is_causal = 1> (c, k, v)",
        "bool[B,1,24,24]",
    )
    assert EXPAND.run(made)[0].rewrites == 4
    chosen = [n.inputs[0] for n in made.nodes if n.op == "Where"]
    assert len(chosen) == 4
    assert len({id(t) for t in chosen}) == 2
    assert sum(n.op == "ReduceMax" for n in made.nodes) == 1


@pytest.mark.parametrize(
    "text",
    [
        "(float[B,4,S,16] q, float[B,3,T,16] k, float[B,3,T,16] v) => (float[B,4,S,16] y) "
        "{ y = Attention (q, k, v) }",
        "(float[B,4,S,16] q, float[B,4,T,16] k, float[B,4,T,16] v) => (float[B,4,S,16] y) "
        "{ y = Attention <scale = -1.0> (q, k, v) }",
        "(float[B,4,S,16] q, float[B,4,T,16] k, float16[B,4,T,16] v) => (float16[B,4,S,16] y) "
        "{ y = Attention (q, k, v) }",
        "(float[B,4,S,16] q, float[B,4,T,16] k, float[B,4,T,16] v, float[T] m) "
        "=> (float[B,4,S,16] y) { y = Attention (q, k, v, m) }",
        "(float[B,S,64] q, float[B,T,64] k, float[B,T,64] v) => (float[B,S,64] y) "
        "{ y = Attention (q, k, v) }",
        "(float[B,S,N] q, float[B,T,64] k, float[B,T,64] v) => (float[B,S,N] y) "
        "{ y = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v) }",
    ],
    ids=["heads", "scale", "types", "vector mask", "no heads", "free size"],
)
def test_what_is_not_known_or_not_allowed_stays(text: str) -> None:
    made = graph(f"g {text}", opset=23)
    assert EXPAND.run(made)[0].rewrites == 0


# ---------------------------------------------------------------------- where it runs


@pytest.mark.parametrize("name", targets.names())
def test_no_target_runs_it_and_its_inverse(name: str) -> None:
    passes = (*PREPARE, *targets.find(name).prepares)
    assert not {"expand-attention", "fuse-attention"} <= set(passes)


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_tensorrt_expands_before_it_folds_scales_and_merges(name: str) -> None:
    """A scale on the query folds into its projection only as long as that is its own."""
    passes = targets.find(name).prepares
    order = [passes.index(n) for n in ("expand-attention", "fold-scales", "merge-siblings")]
    assert order == sorted(order)
    assert "expand-attention" not in targets.find("onnxruntime").prepares
