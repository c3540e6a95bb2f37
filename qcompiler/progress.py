"""How long steps tell what they do; the default says nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """Receives what a compilation is doing; the command line shows it."""

    def begin(self, stage: str) -> None:
        """A stage starts: ``prepare``, ``calibrate`` and so on."""

    def update(self, done: int, total: int) -> None:
        """So much of the current stage is done; ``total`` is 0 if it is not known."""

    def end(self) -> None:
        """The current stage is over."""

    def warn(self, message: str) -> None:
        """Something the user must know now and at the end."""


class Silent:
    """A ``Progress`` that shows nothing."""

    def begin(self, stage: str) -> None:
        """Ignored."""

    def update(self, done: int, total: int) -> None:
        """Ignored."""

    def end(self) -> None:
        """Ignored."""

    def warn(self, message: str) -> None:
        """Ignored."""


class Journal:
    """Times the stages and keeps the warnings of one compilation."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.timings: dict[str, float] = {}
        self.warnings: list[str] = []

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage; repeated stages add up."""
        self.progress.begin(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.timings[name] = self.timings.get(name, 0.0) + time.perf_counter() - start
            self.progress.end()

    def warn(self, message: str) -> None:
        """Say something once, now and in the report."""
        if message not in self.warnings:
            self.warnings.append(message)
            self.progress.warn(message)
