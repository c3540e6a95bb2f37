"""A model that fixes its batch at N gets groups of N."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qcompiler.data.open import open_data
from qcompiler.data.spec import InputSpec, Role
from qcompiler.errors import InputError

F32 = np.dtype("float32")


def _rows(count: int) -> np.ndarray:
    return np.arange(2 * count, dtype=np.float32).reshape(count, 2)


def test_groups_and_the_dropped_rest(fixed: list[InputSpec]) -> None:
    data = open_data({"x": _rows(10)}, fixed)
    for _ in range(2):
        first, second = (feed["x"] for feed in data)
        np.testing.assert_array_equal(first, _rows(10)[:4], strict=True)
        np.testing.assert_array_equal(second, _rows(10)[4:8], strict=True)
    assert data.notes == ("the last 2 of 10 samples are dropped: the model's batch is fixed at 4",)


def test_a_group_spans_files(tmp_path: Path, fixed: list[InputSpec]) -> None:
    for i, row in enumerate(_rows(8)):
        np.savez(tmp_path / f"{i}.npz", allow_pickle=False, x=row[None])
    data = open_data(tmp_path, fixed)
    np.testing.assert_array_equal(np.concatenate([feed["x"] for feed in data]), _rows(8))
    assert data.notes == ()


def test_complete_inputs_are_not_regrouped(fixed: list[InputSpec]) -> None:
    whole = _rows(8).reshape(2, 4, 2)
    for feed, entry in zip(open_data({"x": whole}, fixed), whole, strict=True):
        np.testing.assert_array_equal(feed["x"], entry, strict=True)


def test_fewer_samples_than_the_batch(fixed: list[InputSpec]) -> None:
    with pytest.raises(InputError) as caught:
        list(open_data({"x": _rows(3)}, fixed))
    assert (
        caught.value.message == "the model's batch is fixed at 4, but the data has only 3 samples"
    )
    assert "at least 4 samples" in caught.value.hint


def test_a_free_first_axis_follows_the_fixed_batch() -> None:
    specs = [
        InputSpec("x", F32, (4, 2)),
        InputSpec("y", F32, ("n", 1)),
        InputSpec("rate", F32, (), Role.INTEGER),
    ]
    data = open_data(
        {"x": _rows(8), "y": np.ones((8, 1), np.float32), "rate": np.array(3, np.float32)}, specs
    )
    shapes = [{name: array.shape for name, array in feed.items()} for feed in data]
    assert shapes == [{"x": (4, 2), "y": (4, 1), "rate": ()}] * 2


def test_scalar_that_changes_within_a_group(fixed: list[InputSpec]) -> None:
    specs = [*fixed, InputSpec("rate", F32, (), Role.FLOAT)]
    rate = np.array([1, 1, 1, 1, 2, 2, 2, 3], np.float32)
    data = iter(open_data({"x": _rows(8), "rate": rate}, specs))
    assert next(data)["rate"] == 1
    with pytest.raises(InputError, match="samples 4 to 7, input 'rate': expected one value"):
        next(data)


def test_constant_that_changes_between_files_of_a_group(fixed: list[InputSpec]) -> None:
    specs = [*fixed, InputSpec("rate", F32, (), Role.FLOAT)]
    items = [{"x": _rows(2), "rate": np.array(rate, np.float32)} for rate in (1, 1, 2, 3)]
    data = iter(open_data(items, specs))
    assert next(data)["rate"] == 1
    with pytest.raises(InputError, match="input 'rate': expected one value"):
        next(data)


def test_ragged_samples_within_a_group() -> None:
    spec = [InputSpec("x", F32, (2, "n"))]
    items = [{"x": np.ones((1, n), np.float32)} for n in (3, 4)]
    with pytest.raises(InputError, match="samples 0 to 1, input 'x': expected one shape"):
        list(open_data(items, spec))


def test_layout_that_changes_within_a_group(fixed: list[InputSpec]) -> None:
    items = [{"x": _rows(2)}, {"x": np.ones((1, 4, 2), np.float32)}]
    with pytest.raises(InputError, match="sample 2: the arrays are laid out otherwise"):
        list(open_data(items, fixed))
