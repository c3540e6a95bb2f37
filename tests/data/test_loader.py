"""Loader files: which function, and what happens when it fails."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from qcompiler.data.loader import split_loader
from qcompiler.data.open import open_data
from qcompiler.data.spec import InputSpec
from qcompiler.errors import InputError

SPEC = [InputSpec("x", np.dtype("float32"), ("n", 2))]
HEAD = "import numpy as np\n"


def _body(name: str, value: int = 1) -> str:
    return f"def {name}():\n    yield {{'x': np.full((1, 2), {value}, np.float32)}}\n"


def _write(folder: Path, code: str) -> str:
    path = folder / "loader.py"
    path.write_text(HEAD + code)
    return str(path)


def _first(source: str) -> float:
    return float(next(iter(open_data(source, SPEC)))["x"][0, 0])


def _refused(source: str) -> InputError:
    with pytest.raises(InputError) as caught:
        list(open_data(source, SPEC))
    return caught.value


@pytest.mark.parametrize("name", ["load_data", "data_loader", "calibration_data", "anything"])
def test_default_functions(name: str, tmp_path: Path) -> None:
    other = "" if name == "anything" else _body("other", 2)
    assert _first(_write(tmp_path, other + _body(name) + "def helper(): return 1\n")) == 1


def test_named_function(tmp_path: Path) -> None:
    source = _write(tmp_path, _body("a", 1) + _body("b", 2))
    assert _first(source + ":b") == 2


def test_no_default_function_lists_what_was_found(tmp_path: Path) -> None:
    error = _refused(_write(tmp_path, _body("a") + _body("b")))
    assert "load_data, data_loader, calibration_data" in error.message
    assert "found 2 generator functions among: a, b" in error.message
    assert "loader.py:function" in error.hint


def test_unknown_function(tmp_path: Path) -> None:
    source = _write(tmp_path, _body("samples") + _body("other"))
    error = _refused(source + ":sample")
    assert error.message == "there is no function 'sample'"
    assert error.hint == "did you mean 'samples'? the file has: samples, other"


def test_function_with_arguments(tmp_path: Path) -> None:
    error = _refused(_write(tmp_path, "def load_data(path):\n    yield {}\n"))
    assert error.message.startswith("function 'load_data' must be callable without arguments")
    assert "path" in error.message


@pytest.mark.parametrize(
    ("code", "message", "line"),
    [
        ("def load_data():\n    raise KeyError('a')\n    yield\n", "raised KeyError: 'a'", 3),
        ("import nothing_of_this_name\n", "raised ModuleNotFoundError: No module named", 2),
        ("def load_data(:\n", "raised SyntaxError", 2),
        ("raise SystemExit(3)\n", "raised SystemExit: 3", 2),
    ],
)
def test_loader_that_raises(code: str, message: str, line: int, tmp_path: Path) -> None:
    source = _write(tmp_path, code)
    error = _refused(source)
    assert message in error.message
    assert error.where == f"{source}, line {line}"
    assert "in your data loader" in error.hint


def test_failure_in_the_middle_names_the_line(tmp_path: Path) -> None:
    code = "def load_data():\n    yield {'x': np.ones((1, 2), np.float32)}\n    1 / 0\n"
    source = _write(tmp_path, code)
    data = iter(open_data(source, SPEC))
    next(data)
    with pytest.raises(InputError, match="raised ZeroDivisionError") as caught:
        next(data)
    assert caught.value.where == f"{source}, line 4"


@pytest.mark.parametrize(
    ("result", "found"), [("7", "found an int"), ("[(1, 2)]", "found a tuple")]
)
def test_loader_that_returns_no_dicts(result: str, found: str, tmp_path: Path) -> None:
    error = _refused(_write(tmp_path, f"def load_data():\n    return {result}\n"))
    assert found in error.message
    assert "yield one dict a sample" in error.hint


def test_loader_may_return_arrays_or_a_list(tmp_path: Path) -> None:
    code = "def load_data():\n    return {'x': np.ones((3, 2), np.float32)}\n"
    assert len(list(open_data(_write(tmp_path, code), SPEC))) == 3


def test_neighbours_are_importable_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "neighbour_of_the_loader.py").write_text("VALUE = 5\n")
    code = (
        "def load_data():\n"
        "    from neighbour_of_the_loader import VALUE\n"
        "    yield {'x': np.full((1, 2), VALUE, np.float32)}\n"
    )
    before = list(sys.path)
    assert _first(_write(tmp_path, code)) == 5
    assert sys.path == before
    assert not list(tmp_path.glob("__pycache__/loader*"))


def test_file_that_does_not_exist(tmp_path: Path) -> None:
    error = _refused(f"{tmp_path}/no.py:f")
    assert error.message == "the loader file does not exist"
    assert error.where == f"{tmp_path}/no.py"


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        ("loader.py", ("loader.py", "")),
        ("a/loader.py:f", ("a/loader.py", "f")),
        ("C:\\a\\loader.py", ("C:\\a\\loader.py", "")),
        ("C:\\a\\loader.py:f", ("C:\\a\\loader.py", "f")),
        ("C:\\a\\calib.npz", None),
        ("calib.npz", None),
    ],
)
def test_a_drive_letter_is_no_separator(source: str, parts: tuple[str, str] | None) -> None:
    found = split_loader(source)
    assert found == (parts and (Path(parts[0]), parts[1]))
