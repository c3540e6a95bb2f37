"""What each graph input means, by structure; names in these graphs say nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from models import build
from qcompiler.data.spec import InputSpec, Role
from qcompiler.graph import Graph
from qcompiler.inputs import input_specs
from qcompiler.load import load
from tests.hand_made import graph, normal


def _specs(made: Graph) -> dict[str, InputSpec]:
    return {s.name: s for s in input_specs(made)}


def _roles(text: str, **constants: Any) -> dict[str, Role]:
    return {n: s.role for n, s in _specs(graph(text, **constants)).items()}


@pytest.mark.parametrize(
    "path",
    [
        "e = Gather (T, a)",
        "b = Cast <to = 7> (a) e = Gather (T, b)",
        "b = Reshape (a, flat) e = Gather (T, b)",
        "b = Unsqueeze (a, first) c = Cast <to = 7> (b) e = Gather (T, c)",
    ],
)
def test_integers_that_index_the_rows_of_a_constant_are_ids(path: str) -> None:
    specs = _specs(
        graph(
            f"g (int64[N] a) => (float[u,v] y) {{ {path} y = Relu (e) }}",
            T=(40, 8),
            flat=np.array([-1], np.int64),
            first=np.array([0], np.int64),
        )
    )
    assert (specs["a"].role, specs["a"].rows) == (Role.TOKENS, 40)


@pytest.mark.parametrize("use", ["y = Gather <axis = 1> (T, a)", "e = Relu (x) y = Gather (e, a)"])
def test_integers_that_index_something_else_are_not(use: str) -> None:
    text = f"g (int64[N] a, float[40,8] x) => (float[u,v] y, float[40,8] z) {{ {use} z = Neg (x) }}"
    assert _roles(text, T=(40, 8))["a"] is Role.INTEGER


@pytest.mark.parametrize(
    "use",
    [
        "y = Sub (one, a)",
        "y = Mul (a, one)",
        "c = Unsqueeze (a, first) y = Mul (c, one)",
        "c = Cast <to = 9> (a) d = Not (c) y = Cast <to = 7> (d)",
        "y = ReduceSum (a)",
    ],
)
def test_integers_that_are_compared_or_scaled_are_masks(use: str) -> None:
    text = f"g (int64[1,16] a) => (int64[u,v] y) {{ {use} }}"
    constants = {"one": np.array(1, np.int64), "first": np.array([0], np.int64)}
    assert _roles(text, **constants)["a"] is Role.MASK


def test_a_float_tensor_that_is_added_to_attention_scores_is_a_mask() -> None:
    roles = _roles(
        """g (float[1,4,16,16] s, float[1,1,16,16] a, float[1,4,16,16] b) => (float[1,4,16,16] y) {
          r = Relu (s)
          m = Add (r, a)
          p = Softmax (m)
          y = Mul (p, b)
        }"""
    )
    assert roles == {"s": Role.FLOAT, "a": Role.MASK, "b": Role.FLOAT}


CACHE = """g (float[batch,2,past,8] a, float[batch,4,seq,8] x) => (float[batch,2,total,8] p) {{
  k = Slice (x, start, end, axes)
  p = Concat <axis = {axis}> ({order})
}}"""
SLICE = {
    "start": np.array([0], np.int64),
    "end": np.array([2], np.int64),
    "axes": np.array([1], np.int64),
}


@pytest.mark.parametrize("axis", [2, -2])
@pytest.mark.parametrize("order", ["a, k", "k, a"])
def test_a_tensor_whose_length_is_extended_by_computed_values_is_a_cache(
    axis: int, order: str
) -> None:
    specs = _specs(graph(CACHE.format(axis=axis, order=order), **SLICE))
    assert (specs["a"].role, specs["a"].length_axis) == (Role.CACHE, 2)
    assert specs["x"].role is Role.FLOAT


def test_a_cache_of_three_axes() -> None:
    roles = _roles(
        """g (float[batch,past,64] a, float[batch,seq,64] x) => (float[batch,total,64] p) {
          k = Relu (x)
          p = Concat <axis = 1> (a, k)
        }"""
    )
    assert roles["a"] is Role.CACHE


@pytest.mark.parametrize(
    ("shape", "axis"),
    [
        ("batch,3,height,width", 1),
        ("1,3,32,32", 2),
        ("batch,channels,height,width", 1),
    ],
)
def test_an_image_beside_a_feature_map_is_no_cache(shape: str, axis: int) -> None:
    text = f"""g (float[{shape}] a) => (float[u,v,w,z] y) {{
      f = Relu (a)
      y = Concat <axis = {axis}> (a, f)
    }}"""
    assert _roles(text)["a"] is Role.FLOAT


def test_two_inputs_joined_are_no_cache() -> None:
    text = """g (float[b,2,n,8] a, float[b,2,m,8] c) => (float[b,2,k,8] y) {
      y = Concat <axis = 2> (a, c)
    }"""
    assert set(_roles(text).values()) == {Role.FLOAT}


def test_strings_have_no_role() -> None:
    specs = _specs(graph("g (string[2] a) => (string[2] y) { y = Identity (a) }"))
    assert (specs["a"].role, specs["a"].dtype) == (Role.OTHER, np.dtype(object))


def test_shapes_keep_numbers_symbols_and_unknowns() -> None:
    made = graph("g (float[N,3,4] a) => (float[N,3,4] y) { y = Relu (a) }")
    (spec,) = input_specs(made)
    assert (spec.shape, spec.dtype) == (("N", 3, 4), np.dtype(np.float32))


def test_the_order_is_that_of_the_graph_and_constants_are_no_inputs() -> None:
    made = graph(
        "g (float[4] b, float[4] a) => (float[4] y) { s = Add (b, a) y = Add (s, W) }", W=(4,)
    )
    assert [s.name for s in input_specs(made)] == ["b", "a"]


@pytest.mark.parametrize(
    ("name", "roles"),
    [
        ("attention", {"hidden": Role.FLOAT, "attention_mask": Role.MASK}),
        (
            "decoder_kv",
            {"input_ids": Role.TOKENS, "past_key": Role.CACHE, "past_value": Role.CACHE},
        ),
        ("shared_weight", {"input_ids": Role.TOKENS}),
        ("branch_if", {"x": Role.FLOAT, "wide": Role.INTEGER}),
        ("resnet20", {"input": Role.FLOAT}),
    ],
)
def test_the_models(name: str, roles: dict[str, Role]) -> None:
    made = load(build.load(name))
    made.infer()
    assert {n: s.role for n, s in _specs(made).items()} == roles


def test_normal_numbers_have_the_shape_asked_for() -> None:
    assert normal("a", (3, 4)).shape == (3, 4)
