"""Progress: a bar on a terminal, a line every 30 seconds elsewhere, warnings only beside JSON.

A stage that cannot say how far it is shows the seconds it has taken.
"""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

from qcompiler.progress import Progress, Silent

_EVERY = 30.0


def display(*, quiet: bool) -> Progress:
    """The progress of a command that writes text, or of one that writes JSON (``quiet``)."""
    console = Console(stderr=True, highlight=False)
    if quiet:
        return _Warnings(console)
    return _Bar(console) if console.is_terminal else _Lines(console)


class _Warnings(Silent):
    """Nothing but warnings, which go to standard error."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def warn(self, message: str) -> None:
        """Print at once."""
        self._console.print(f"warning: {escape(message)}", soft_wrap=True)


class _Figures(ProgressColumn):
    """How much is done of how much, or the seconds that a stage without figures has taken."""

    def __init__(self) -> None:
        super().__init__()
        self._known = MofNCompleteColumn()

    def render(self, task: Task) -> Text:
        """What rich shows, ten times a second."""
        if task.total is None and not task.completed:
            return Text(f"{task.elapsed or 0.0:.0f} s")
        return self._known.render(task)


class _Bar:
    """One transient bar for the current stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Bars | None = None

    def begin(self, stage: str) -> None:
        """Show a new bar."""
        self._bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            BarColumn(),
            _Figures(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
        )
        self._bars.add_task(stage, total=None)
        self._bars.start()

    def update(self, done: int, total: int) -> None:
        """Move it."""
        if self._bars is not None:
            self._bars.update(self._bars.task_ids[0], completed=done, total=total or None)

    def end(self) -> None:
        """Remove it."""
        if self._bars is not None:
            self._bars.stop()
            self._bars = None

    def warn(self, message: str) -> None:
        """Print above the bar."""
        self._console.print(f"[bold yellow]warning[/]: {escape(message)}", soft_wrap=True)


class _Lines(_Warnings):
    """Plain lines, at most one in 30 seconds."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self._stage = ""
        self._start = self._last = time.monotonic()

    def begin(self, stage: str) -> None:
        """Remember the stage."""
        self._stage = stage
        self._start = self._last = time.monotonic()

    def update(self, done: int, total: int) -> None:
        """Print if it is time."""
        now = time.monotonic()
        if now - self._last < _EVERY:
            return
        self._last = now
        if not done and not total:
            self._console.print(f"{self._stage}: {now - self._start:.0f} s")
            return
        left = (now - self._start) * (total - done) / done if total and done else None
        rest = f" of {total}, about {left:.0f} s left" if left is not None else ""
        self._console.print(f"{self._stage}: {done}{rest}")
