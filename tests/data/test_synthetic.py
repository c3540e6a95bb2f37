"""Synthetic inputs: shapes from symbols, values from roles, the same for the same seed."""

from __future__ import annotations

import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.data.spec import Axis, InputSpec, Role
from qcompiler.data.synthetic import synthetic
from qcompiler.errors import InputError

F32 = np.dtype("float32")
I64 = np.dtype("int64")


def _shapes(*specs: InputSpec) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in next(iter(synthetic(specs))).items()}


def test_decoder(decoder: list[InputSpec]) -> None:
    mask = InputSpec("mask", I64, ("batch", "past + seq"), Role.MASK)
    step = InputSpec("next", I64, ("batch", "past + 1"), Role.MASK)
    positions = InputSpec("positions", I64, ("seq",), Role.INTEGER)
    data = synthetic([*decoder, mask, step, positions])
    assert data.synthetic
    assert data.source == "synthetic"
    feeds = list(data)
    assert len(feeds) == operator.length_hint(data) == 8
    assert {name: array.shape for name, array in feeds[0].items()} == {
        "ids": (1, 16),
        "past.key": (1, 2, 0, 8),
        "past.value": (1, 2, 0, 8),
        "mask": (1, 16),
        "next": (1, 1),
        "positions": (16,),
    }
    assert data.notes[0].startswith("the inputs are synthetic (seed 0): ")
    assert data.notes[1:] == ("the KV cache is fed empty: 'past.key' and 1 more",)


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (("n", 3, "h", "w"), (1, 3, 64, 64)),
        (("n", "h", "w", 3), (1, 64, 64, 3)),
        (("n", "c", "h", "w"), (1, 3, 64, 64)),
        ((None, None, None, None), (1, 3, 64, 64)),
        (("n", 3, "t", "h", "w"), (1, 3, 64, 64, 64)),
        (("n", "t", 40), (1, 16, 40)),
        ((None, None), (1, 16)),
        (("n",), (1,)),
        ((8, "s"), (8, 16)),
        ((), ()),
    ],
)
def test_free_axes(shape: tuple[Axis, ...], wanted: tuple[int, ...]) -> None:
    assert _shapes(InputSpec("x", F32, shape)) == {"x": wanted}


def test_batch_symbol_is_one_wherever_it_stands() -> None:
    found = _shapes(
        InputSpec("state", F32, (2, "B", 128)), InputSpec("ids", I64, ("B", "T"), Role.TOKENS)
    )
    assert found == {"state": (2, 1, 128), "ids": (1, 16)}


def test_a_symbol_shared_with_an_image_has_one_size() -> None:
    found = _shapes(InputSpec("v", F32, ("n", "w")), InputSpec("x", F32, ("n", 3, 8, "w")))
    assert found == {"v": (1, 64), "x": (1, 3, 8, 64)}


def test_values_follow_the_role() -> None:
    specs = [
        InputSpec("x", F32, ("n", 1000)),
        InputSpec("half", np.dtype("float16"), ("n", 4)),
        InputSpec("ids", I64, ("n", 1000), Role.TOKENS, rows=7),
        InputSpec("free", I64, ("n", 1000), Role.TOKENS),
        InputSpec("mask", F32, ("n", 4), Role.MASK),
        InputSpec("flag", np.dtype(bool), ("n",), Role.INTEGER),
        InputSpec("rate", np.dtype("int32"), (), Role.INTEGER),
        InputSpec("pixels", np.dtype("uint8"), ("n", 3, 8, 8), Role.INTEGER),
        InputSpec("past", F32, ("n", 2, 16, 4), Role.CACHE),
    ]
    data = synthetic(specs)
    feed = next(iter(data))
    assert {spec.name: spec.dtype for spec in specs} == {n: a.dtype for n, a in feed.items()}
    # 1,000 draws: the mean's standard error is 0.032, that of the standard deviation 0.022.
    assert abs(feed["x"].mean()) < 0.15
    assert abs(feed["x"].std() - 1) < 0.1
    assert set(feed["ids"].flat) == set(range(7))
    assert feed["free"].min() >= 0
    assert feed["free"].max() == 63
    assert feed["mask"].tolist() == [[1, 1, 1, 1]]
    assert feed["flag"].tolist() == [True]
    assert feed["rate"] == 1
    assert feed["pixels"].max() > 200
    assert feed["past"].std() > 0
    assert len(data.notes) == 1


@given(seed=st.integers(0, 2**32), samples=st.integers(1, 3))
def test_deterministic_and_independent_of_the_other_inputs(seed: int, samples: int) -> None:
    x, y = InputSpec("x", F32, ("n", 5)), InputSpec("y", F32, ("n", 5))
    both = list(synthetic([y, x], seed=seed, samples=3))
    alone = list(synthetic([x], seed=seed, samples=samples))
    for one, other in zip(alone, both, strict=False):
        assert one["x"].tobytes() == other["x"].tobytes() != other["y"].tobytes()
    other_seed = next(iter(synthetic([x], seed=seed + 1)))
    assert alone[0]["x"].tobytes() != other_seed["x"].tobytes()


@pytest.mark.parametrize(
    "spec",
    [
        InputSpec("s", np.dtype(object), ("n",), Role.OTHER),
        InputSpec("s", np.dtype("float32"), None),
        InputSpec("s", np.dtype("int64"), ("n",), Role.OTHER),
    ],
)
def test_what_cannot_be_invented(spec: InputSpec) -> None:
    with pytest.raises(InputError) as caught:
        synthetic([InputSpec("x", F32, ("n", 2)), spec])
    assert caught.value.message == f"no values can be invented for 's' {spec}"
    assert "--data" in caught.value.hint
