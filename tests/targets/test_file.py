"""Target files: rows that were tried come first, and a broken file says what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qcompiler import targets
from qcompiler.engine import target_string
from qcompiler.errors import InputError
from qcompiler.scan import scan
from qcompiler.targets import file
from qcompiler.targets.base import Layer
from qcompiler.targets.file import Network, Row, TargetFile
from tests.hand_made import INT8, graph

CONV = Layer("Conv", "dense", 32, 32, (3, 3))
GEMM = Layer("Gemm", "dense", 64, 64)


def _row(**said: Any) -> Row:
    facts: dict[str, Any] = {
        "op": "Conv", "kind": "dense", "format": "int8", "granularity": "tensor",
        "base": "float32", "verdict": "loses", "note": "9.0 us against 8.0 us in float",
        "verified": "tensorrt-rtx 1.7.1.116 on NVIDIA Toy", "capabilities": (89, 89),
        "quantized": Network(kernels=5, bytes_moved=10, median=9e-6, low=8e-6, high=1e-5),
    }  # fmt: skip
    return Row(**(facts | said))


def _file(path: Path, *rows: Row, target: str = "tensorrt-rtx-1.7:sm89") -> Path:
    made = TargetFile(
        target=target,
        library="tensorrt-rtx 1.7.1.116",
        card="NVIDIA Toy",
        driver="580.1",
        rows=rows or (_row(),),
    )
    made.save(path)
    assert file.read(path) == made
    return path


def test_rows_of_the_file_come_first_and_the_rest_is_the_familys(tmp_path: Path) -> None:
    found = targets.find(str(_file(tmp_path / "card.json")))
    family = targets.find("tensorrt-rtx-1.7:sm89")
    assert found.rows[1:] == family.rows
    assert (found.name, found.weighs, found.capabilities) == (family.name, True, (89,))
    assert family.allows(CONV, "float32").ok
    verdict = found.allows(CONV, "float32")
    assert (verdict.ok, verdict.why) == (False, "9.0 us against 8.0 us in float [probe]")
    assert verdict.row is not None
    assert verdict.row.verified == "tensorrt-rtx 1.7.1.116 on NVIDIA Toy"
    # What was tried on another base type, or not at all, is the family's.
    assert found.allows(CONV, "float16") == family.allows(CONV, "float16")
    assert found.allows(GEMM, "float32") == family.allows(GEMM, "float32")


def test_planning_prefers_them(tmp_path: Path) -> None:
    made = graph(
        "g (float[1,32,8,8] x) => (float[1,32,8,8] y) { [conv] y = Conv (x, W) }",
        W=(32, 32, 1, 1),
    )
    target = targets.find(str(_file(tmp_path / "card.json")))
    points = scan(made, INT8, target)
    assert points.skipped == {"conv": "9.0 us against 8.0 us in float [probe]"}
    assert points.target == "tensorrt-rtx-1.7:sm89"
    runs = targets.find(str(_file(tmp_path / "fast.json", _row(verdict="runs"))))
    assert scan(made, INT8, runs).skipped == {}


def test_engines_are_built_for_the_target_of_the_file(tmp_path: Path) -> None:
    path = _file(tmp_path / "card.json")
    assert target_string.parse(str(path)) == target_string.parse("tensorrt-rtx-1.7:sm89")


def test_limits_of_a_row_are_kept(tmp_path: Path) -> None:
    row = _row(op="Attention", base="float16", verdict="runs", heads=(16, 32), keys=(16, 64))
    target = targets.find(str(_file(tmp_path / "card.json", row)))
    assert target.allows(Layer("Attention", "dense", 32, 64, (), 64), "float16").ok
    assert "16 to 64 keys" in target.allows(Layer("Attention", "dense", 32, 65), "float16").why


def _edited(tmp_path: Path, **changes: Any) -> Path:
    path = _file(tmp_path / "card.json")
    found = json.loads(path.read_text())
    for key, value in changes.items():
        (found["rows"][0] if key in found["rows"][0] else found)[key] = value
    path.write_text(json.dumps(found))
    return path


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"schema_version": 2}, "schema version 2 of a target file, expected 1"),
        ({"verdict": "fast"}, "not a target file: Invalid enum value 'fast'"),
        ({"op": "Pool"}, "row 0 of the target file has op and kind Pool dense"),
        ({"format": "int3"}, "has format int3"),
        ({"granularity": "block"}, "has granularity block"),
        ({"base": "float64"}, "has base float64"),
        ({"keys": [1]}, r"has keys \[1\]"),
        ({"capabilities": [89]}, r"has capabilities \[89\]"),
        ({"target": "cuda"}, "is about 'cuda': there is no target 'cuda'"),
        ({"target": "other.json"}, "is about 'other.json': there is no target"),
        ({"more": 1}, "contains unknown field `more`"),
    ],
)
def test_a_broken_file_says_what_is_wrong(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = _edited(tmp_path, **changes)
    with pytest.raises(InputError, match=told) as caught:
        targets.find(str(path))
    assert caught.value.where == str(path)
    assert caught.value.hint


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe"])
def test_bytes_that_are_no_target_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "card.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match="not a target file"):
        targets.find(str(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the target file"):
        targets.find(str(tmp_path / "none.json"))
