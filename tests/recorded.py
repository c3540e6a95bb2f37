"""A progress that remembers."""

from __future__ import annotations

from qcompiler.progress import Silent


class Recorded(Silent):
    """Stages and warnings, in order."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.warnings: list[str] = []

    def begin(self, stage: str) -> None:
        self.stages.append(stage)

    def warn(self, message: str) -> None:
        self.warnings.append(message)
