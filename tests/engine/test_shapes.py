"""Shapes as people write them, and the bounds of every free axis that follow."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qcompiler.backends.tensorrt_profile import Input
from qcompiler.engine.shapes import Shapes, parse, write
from qcompiler.errors import InputError, UsageError

IMAGE = Input("image", (-1, 3, -1, -1), ("N", "image#1", "H", "W"))
MASK = Input("mask", (-1, -1), ("N", "L"))
FIXED = Input("scale", (1,), ("scale#0",))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["input:1x3x224x224"], {"input": (1, 3, 224, 224)}),
        (["input:1x3x224x224,mask:1x128"], {"input": (1, 3, 224, 224), "mask": (1, 128)}),
        (["input:[1,3,224,224]"], {"input": (1, 3, 224, 224)}),
        (["input:[1, 3, 224, 224]", "mask:[1,128]"], {"input": (1, 3, 224, 224), "mask": (1, 128)}),
        (["input:[1,3],mask:1x128"], {"input": (1, 3), "mask": (1, 128)}),
        (["a:1,b:[2], c:3"], {"a": (1,), "b": (2,), "c": (3,)}),
        (["serving_default:0:1x8"], {"serving_default:0": (1, 8)}),
        (["serving:0:[1,8],x:1:2x2"], {"serving:0": (1, 8), "x:1": (2, 2)}),
        (["s:[]"], {"s": ()}),
        (["s:scalar,'t':1"], {"s": (), "t": (1,)}),
        (["empty:0x4"], {"empty": (0, 4)}),
        ([], {}),
    ],
)
def test_reads_both_spellings(words: list[str], expected: dict[str, tuple[int, ...]]) -> None:
    assert parse(words) == expected


@pytest.mark.parametrize(
    "word", ["", "input", "input:", "input:axb", "input:1x", ":1x2", "a:1,", "a:[1,2", "a:-1x2"]
)
def test_what_is_neither_is_refused_with_an_example(word: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse([word])
    assert "input:1x3x224x224" in caught.value.hint


@pytest.mark.parametrize("word", ["a:[one]", "a:[-1,2]", "a:[1,,2]", "a:[1.5]"])
def test_sizes_are_whole_numbers(word: str) -> None:
    with pytest.raises(UsageError, match=r"no shape|negative"):
        parse([word])


def test_a_name_twice_is_refused() -> None:
    with pytest.raises(UsageError, match="'a' is given twice"):
        parse(["a:1,b:2", "a:3"])


NAMES = st.text(string.ascii_letters + string.digits + "_:/.-", min_size=1, max_size=8).filter(
    lambda name: not name.startswith(":") and not name.endswith(":")
)
SHAPES = st.lists(st.integers(0, 10**6), max_size=5).map(tuple)


@given(st.dictionaries(NAMES, SHAPES, min_size=1, max_size=4))
def test_what_is_written_is_read_back(shapes: dict[str, tuple[int, ...]]) -> None:
    assert parse([write(shapes)]) == shapes


@given(st.dictionaries(NAMES, SHAPES, min_size=1, max_size=4))
def test_brackets_are_read_like_crosses(shapes: dict[str, tuple[int, ...]]) -> None:
    words = [f"{name}:{list(shape)}" for name, shape in shapes.items()]
    assert parse(words) == parse([",".join(words)]) == shapes


def test_without_shapes_a_batch_and_other_axes_have_stated_bounds() -> None:
    assert Shapes().profile([IMAGE, MASK, FIXED]) == {
        "image": ((1, 3, 1, 1), (4, 3, 64, 64), (8, 3, 128, 128)),
        "mask": ((1, 1), (4, 64), (8, 128)),
    }


def test_a_static_network_needs_no_profile() -> None:
    assert Shapes().profile([FIXED]) == {}
    assert Shapes(opt={"scale": (1,)}).profile([FIXED]) == {}


@pytest.mark.parametrize(
    ("shapes", "expected"),
    [
        (Shapes({"m": (1,)}, {"m": (2,)}, {"m": (3,)}), ((1,), (2,), (3,))),
        (Shapes(opt={"m": (2,)}), ((2,), (2,), (2,))),
        (Shapes(low={"m": (1,)}, high={"m": (3,)}), ((1,), (3,), (3,))),
        (Shapes(low={"m": (1,)}), ((1,), (1,), (1,))),
        (Shapes(low={"m": (1,)}, opt={"m": (2,)}), ((1,), (2,), (2,))),
    ],
)
def test_what_is_left_out_is_filled_in(shapes: Shapes, expected: object) -> None:
    assert shapes.given() == {"m": expected}


def test_a_symbol_has_its_bounds_in_every_input() -> None:
    found = Shapes({"mask": (2, 5)}, {"mask": (2, 7)}, {"mask": (4, 9)}).profile([IMAGE, MASK])
    assert found["mask"] == ((2, 5), (2, 7), (4, 9))
    assert [shape[0] for shape in found["image"]] == [2, 2, 4]


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        (
            Shapes(opt={"imag": (1, 3, 8, 8)}),
            "no input is called 'imag'; the inputs are image, mask",
        ),
        (Shapes(opt={"image": (1, 3, 8)}), r"has the shape \[-1, 3, -1, -1\].*does not fit"),
        (Shapes(opt={"image": (1, 4, 8, 8)}), r"\[1, 4, 8, 8\] does not fit"),
        (Shapes(low={"mask": (2, 8)}, opt={"mask": (1, 8)}), r"min \[2, 8\] <= opt \[1, 8\]"),
        (Shapes(opt={"mask": (1, 9)}, high={"mask": (1, 8)}), r"opt \[1, 9\] <= max \[1, 8\]"),
        (
            Shapes(opt={"image": (1, 3, 8, 8), "mask": (2, 8)}),
            r"axis 'N' has the bounds \[1, 1, 1\] in input 'image' and \[2, 2, 2\] in 'mask'",
        ),
    ],
)
def test_shapes_that_do_not_fit_are_the_callers_error(shapes: Shapes, told: str) -> None:
    with pytest.raises(InputError, match=told):
        shapes.profile([IMAGE, MASK])
