"""What a compilation gives."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec
from onnx import ModelProto

from qcompiler.calibrate import Statistics
from qcompiler.emit import emit
from qcompiler.graph import Graph
from qcompiler.plan import Points, QuantPlan
from qcompiler.report import Report


@dataclass(frozen=True)
class Result:
    """A compiled model and everything that led to it.

    Attributes:
        graph: The quantized graph.
        points: What scan proposed.
        statistics: What calibration saw; None when a plan was given.
        plan: What was done, tensor by tensor, and why.
        report: Figures.
    """

    graph: Graph
    points: Points
    statistics: Statistics | None
    plan: QuantPlan
    report: Report

    def save(self, path: str | Path) -> Report:
        """Write the model atomically; a large one with ``<path>.data`` beside it.

        Returns:
            The report with the output's name and the sizes of the files.

        Raises:
            InputError: The folder cannot be written.
        """
        files = emit(self.graph, Path(path))
        return msgspec.structs.replace(
            self.report, output=str(path), bytes_after=sum(f.stat().st_size for f in files)
        )

    def model(self) -> ModelProto:
        """The compiled model as a proto."""
        return self.graph.proto()
