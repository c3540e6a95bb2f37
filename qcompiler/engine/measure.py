"""Both engines on the GPU of this machine, if it is one that they were built for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from qcompiler.backends import cuda_driver
from qcompiler.backends.cuda_driver import Device
from qcompiler.backends.tensorrt_process import Limits
from qcompiler.backends.tensorrt_profile import Shape
from qcompiler.backends.tensorrt_run import Feeds, Ran, run_both
from qcompiler.data.open import DataSource, ImageOptions, open_data
from qcompiler.data.spec import InputSpec
from qcompiler.data.synthetic import synthetic
from qcompiler.engine.measured import FLOOR_DB, MADE_UP_FLOOR_DB, Measured, gaps, timed
from qcompiler.engine.shapes import write
from qcompiler.engine.target_string import EngineTarget
from qcompiler.errors import InputError
from qcompiler.graph import Graph
from qcompiler.inputs import input_specs
from qcompiler.load import load
from qcompiler.progress import Progress


@dataclass(frozen=True)
class Samples:
    """Inputs that outputs are compared on.

    Attributes:
        source: As of calibration data.
        images: How pictures become inputs.
    """

    source: DataSource
    images: ImageOptions = ImageOptions()  # noqa: RUF009  (frozen)


def present(target: EngineTarget) -> Device | None:
    """The GPU of this machine if it runs engines of a target; None if not, or if there is none."""
    device = cuda_driver.device()
    fits = device is not None and (
        not target.capabilities or device.capability in target.capabilities
    )
    return device if fits else None


def measure(
    plans: tuple[Path, Path],
    target: EngineTarget,
    device: Device,
    feeds: Feeds,
    *,
    given: bool = False,
    at: Mapping[str, Shape] | None = None,
    limits: Limits | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Measured:
    """Run an engine and the one it is held against by turns.

    Args:
        plans: The engine, then the other, with inputs and outputs of the same names.
        target: What both were built for.
        device: The GPU of this machine.
        feeds: Input -> array.
        given: Whether the inputs are the user's.
        at: Shapes that dynamic inputs were fixed at.
        limits: Bounds on the process that runs them.
        tick: Called while they run.

    Raises:
        BackendError: The library is missing, or an engine failed.
        UnsupportedError: They cannot be run here.
    """
    ran: Ran = run_both(plans, target.library, feeds, limits=limits, tick=tick)
    ours, other = (timed(samples) for samples in ran.samples)
    return Measured(
        gpu=device.name,
        capability=device.capability,
        driver=device.driver,
        shapes=write(at or {}),
        inputs="given" if given else "made up",
        samples=len(ran.samples[0]),
        calls=ran.calls,
        ours=ours,
        fp16=other,
        outputs=gaps(*ran.outputs),
        floor_db=FLOOR_DB if given else MADE_UP_FLOOR_DB,
    )


def feeds_for(
    model: Path, at: Mapping[str, Shape], samples: Samples | None, progress: Progress
) -> tuple[Feeds, bool]:
    """Inputs for a model at fixed shapes, and whether they are the user's.

    Args:
        model: Its file.
        at: Shapes of its dynamic inputs.
        samples: The user's; the first that fits is taken. None, or data that do not fit the
            shapes: standard normal numbers and the like (:mod:`qcompiler.data.synthetic`), seed 0.
        progress: Told why the user's were not taken.

    Raises:
        InputError: No values can be made up for an input.
    """
    graph = load(model, strict=False)
    graph.infer()
    specs = specs_at(graph, at)
    if samples is not None:
        try:
            data = open_data(samples.source, specs, images=samples.images)
            return next(iter(data)), True
        except (InputError, StopIteration) as error:
            why = error.message if isinstance(error, InputError) else "there is no sample"
            progress.warn(f"engines are compared on made-up inputs: {why}")
    return made_up(specs), False


def specs_at(graph: Graph, at: Mapping[str, Shape]) -> tuple[InputSpec, ...]:
    """Inputs of a graph at fixed shapes."""
    return tuple(replace(s, shape=at.get(s.name, s.shape)) for s in input_specs(graph))


def made_up(specs: tuple[InputSpec, ...]) -> Feeds:
    """Values for inputs of fixed shapes.

    Raises:
        InputError: None can be made up for an input.
    """
    return next(iter(synthetic(specs, samples=1)))
