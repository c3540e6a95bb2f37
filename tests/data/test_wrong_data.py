"""Every fault says what, where and what to do."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from qcompiler.data.open import DataSource, open_data
from qcompiler.data.spec import InputSpec, Role
from qcompiler.errors import InputError, UsageError


def refused(source: object, specs: list[InputSpec]) -> InputError:
    """The error of reading all of the data."""
    with pytest.raises(InputError) as caught:
        list(open_data(cast(DataSource, source), specs))
    return caught.value


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def test_unknown_name(image: list[InputSpec]) -> None:
    error = refused([{"X": zeros(1, 3, 4, 5)}], [InputSpec("pixels", *_rest(image)), *image])
    assert error.message == "sample 0: 'X' is no input of the model"
    assert error.where == "list, item 0"
    assert "'pixels' float32[batch, 3, 4, 5], 'x' float32[batch, 3, 4, 5]" in error.hint


def _rest(specs: list[InputSpec]) -> tuple[Any, Any]:
    return specs[0].dtype, specs[0].shape


def test_did_you_mean(text: list[InputSpec]) -> None:
    ones = np.ones((1, 3), np.int64)
    assert refused({"ids": ones, "masks": ones}, text).hint.startswith("did you mean 'mask'? ")


def test_missing_input(tmp_path: Path, text: list[InputSpec]) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, allow_pickle=False, ids=np.ones((2, 3), np.int64))
    error = refused(path, text)
    assert error.message == "sample 0: the data lacks the model's input 'mask' int64[batch, seq]"
    assert error.where == str(path)
    assert error.hint.startswith("the data has 'ids'; add")


def test_missing_cache_of_fixed_length() -> None:
    specs = [
        InputSpec("ids", np.dtype("int64"), ("b", "s"), Role.TOKENS),
        InputSpec("past", np.dtype("float32"), ("b", 2, 16, 8), Role.CACHE),
    ]
    error = refused({"ids": np.ones((1, 3), np.int64)}, specs)
    assert error.message == "sample 0: the data lacks the model's input 'past' float32[b, 2, 16, 8]"


def test_one_cache_given_and_one_missing(decoder: list[InputSpec]) -> None:
    error = refused({"ids": np.ones((1, 3), np.int64), "past.key": zeros(1, 2, 5, 8)}, decoder)
    assert "lacks the model's input 'past.value'" in error.message


@pytest.mark.parametrize(
    ("array", "found", "hint"),
    [
        (zeros(3, 4, 5), "float32[3, 4, 5]", "the first axis counts the samples: add it with"),
        (zeros(2, 4, 5, 3), "float32[2, 4, 5, 3]", "array.transpose(0, 3, 1, 2)"),
        (zeros(2, 3, 4, 6), "float32[2, 3, 4, 6]", "its first axis counts samples"),
        (zeros(2, 1, 4, 5, 3), "float32[2, 1, 4, 5, 3]", "array.transpose(0, 1, 4, 2, 3)"),
        (zeros(2, 1, 3, 4, 6), "float32[2, 1, 3, 4, 6]", "each entry must be one complete input"),
        (zeros(5), "float32[5]", "or one axis more with one complete input an entry"),
        (np.zeros((2, 3, 4, 5), np.int32), "int32[2, 3, 4, 5]", "array.astype(numpy.float32)"),
        (np.full((2, 3, 4, 5), "a"), "string[2, 3, 4, 5]", "array.astype(numpy.float32)"),
    ],
)
def test_wrong_shape_or_dtype(
    array: np.ndarray, found: str, hint: str, image: list[InputSpec]
) -> None:
    error = refused([{"x": zeros(3, 3, 4, 5)}, {"x": array}], image)
    lead = "samples, " if array.ndim == 5 else ""
    assert error.message == (
        f"sample 3, input 'x': expected float32[{lead}batch, 3, 4, 5], found {found}"
    )
    assert error.where == "list, item 1"
    assert hint in error.hint


def test_wrong_file_is_refused_on_opening(tmp_path: Path, image: list[InputSpec]) -> None:
    np.savez(tmp_path / "d.npz", allow_pickle=False, x=zeros(2, 9))
    with pytest.raises(InputError, match="expected float32"):
        open_data(tmp_path / "d.npz", image)


def test_narrowing_is_no_safe_cast() -> None:
    spec = [InputSpec("i", np.dtype("int32"), ("n",), Role.INTEGER)]
    error = refused({"i": np.ones(2, np.int64)}, spec)
    assert error.message == "sample 0, input 'i': expected int32[n], found int64[2]"


def test_arrays_disagree_on_the_number_of_samples(text: list[InputSpec]) -> None:
    error = refused({"ids": np.ones((4, 3), np.int64), "mask": np.ones((5, 3), np.int64)}, text)
    assert error.message == (
        "sample 0: the arrays disagree on the number of samples: 'ids' has 4, 'mask' has 5"
    )


def test_one_symbol_with_two_sizes(text: list[InputSpec]) -> None:
    error = refused({"ids": np.ones((4, 3), np.int64), "mask": np.ones((4, 7), np.int64)}, text)
    assert error.message == (
        "sample 0: axis 'seq' is 3 in input 'ids' (axis 1) but 7 in input 'mask' (axis 1)"
    )
    assert "pad or cut" in error.hint


@pytest.mark.parametrize(("value", "text"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf")])
def test_nan_and_infinity_are_named(
    value: float, text: str, tmp_path: Path, image: list[InputSpec]
) -> None:
    data = zeros(5, 3, 4, 5)
    data[3, 1, 2, 4] = data[3, 2, 0, 0] = data[4, 0, 0, 0] = value
    np.savez(tmp_path / "d.npz", allow_pickle=False, x=data)
    error = refused(tmp_path / "d.npz", image)
    assert error.message == (
        f"sample 3, input 'x': expected finite numbers, but at index [1, 2, 4] the value is {text}"
    )
    assert error.where == str(tmp_path / "d.npz")


def test_value_that_does_not_fit_the_dtype() -> None:
    spec = [InputSpec("x", np.dtype("float32"), ("n", 1))]
    error = refused({"x": np.array([[1.0], [1e300]])}, spec)
    assert "sample 1, input 'x'" in error.message
    assert "at index [0] 1e+300 does not fit float32" in error.message


def test_minus_infinity_is_fine_in_a_mask_but_nan_is_not() -> None:
    spec = [InputSpec("m", np.dtype("float32"), ("n", 2), Role.MASK)]
    [feed] = open_data({"m": np.array([[0, -np.inf]], np.float32)}, spec)
    assert feed["m"][0, 1] == -np.inf
    assert "value is nan" in refused({"m": np.array([[0, np.nan]], np.float32)}, spec).message


@pytest.mark.parametrize("source", [[], {"x": zeros(0, 3, 4, 5)}])
def test_no_samples(source: object, image: list[InputSpec]) -> None:
    assert refused(source, image).message == "the data has no samples"


def test_limit_below_one(image: list[InputSpec]) -> None:
    with pytest.raises(UsageError, match="expected at least 1 sample, found 0"):
        open_data({"x": zeros(1, 3, 4, 5)}, image, limit=0)


# Files


@pytest.mark.parametrize("name", ["nothing.npz", "nothing", "nothing.npy"])
def test_no_such_path(name: str, tmp_path: Path, image: list[InputSpec]) -> None:
    error = refused(tmp_path / name, image)
    assert error.message == "the data does not exist"
    assert error.where == str(tmp_path / name)
    assert "an .npz file, a folder of" in error.hint


def test_unknown_suffix(tmp_path: Path, image: list[InputSpec]) -> None:
    (tmp_path / "d.csv").write_text("1")
    error = refused(tmp_path / "d.csv", image)
    assert error.message == "unknown kind of data: .csv"
    assert "loader.py[:function]" in error.hint


def test_empty_folder(tmp_path: Path, image: list[InputSpec]) -> None:
    error = refused(tmp_path, image)
    assert error.message == "expected one kind of data in the folder, found none"
    assert error.where == str(tmp_path)


def test_mixed_folder(tmp_path: Path, image: list[InputSpec]) -> None:
    for name in ("a.npz", "b.npz", "c.PNG"):
        (tmp_path / name).touch()
    assert refused(tmp_path, image).message.endswith("found 2 .npz, 1 image")


def test_not_an_npz(tmp_path: Path, image: list[InputSpec]) -> None:
    (tmp_path / "d.npz").write_bytes(b"hello")
    error = refused(tmp_path / "d.npz", image)
    assert error.message.startswith("expected an .npz file (a zip of arrays), found something else")
    assert "numpy.savez" in error.hint


def test_object_array_is_not_unpickled(tmp_path: Path, image: list[InputSpec]) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, allow_pickle=True, x=np.array([[1], [1, 2]], dtype=object))
    error = refused(path, image)
    assert error.message.startswith("array 'x' holds Python objects (a pickle), which are never")
    assert error.where == str(path)
    assert "one .npz a sample" in error.hint


@pytest.mark.parametrize("keep", [0.3, 0.99])
def test_truncated_npz(keep: float, tmp_path: Path, image: list[InputSpec]) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, allow_pickle=False, x=zeros(8, 3, 4, 5))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    assert "truncated" in refused(path, image).hint


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_bytes(compression: int, tmp_path: Path, image: list[InputSpec]) -> None:
    path = tmp_path / "d.npz"
    save = np.savez_compressed if compression else np.savez
    save(path, allow_pickle=False, x=np.random.default_rng(0).random((8, 3, 4, 5), np.float32))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0x10
    path.write_bytes(bytes(content))
    error = refused(path, image)
    assert error.message.startswith("array 'x' cannot be read as a NumPy array: ")
    assert error.where == str(path)


def test_header_that_promises_more_than_there_is(tmp_path: Path, image: list[InputSpec]) -> None:
    path = tmp_path / "d.npy"
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**15, 3, 4, 5)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(240))
    error = refused(path, image)
    assert "its header says float32[1000000000000000, 3, 4, 5], " in error.message
    assert error.where == str(path)


@pytest.mark.parametrize("content", [b"", b"hello, I am no array", b"\x93NUMPY\x01\x00\xff\xff{"])
def test_not_an_npy(content: bytes, tmp_path: Path, image: list[InputSpec]) -> None:
    (tmp_path / "d.npy").write_bytes(content)
    error = refused(tmp_path / "d.npy", image)
    assert error.message.startswith("the file cannot be read as a NumPy array: ")


def test_npy_for_a_model_with_two_inputs(tmp_path: Path, text: list[InputSpec]) -> None:
    np.save(tmp_path / "d.npy", np.ones((1, 3), np.int64))
    error = refused(tmp_path / "d.npy", text)
    assert error.message.startswith("an .npy file has no input names, and the model has 2 inputs")
    assert "numpy.savez" in error.hint
    np.save(tmp_path / "ids.npy", np.ones((1, 3), np.int64))
    assert refused(tmp_path, text).message == "sample 0: 'd' is no input of the model"


# Python objects


def test_generator_is_read_once(image: list[InputSpec]) -> None:
    def rows() -> Iterator[dict[str, np.ndarray]]:
        yield {"x": zeros(1, 3, 4, 5)}

    data = open_data(rows(), image)
    assert len(list(data)) == 1
    with pytest.raises(InputError, match="can be read only once") as caught:
        list(data)
    assert "pass a list, or the function" in caught.value.hint


@pytest.mark.parametrize(
    ("item", "found"),
    [
        ((zeros(1), 3), "found a tuple"),
        (zeros(1, 3, 4, 5), "found a ndarray"),
        (7, "found an int"),
        ({1: zeros(1)}, "found 1, an int"),
        ({"x": [[1], [1, 2]]}, "input 'x': a list cannot be made a NumPy array"),
        ({"x": object()}, "input 'x': expected numbers, found an array of Python objects"),
    ],
)
def test_item_that_is_no_feed(item: object, found: str, image: list[InputSpec]) -> None:
    error = refused([{"x": zeros(1, 3, 4, 5)}, item], image)
    assert found in error.message
    assert error.where == "list, item 1"
    assert error.hint


@pytest.mark.parametrize("source", [zeros(1, 3, 4, 5), 7, lambda: 7])
def test_object_that_is_no_source(source: object, image: list[InputSpec]) -> None:
    assert refused(source, image).hint
