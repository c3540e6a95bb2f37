"""Files appear whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qcompiler.graph
from models import build
from qcompiler.emit import emit
from qcompiler.errors import InputError
from qcompiler.graph import Graph
from qcompiler.load import load
from tests.hand_made import graph, normal

LINEAR = "g (float[4,64] x) => (float[4,64] y) { h = MatMul (x, W) y = Add (h, b) }"


def _linear(name: str = "W") -> Graph:
    return graph(LINEAR, W=normal(name, (64, 64)), b=(64,))


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model counts as large: it is written with its weights beside it."""
    monkeypatch.setattr(qcompiler.graph, "LARGE_BYTES", 0)


def _files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_a_small_model_is_one_file(tmp_path: Path) -> None:
    made = _linear()
    assert emit(made, tmp_path / "m.onnx") == [tmp_path / "m.onnx"]
    assert _files(tmp_path) == ["m.onnx"]
    assert onnx.load(tmp_path / "m.onnx") == made.proto()


@pytest.mark.usefixtures("large")
def test_a_large_model_has_its_weights_beside_it_and_small_constants_inside(tmp_path: Path) -> None:
    made = _linear()
    assert emit(made, tmp_path / "m.onnx") == [tmp_path / "m.onnx", tmp_path / "m.onnx.data"]
    assert _files(tmp_path) == ["m.onnx", "m.onnx.data"]
    stored = {
        t.name: t
        for t in onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.initializer
    }
    assert stored["W"].data_location == onnx.TensorProto.EXTERNAL
    assert stored["b"].data_location == onnx.TensorProto.DEFAULT
    onnx.checker.check_model(tmp_path / "m.onnx", full_check=True)
    whole = onnx.load(tmp_path / "m.onnx")
    for tensor in whole.graph.initializer:
        expected = numpy_helper.to_array(
            next(t for t in made.proto().graph.initializer if t.name == tensor.name)
        )
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), expected)


def test_small_constants_move_into_the_model_file(tmp_path: Path) -> None:
    """Some exporters put every constant outside, where no shape inference can read it."""
    source = tmp_path / "in.onnx"
    onnx.save(_linear().proto(), source, save_as_external_data=True, size_threshold=0)
    emit(load(source), tmp_path / "out.onnx")
    written = onnx.load(tmp_path / "out.onnx", load_external_data=False).graph.initializer
    assert {t.name: t.data_location for t in written} == {
        "W": onnx.TensorProto.EXTERNAL,
        "b": onnx.TensorProto.DEFAULT,
    }
    np.testing.assert_array_equal(numpy_helper.to_array(written[1]), normal("b", (64,)))


@pytest.mark.usefixtures("large")
def test_a_large_model_declares_the_same_inputs(tmp_path: Path) -> None:
    emit(_linear(), tmp_path / "m.onnx")
    declared = onnx.load(tmp_path / "m.onnx", load_external_data=False).graph.input
    assert [v.name for v in declared] == ["x"]


@pytest.mark.parametrize("name", ["mlp", "branch_if", "decoder_kv"])
@pytest.mark.usefixtures("large")
def test_a_model_survives_its_files(name: str, tmp_path: Path) -> None:
    made = load(build.load(name))
    emit(made, tmp_path / "m.onnx")
    again = load(tmp_path / "m.onnx")
    assert list(again.nodes[0].inputs[0].name) == list(made.nodes[0].inputs[0].name)
    for ours, theirs in zip(made.constants(), again.constants(), strict=True):
        assert ours.name == theirs.name
        np.testing.assert_array_equal(made.values(ours), again.values(theirs))


def test_the_same_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        emit(_linear(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.usefixtures("large")
def test_the_same_large_graph_gives_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        contents.append([f.read_bytes() for f in emit(_linear(), tmp_path / name / "m.onnx")])
    assert contents[0] == contents[1]


def test_a_folder_that_does_not_exist_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write here"):
        emit(_linear(), tmp_path / "none" / "m.onnx")


# ---------------------------------------------------------------------- interruptions


class Interrupted(BaseException):
    """What the tests raise; like KeyboardInterrupt, no Exception."""


def _fail_at(monkeypatch: pytest.MonkeyPatch, call: int) -> None:
    """Let the n-th rename fail, as a full disk or a Ctrl-C would."""
    calls = 0
    real = Path.replace

    def replace(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        if calls == call:
            raise Interrupted
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)


def test_an_interrupted_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fail_at(monkeypatch, 1)
    with pytest.raises(Interrupted):
        emit(_linear(), tmp_path / "m.onnx")
    assert _files(tmp_path) == []


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emit(_linear("old"), tmp_path / "m.onnx")
    before = (tmp_path / "m.onnx").read_bytes()
    _fail_at(monkeypatch, 1)
    with pytest.raises(Interrupted):
        emit(_linear("new"), tmp_path / "m.onnx")
    assert _files(tmp_path) == ["m.onnx"]
    assert (tmp_path / "m.onnx").read_bytes() == before


@pytest.mark.parametrize("call", [1, 2], ids=["at the data", "at the model"])
@pytest.mark.usefixtures("large")
def test_an_interrupted_write_of_two_files_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    _fail_at(monkeypatch, call)
    with pytest.raises(Interrupted):
        emit(_linear(), tmp_path / "m.onnx")
    assert _files(tmp_path) == []


@pytest.mark.parametrize("call", [1, 2], ids=["at the data", "at the model"])
@pytest.mark.usefixtures("large")
def test_an_interrupted_write_of_two_files_leaves_the_old_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    files = emit(_linear("old"), tmp_path / "m.onnx")
    before = [f.read_bytes() for f in files]
    _fail_at(monkeypatch, call)
    with pytest.raises(Interrupted):
        emit(_linear("new"), tmp_path / "m.onnx")
    assert _files(tmp_path) == ["m.onnx", "m.onnx.data"]
    assert [f.read_bytes() for f in files] == before


@pytest.mark.usefixtures("large")
def test_a_pair_that_exists_is_replaced(tmp_path: Path) -> None:
    emit(_linear("old"), tmp_path / "m.onnx")
    files = emit(_linear("new"), tmp_path / "m.onnx")
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert [f.read_bytes() for f in files] == [
        f.read_bytes() for f in emit(_linear("new"), fresh / "m.onnx")
    ]
    assert _files(tmp_path) == ["fresh", "m.onnx", "m.onnx.data"]
