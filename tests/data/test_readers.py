"""The same samples give the same feeds, whichever way they come."""

from __future__ import annotations

import operator
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompiler.data.dataset import Dataset
from qcompiler.data.open import open_data
from qcompiler.data.spec import Feeds, InputSpec, Role

IDS = np.arange(12, dtype=np.int64).reshape(4, 3)
MASK = np.ones((4, 3), np.int64)
ARRAYS = {"ids": IDS, "mask": MASK}
LOADER = """
import numpy as np
def load_data():
    for i in range(4):
        yield {
            "ids": np.arange(3 * i, 3 * i + 3, dtype=np.int64)[None],
            "mask": np.ones((1, 3), np.int64),
        }
"""


def _samples() -> Iterator[dict[str, NDArray[Any]]]:
    for i in range(4):
        yield {"ids": IDS[i : i + 1], "mask": MASK[i : i + 1]}


def _npz(folder: Path) -> object:
    np.savez(folder / "d.npz", allow_pickle=False, **ARRAYS)
    return folder / "d.npz"


def _npz_compressed(folder: Path) -> object:
    np.savez_compressed(folder / "d.npz", allow_pickle=False, **ARRAYS)
    return str(folder / "d.npz")


def _npz_fortran(folder: Path) -> object:
    np.savez(folder / "d.npz", allow_pickle=False, ids=np.asfortranarray(IDS), mask=MASK)
    return folder / "d.npz"


def _npz_complete(folder: Path) -> object:
    arrays = {name: array[:, None] for name, array in ARRAYS.items()}
    np.savez(folder / "d.npz", allow_pickle=False, **arrays)
    return folder / "d.npz"


def _npz_big_endian(folder: Path) -> object:
    np.savez(folder / "d.npz", allow_pickle=False, ids=IDS.astype(">i8"), mask=MASK)
    return folder / "d.npz"


def _npz_folder(folder: Path) -> object:
    for i, sample in enumerate(_samples()):
        np.savez(folder / f"{i}.npz", allow_pickle=False, **sample)
    (folder / "README.txt").write_text("ignored")
    (folder / "._0.npz").write_bytes(b"ignored: a file that macOS leaves")
    return folder


def _npy_folder(folder: Path) -> object:
    for name, array in ARRAYS.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def _loader(folder: Path) -> object:
    (folder / "loader.py").write_text(LOADER)
    return folder / "loader.py"


def _loader_function(folder: Path) -> object:
    (folder / "loader.py").write_text(LOADER.replace("load_data", "mine"))
    return f"{folder / 'loader.py'}:mine"


SOURCES: list[Callable[[Path], object]] = [
    _npz,
    _npz_compressed,
    _npz_fortran,
    _npz_complete,
    _npz_big_endian,
    _npz_folder,
    _npy_folder,
    _loader,
    _loader_function,
    lambda _: ARRAYS,
    lambda _: {name: array.tolist() for name, array in ARRAYS.items()},
    lambda _: list(_samples()),
    lambda _: _samples,
    lambda _: lambda: ARRAYS,
    lambda _: [ARRAYS],
]


def assert_same(found: list[Feeds], wanted: list[Feeds]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert list(one) == list(other)
        for name, array in one.items():
            assert array.dtype == other[name].dtype
            assert array.flags.c_contiguous
            np.testing.assert_array_equal(array, other[name], strict=True)


@pytest.mark.parametrize("make", SOURCES)
def test_every_reader_gives_the_same_feeds_again_and_again(
    make: Callable[[Path], Any], tmp_path: Path, text: list[InputSpec]
) -> None:
    data = open_data(make(tmp_path), text)
    assert_same(list(data), list(_samples()))
    assert_same(list(data), list(_samples()))
    assert data.notes == ()
    assert not data.synthetic


def test_feeds_follow_the_order_of_the_model(tmp_path: Path, text: list[InputSpec]) -> None:
    np.savez(tmp_path / "d.npz", allow_pickle=False, mask=MASK, ids=IDS)
    assert [list(feed) for feed in open_data(tmp_path / "d.npz", text)] == [["ids", "mask"]] * 4


def test_source_is_what_the_user_gave(tmp_path: Path, text: list[InputSpec]) -> None:
    path = str(_npz(tmp_path))
    assert open_data(path, text).source == path


def test_npy_file_and_folder_of_a_model_with_one_input(tmp_path: Path) -> None:
    spec = [InputSpec("ids", IDS.dtype, ("batch", 3))]
    np.save(tmp_path / "a.npy", IDS[:3])
    np.save(tmp_path / "b.npy", IDS[3:])
    whole = list(open_data(tmp_path, spec))
    assert_same(whole, [{"ids": IDS[i : i + 1]} for i in range(4)])
    assert_same(list(open_data(tmp_path / "a.npy", spec)), whole[:3])


def test_npy_file_feeds_the_input_that_is_no_cache(
    tmp_path: Path, decoder: list[InputSpec]
) -> None:
    np.save(tmp_path / "tokens.npy", IDS)
    [first, *_] = open_data(tmp_path / "tokens.npy", decoder)
    np.testing.assert_array_equal(first["ids"], IDS[:1])


def test_ragged_samples_in_a_folder_of_npz(tmp_path: Path, text: list[InputSpec]) -> None:
    for length in (2, 5, 3):
        row = np.ones((1, length), np.int64)
        np.savez(tmp_path / f"{length}.npz", allow_pickle=False, ids=row, mask=row)
    assert [feed["ids"].shape for feed in open_data(tmp_path, text)] == [(1, 2), (1, 3), (1, 5)]


def test_scalar_input_takes_one_entry_a_sample_or_a_constant() -> None:
    specs = [
        InputSpec("audio", np.dtype("float32"), (None, None)),
        InputSpec("state", np.dtype("float32"), (2, None, 8)),
        InputSpec("rate", np.dtype("int64"), (), Role.INTEGER),
    ]
    audio, state = np.ones((3, 1, 16), np.float32), np.ones((3, 2, 1, 8), np.float32)
    rates = np.array([8000, 16000, 44100])
    for feed, rate in zip(
        open_data({"audio": audio, "state": state, "rate": rates}, specs), rates, strict=True
    ):
        assert feed["rate"].shape == ()
        assert feed["rate"] == rate
        assert feed["state"].shape == (2, 1, 8)
    constant = open_data({"audio": audio, "state": state, "rate": np.array(8000)}, specs)
    assert [int(feed["rate"]) for feed in constant] == [8000] * 3
    complete = {"audio": audio[0], "state": state[0], "rate": np.array(8000)}
    [feed] = open_data([complete], specs)
    assert {name: array.shape for name, array in feed.items()} == {
        "audio": (1, 16),
        "state": (2, 1, 8),
        "rate": (),
    }


@pytest.mark.parametrize("compressed", [False, True])
def test_a_64_mb_npz_is_read_in_steps_of_a_few_samples(tmp_path: Path, compressed: bool) -> None:
    size, rows = 1 << 20, 64
    path = tmp_path / "big.npz"
    save = np.savez_compressed if compressed else np.savez
    save(path, allow_pickle=False, x=np.zeros((rows, size // 4), np.float32))
    data = open_data(path, [InputSpec("x", np.dtype("float32"), ("n", size // 4))])
    tracemalloc.start()
    try:
        assert sum(1 for _ in data) == rows
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # One row, the decompressor's copy of it, the one before (still the caller's), and the NaN mask.
    assert peak < 4 * size


def test_limit_counts_samples_and_reads_no_further(fixed: list[InputSpec]) -> None:
    read: list[int] = []

    def rows() -> Iterator[Feeds]:
        for i in range(100):
            read.append(i)
            yield {"x": np.zeros((1, 2), np.float32)}

    assert len(list(open_data(rows, fixed, limit=8))) == 2
    assert read == list(range(8))


def test_length_hint(tmp_path: Path, text: list[InputSpec], fixed: list[InputSpec]) -> None:
    assert operator.length_hint(open_data(str(_npz(tmp_path)), text)) == 4
    assert operator.length_hint(open_data(ARRAYS, text, limit=3)) == 3
    rows = {"x": np.zeros((9, 2), np.float32)}
    assert operator.length_hint(open_data(rows, fixed)) == 2
    assert operator.length_hint(open_data(rows, fixed, limit=1)) == 1
    assert operator.length_hint(open_data(rows, fixed, limit=3)) == len(
        list(open_data(rows, fixed, limit=3))
    )
    assert operator.length_hint(open_data(_samples, text)) == 0


def test_casts_are_noted_once() -> None:
    specs = [
        InputSpec("x", np.dtype("float32"), ("n", 2)),
        InputSpec("i", np.dtype("int64"), ("n",), Role.INTEGER),
    ]
    data = open_data([{"x": np.ones((2, 2)), "i": np.ones(2, np.int32)}] * 2, specs)
    for _ in range(2):
        feeds = list(data)
        assert [feed["x"].dtype.name for feed in feeds] == ["float32"] * 4
        assert [feed["i"].dtype.name for feed in feeds] == ["int64"] * 4
    assert data.notes == (
        "input 'x': float64 data cast to float32",
        "input 'i': int32 data cast to int64",
    )


def test_strings_are_fed_as_objects() -> None:
    spec = [InputSpec("s", np.dtype(object), ("n",), Role.OTHER)]
    [first, second] = open_data({"s": ["a", "bc"]}, spec)
    assert first["s"].dtype == object
    assert second["s"].tolist() == ["bc"]


def _fed(data: Dataset) -> list[dict[str, tuple[int, ...]]]:
    return [{name: array.shape for name, array in feed.items()} for feed in data]


def test_absent_cache_is_fed_empty_and_said_so(decoder: list[InputSpec]) -> None:
    data = open_data({"ids": IDS}, decoder)
    empty = (1, 2, 0, 8)
    assert _fed(data) == [{"ids": (1, 3), "past.key": empty, "past.value": empty}] * 4
    assert data.notes == ("the KV cache is fed empty: 'past.key' and 1 more",)


def test_empty_cache_has_the_batch_of_the_feed() -> None:
    specs = [
        InputSpec("ids", np.dtype("int64"), ("batch", "seq"), Role.TOKENS),
        InputSpec("past", np.dtype("float16"), (2, "batch", 4, "past", 8), Role.CACHE),
    ]
    [feed] = open_data({"ids": IDS[None]}, specs)
    assert feed["past"].shape == (2, 4, 4, 0, 8)
    assert feed["past"].dtype == np.float16


def test_cache_in_the_data_is_used(decoder: list[InputSpec]) -> None:
    past = np.ones((4, 2, 7, 8), np.float32)
    arrays: dict[str, NDArray[Any]] = {"ids": IDS, "past.key": past, "past.value": past}
    data = open_data(arrays, decoder)
    assert [feed["past.key"].shape for feed in data] == [(1, 2, 7, 8)] * 4
    assert data.notes == ()
