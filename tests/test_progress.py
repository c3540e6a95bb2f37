"""The journal of a compilation: stages are timed, warnings kept once."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from qcompiler import progress
from qcompiler.progress import Journal, Silent


class Told(Silent):
    """Remembers everything."""

    def __init__(self) -> None:
        self.said: list[object] = []

    def begin(self, stage: str) -> None:
        self.said.append(("begin", stage))

    def end(self) -> None:
        self.said.append("end")

    def warn(self, message: str) -> None:
        self.said.append(("warn", message))


def test_stages_are_timed_and_repeated_ones_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([1.0, 3.0, 10.0, 10.5, 20.0, 24.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    journal = Journal(Silent())
    for name in ("a", "b", "a"):
        with journal.stage(name):
            pass
    assert journal.timings == {"a": 6.0, "b": 0.5}


def test_a_stage_ends_even_if_it_fails() -> None:
    told = Told()
    journal = Journal(told)
    with pytest.raises(ValueError, match="no"), journal.stage("a"):
        raise ValueError("no")
    assert told.said == [("begin", "a"), "end"]
    assert list(journal.timings) == ["a"]


def test_a_warning_is_said_once() -> None:
    told = Told()
    journal = Journal(told)
    for message in ("one", "two", "one"):
        journal.warn(message)
    assert journal.warnings == ["one", "two"]
    assert told.said == [("warn", "one"), ("warn", "two")]
