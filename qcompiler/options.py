"""What a compilation is told besides model, data, recipe and target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qcompiler.calibrate import Statistics
from qcompiler.data.open import ImageOptions
from qcompiler.engine.shapes import Shapes
from qcompiler.plan import Io, Points, QuantPlan
from qcompiler.progress import Progress, Silent


@dataclass(frozen=True)
class Options:
    """What rarely needs to be said.

    Attributes:
        exclude: Globs over node names that stay in float.
        images: How a folder of images becomes inputs.
        custom_ops: Libraries with custom operators for ONNX Runtime.
        seed: Of the synthetic data.
        force: Quantize what can be, whether it pays on the target or not, and whatever it costs.
        io: Element type of the float inputs and outputs of the result: ``keep``, ``float16`` or
            ``float32``; None for what the recipe says.
        shapes: Of dynamic inputs, where engines are compared.
        gpu: Card that times are estimated for; None for one of the target's.
        points: Scan nothing and take these.
        statistics: Calibrate nothing and take these.
        plan: Decide nothing and do this.
        progress: Told what happens.
    """

    exclude: Sequence[str] = ()
    images: ImageOptions = ImageOptions()  # noqa: RUF009  (frozen)
    custom_ops: Sequence[Path] = ()
    seed: int = 0
    force: bool = False
    io: Io | None = None
    shapes: Shapes = Shapes()  # noqa: RUF009  (frozen)
    gpu: str | None = None
    points: Points | None = None
    statistics: Statistics | None = None
    plan: QuantPlan | None = None
    progress: Progress = field(default_factory=Silent)
