"""The no-regret gate on the command line: whether it runs, its table, its exit code."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from rich.console import Console

    from qcompiler.engine.build import BuildOptions
    from qcompiler.engine.gate import Gate
    from qcompiler.engine.gpus import Gpu
    from qcompiler.engine.measure import Samples
    from qcompiler.engine.sidecar import Sidecar
    from qcompiler.engine.target_string import EngineTarget
    from qcompiler.progress import Progress

UseGate = Annotated[
    bool,
    Parameter(
        name="--gate",
        help="Compare the engine with that of the FP16 form of its source; exit code 1 if it is "
        "slower, or less accurate: measured on a GPU that it is for, estimated elsewhere.",
    ),
]
CardName = Annotated[
    str | None,
    Parameter(
        help='Card that times are estimated for, such as "RTX 4090"; without it one of the '
        "target's compute capability."
    ),
]
_NOTHING = "gate: nothing to compare with; name the float model with --source"


@dataclass(frozen=True)
class Gating:
    """How an engine is to be compared with FP16.

    Attributes:
        source: The float model; None if it is not known.
        wanted: Whether to compare.
        gpu: The card to estimate for; None if the table has none.
        samples: The user's inputs to compare outputs on; None to make some up.
    """

    source: Path | None
    wanted: bool
    gpu: Gpu | None
    samples: Samples | None = None

    @classmethod
    def planned(
        cls,
        source: Path,
        target: EngineTarget | None,
        gpu: str | None,
        *,
        wanted: bool,
        samples: Samples | None = None,
    ) -> Gating:
        """Of ``compile --engine``, whose source is its model; ``target`` is None without one."""
        from qcompiler.engine.gpus import choose

        if target is None:
            return cls(source, False, None)
        return cls(source, wanted, choose(gpu, target.capabilities), samples)

    def check(self, model: Path) -> None:
        """Refuse a source that ``model`` was not made from, before anything is built.

        Raises:
            InputError: It cannot be read, or its inputs and outputs are others.
        """
        from qcompiler.engine.baseline import require_same_interface

        if self.wanted and self.source is not None:
            require_same_interface(model, self.source)

    def run(
        self,
        sidecar: Sidecar,
        model: Path,
        plan: Path,
        target: EngineTarget,
        options: BuildOptions,
        progress: Progress,
    ) -> Sidecar:
        """Add the verdict to the facts about a plan, if one is wanted and possible."""
        from qcompiler.engine.baseline import gated

        if not self.wanted or self.source is None:
            return sidecar
        return gated(
            sidecar,
            plan,
            model,
            self.source,
            target,
            gpu=self.gpu,
            options=options,
            samples=self.samples,
            progress=progress,
        )


def show(sidecar: Sidecar, console: Console) -> None:
    """Print the comparison as a table of three lines; nothing if there was none."""
    from rich.markup import escape
    from rich.table import Table

    from qcompiler.engine.gate import figure, spelled

    gate = sidecar.gate
    if gate is None:
        return
    if gate.fp16 is None:
        console.print(f"[cyan]gate[/]  {escape(gate.why)}")
        return
    estimate, measured = gate.estimate, gate.measured
    head = f"estimate, {estimate.gpu}" if estimate else "estimate"
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="cyan")
    table.add_column("gate", no_wrap=True)
    heads = ["kernels", "bytes moved", "low MACs", "activations", head]
    for title in [*heads, f"measured, {measured.gpu}"] if measured else heads:
        table.add_column(title, justify="right", no_wrap=True)
    times = (estimate.ours, estimate.fp16) if estimate else (None, None)
    seen = (spelled(measured.ours), spelled(measured.fp16)) if measured else ("", "")
    sides = zip(("this", "fp16"), (gate.ours, gate.fp16), times, seen, strict=True)
    for name, side, seconds, median in sides:
        table.add_row(
            name,
            str(side.kernels),
            f"{side.bytes_moved / 1e6:.3f} MB",
            f"{side.low_macs:.1%}",
            f"{side.activation / 1e6:.3f} MB",
            "unknown" if seconds is None else f"{figure(seconds * 1e6)} us",
            *([median] if measured else []),
        )
    console.print(table)


def explain(gating: Gating, sidecar: Sidecar | None, console: Console) -> None:
    """Print the table and the verdict, or why there is none."""
    from rich.markup import escape

    if sidecar is None or not gating.wanted:
        return
    gate = sidecar.gate
    if gate is None:
        console.print(_NOTHING)
        return
    show(sidecar, console)
    if gate.verdict == "pass":
        told = [f"{gate.line}{_leaves_out(gate)}"]
    elif gate.verdict == "regret":
        told = [f"{gate.why}{_leaves_out(gate)}", f"hint: {gate.hint}", gate.line]
    else:
        told = [gate.line]
    for line in told:
        console.print(escape(line), soft_wrap=True)


def _leaves_out(gate: Gate) -> str:
    """What the figures that decided do not say."""
    if gate.measured is not None:
        return f" (at {gate.measured.shapes})" if gate.measured.shapes else ""
    at = f"at {gate.estimate.shapes}, " if gate.estimate and gate.estimate.shapes else ""
    return f" ({at}launches count nothing)"


def closed(sidecar: Sidecar | None, *, quiet: bool) -> int:
    """The exit code: 1 if the engine is slower, or less accurate, than FP16.

    Args:
        sidecar: Facts about the plan; None if none was built.
        quiet: Whether standard output is JSON; the verdict then goes to standard error.
    """
    gate = None if sidecar is None else sidecar.gate
    if gate is None or gate.verdict != "regret":
        return 0
    if quiet:
        print(gate.why, f"hint: {gate.hint}", gate.line, sep="\n", file=sys.stderr)
    return 1
