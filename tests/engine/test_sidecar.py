"""The facts beside a plan are written whole, read strictly, and belong to their plan."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from qcompiler.engine import sidecar
from qcompiler.engine.sidecar import Sidecar
from qcompiler.errors import InputError
from tests.engine import engines


@pytest.fixture
def facts() -> Sidecar:
    return engines.facts("residual")


def test_what_is_saved_is_read_back(tmp_path: Path, facts: Sidecar) -> None:
    path = tmp_path / "m.plan.json"
    facts.save(path)
    assert sidecar.read(path) == facts
    first = path.read_bytes()
    sidecar.read(path).save(path)
    assert path.read_bytes() == first
    assert [p.name for p in tmp_path.iterdir()] == ["m.plan.json"]
    assert json.loads(first)["schema_version"] == 1


def test_options_keep_their_types(tmp_path: Path, facts: Sidecar) -> None:
    path = tmp_path / "m.plan.json"
    facts.save(path)
    options = sidecar.read(path).options
    assert {k: type(v) for k, v in options.items()} == {
        "level": int, "strict": bool, "profile": str, "memory": float,
    }  # fmt: skip


def test_a_plan_and_its_facts_have_one_name() -> None:
    assert sidecar.beside(Path("a/m.plan")) == Path("a/m.plan.json")
    assert sidecar.beside(Path("a/m.plan.json")) == Path("a/m.plan.json")
    assert sidecar.beside(Path("a/m.engine")) == Path("a/m.engine.json")


def test_a_file_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file") as caught:
        sidecar.read(tmp_path / "m.plan.json")
    assert caught.value.where == str(tmp_path / "m.plan.json")


@pytest.mark.parametrize("damage", [b"", b"[]", b"{", b"\xff\xfe", b'{"schema_version": 1}'])
def test_a_damaged_file(tmp_path: Path, damage: bytes) -> None:
    path = tmp_path / "m.plan.json"
    path.write_bytes(damage)
    with pytest.raises(InputError, match="not the facts about a plan"):
        sidecar.read(path)


def test_every_truncation_is_refused(tmp_path: Path, facts: Sidecar) -> None:
    path = tmp_path / "m.plan.json"
    facts.save(path)
    data = path.read_bytes().rstrip()
    for end in range(0, len(data), 997):
        path.write_bytes(data[:end])
        with pytest.raises(InputError):
            sidecar.read(path)


def test_another_version_and_unknown_fields(tmp_path: Path, facts: Sidecar) -> None:
    path = tmp_path / "m.plan.json"
    msgspec.structs.replace(facts, schema_version=2).save(path)
    with pytest.raises(InputError, match="schema version 2"):
        sidecar.read(path)
    facts.save(path)
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "more": 1}))
    with pytest.raises(InputError, match="more"):
        sidecar.read(path)


def test_a_folder_that_does_not_exist(tmp_path: Path, facts: Sidecar) -> None:
    with pytest.raises(InputError):
        facts.save(tmp_path / "no" / "m.plan.json")


def test_facts_belong_to_their_plan(tmp_path: Path, facts: Sidecar) -> None:
    plan = tmp_path / "m.plan"
    plan.write_bytes(b"the plan")
    sidecar.require_plan(facts, plan)
    plan.write_bytes(b"another plan")
    with pytest.raises(InputError, match="not the one"):
        sidecar.require_plan(facts, plan)
    sidecar.require_plan(facts, tmp_path / "m.plan.json")
    plan.unlink()
    with pytest.raises(InputError, match="No such file"):
        sidecar.require_plan(facts, plan)
