"""Progress: a bar on a terminal, rare lines elsewhere, nothing but warnings beside JSON."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from qcompiler.cli import display as module
from qcompiler.cli.display import display
from qcompiler.progress import Progress


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        """Seconds since whenever."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Stands in for the clock of the display."""
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


def _play(progress: Progress, clock: Clock) -> None:
    progress.begin("calibrate")
    for second in range(0, 101, 10):
        clock.now = float(second)
        progress.update(second, 200)
    progress.warn("mind [this]")
    progress.end()


def test_without_a_terminal_a_line_every_thirty_seconds(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    _play(display(quiet=False), clock)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "calibrate: 30 of 200, about 170 s left",
        "calibrate: 60 of 200, about 140 s left",
        "calibrate: 90 of 200, about 110 s left",
        "warning: mind [this]",
    ]


def test_a_total_that_is_not_known_is_left_out(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    progress = display(quiet=False)
    progress.begin("verify")
    clock.now = 31.0
    progress.update(5, 0)
    assert capsys.readouterr().err == "verify: 5\n"


def test_a_stage_without_figures_shows_its_seconds(
    capsys: pytest.CaptureFixture[str], clock: Clock
) -> None:
    progress = display(quiet=False)
    progress.begin("build")
    for second in (0.2, 29.0, 30.4, 45.0, 61.0):
        clock.now = second
        progress.update(0, 0)
    progress.end()
    assert capsys.readouterr().err.splitlines() == ["build: 30 s", "build: 61 s"]


def test_a_terminal_shows_the_seconds_of_a_stage_without_figures() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    progress = module._Bar(console)
    progress.begin("build")
    progress.update(0, 0)
    progress.end()
    text = stream.getvalue()
    assert "build" in text
    assert "0 s" in text


def test_beside_json_only_warnings(capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
    _play(display(quiet=True), clock)
    assert capsys.readouterr() == ("", "warning: mind [this]\n")


def test_a_terminal_gets_a_bar_that_goes_away() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100, color_system=None)
    progress = module._Bar(console)
    progress.update(1, 2)  # before any stage: nothing to move
    progress.begin("calibrate")
    progress.update(3, 4)
    progress.warn("mind [this]")
    progress.end()
    progress.end()
    text = stream.getvalue()
    assert "calibrate" in text
    assert "3/4" in text
    assert "warning: mind [this]" in text
