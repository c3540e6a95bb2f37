"""The no-regret gate: is the engine slower than plain FP16 would be?

Quantizing costs traffic (kernels of its own for Q, products that write FP32), saves arithmetic, and
can lose (rule G02). So an engine is compared with that of the FP16 form of its source, built for
the same target, by their layer listings. Without a GPU the time is an *estimate*, the roofline of
Williams, Waterman and Patterson (2009) for each kernel::

    time = sum over kernels of max(bytes / bandwidth, sum over its nodes of 2 MACs / rate)

with the published peaks of one card (:mod:`qcompiler.engine.gpus`) and the rate of the precision
in which a node is multiplied. What it leaves out: launches count nothing, although each takes some
microseconds, so of two equal estimates that with more kernels is slower; arithmetic outside linear
nodes counts nothing; caches hold nothing, although a small model fits into them; and no kernel
reaches a peak. It compares two engines and predicts no latency.

Where the GPU of this machine is one that the engine is for, both are run on it by turns, and the
verdict rests on the medians and on the outputs (:mod:`qcompiler.engine.measured`); the estimate is
then only told.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec

from qcompiler.engine import traffic
from qcompiler.engine.gpus import Gpu
from qcompiler.engine.listing import Layer
from qcompiler.engine.measured import TOLERANCE, Measured, Timed
from qcompiler.engine.report import EngineReport, LinearNode

HINT = (
    "--no-gate accepts it; --target tensorrt-rtx without --force leaves in FP16 what is not faster "
    "in low precision"
)
Engine = tuple[Sequence[Layer], EngineReport]
"""A layer listing and the report on it."""

SLOWER = "gate: slower than fp16 by the estimate"
MEASURED_SLOWER = "gate: slower than fp16, measured"
LESS_ACCURATE = "gate: less accurate than fp16 by more than allowed, measured"
NOT_SLOWER = "gate: not slower than fp16 by the estimate"
MEASURED_NOT_SLOWER = "gate: not slower than fp16 and as accurate as asked, measured"
ACCURACY_HINT = (
    "--no-gate accepts it; calibrate with more samples, leave nodes in float with --exclude, and "
    "pass real inputs with --data to compare on"
)


class Side(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is compared of one engine.

    Attributes:
        kernels: Number of kernels.
        bytes_moved: Read and written, over all kernels.
        low_macs: Share of the multiply-accumulates in INT8, FP8, FP4 or INT4, 0 to 1.
        activation: Bytes of activations alive at the same time.
    """

    kernels: int
    bytes_moved: int
    low_macs: float
    activation: int


class Estimate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Roofline times on one card, in seconds; an estimate, nothing was run.

    Attributes:
        gpu: The card.
        capability: Its compute capability.
        source: Where its peaks come from.
        shapes: Those that dynamic inputs were fixed at, for both; empty if there are none.
        ours: Of the engine that was asked for.
        fp16: Of the FP16 form.
        tolerance: How far ``ours`` may be above ``fp16``, as a share.
    """

    gpu: str
    capability: str
    source: str
    shapes: str
    ours: float
    fp16: float
    tolerance: float = TOLERANCE


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The verdict on an engine against FP16.

    Attributes:
        ours: The engine that was asked for.
        fp16: That of the FP16 form; None if it could not be built.
        estimate: None if there is no engine, no listing or no card to estimate with.
        verdict: ``pass``, ``regret`` or ``unknown``.
        why: In a sentence.
        measured: What both did on the GPU of this machine, which then decides; None without one.
    """

    ours: Side
    fp16: Side | None
    estimate: Estimate | None
    verdict: Literal["pass", "regret", "unknown"]
    why: str
    measured: Measured | None = None

    @property
    def line(self) -> str:
        """The verdict as the last line that is printed."""
        if self.verdict == "unknown":
            return f"gate: unknown: {self.why}"
        found = self.measured
        if self.verdict == "pass":
            return NOT_SLOWER if found is None else MEASURED_NOT_SLOWER
        if found is None:
            return SLOWER
        return MEASURED_SLOWER if found.slower else LESS_ACCURATE

    @property
    def hint(self) -> str:
        """What to do about a regret."""
        return ACCURACY_HINT if self.line == LESS_ACCURATE else HINT


def side(report: EngineReport) -> Side:
    """What the gate compares of an engine."""
    return Side(
        kernels=report.kernels,
        bytes_moved=report.bytes_moved,
        low_macs=report.low_macs,
        activation=report.memory.activation,
    )


def seconds(layers: Sequence[Layer], report: EngineReport, gpu: Gpu) -> float:
    """The roofline time of an engine.

    A linear node that no kernel names counts as a kernel that only computes.

    Args:
        layers: Its listing, bookkeeping included.
        report: On the same listing.
        gpu: Peaks.
    """
    loose = sum(computing([n], gpu) for n in report.linear if not n.kernel)
    return loose + sum(time for _, time in kernel_seconds(layers, report, gpu))


def kernel_seconds(
    layers: Sequence[Layer], report: EngineReport, gpu: Gpu
) -> Iterator[tuple[Layer, float]]:
    """The roofline time of every kernel."""
    nodes: dict[str, list[LinearNode]] = defaultdict(list)
    for node in report.linear:
        nodes[node.kernel].append(node)
    for layer in layers:
        if traffic.is_bookkeeping(layer):
            continue
        moved = traffic.read(layer, report.batch) + traffic.written(layer, report.batch)
        # Should two kernels have one name, the first does the work.
        work = computing(nodes.pop(layer.name, []), gpu)
        yield layer, max(moved / (gpu.bandwidth * 1e9), work)


def computing(nodes: Sequence[LinearNode], gpu: Gpu) -> float:
    """Seconds that linear nodes need at the peak rates of their precisions."""
    return sum(2 * n.macs / gpu.rate(n.precision) for n in nodes)


def unknown(report: EngineReport, why: str) -> Gate:
    """The verdict where there is nothing to compare with."""
    return Gate(ours=side(report), fp16=None, estimate=None, verdict="unknown", why=why)


def judge(
    ours: Engine,
    fp16: Engine,
    gpu: Gpu | None,
    shapes: str = "",
    measured: Measured | None = None,
) -> Gate:
    """Compare two engines of one model.

    Args:
        ours: The engine that was asked for.
        fp16: That of the FP16 form.
        gpu: The card to estimate for; None if the table has none.
        shapes: Those that dynamic inputs were fixed at.
        measured: What both did on the GPU of this machine; it decides.
    """
    sides = side(ours[1]), side(fp16[1])
    listed = bool(sides[0].kernels and sides[1].kernels)
    estimate = None if gpu is None or not listed else estimated(ours, fp16, gpu, shapes)
    verdict: Literal["pass", "regret", "unknown"]
    if measured is not None:
        verdict = "regret" if measured.slower or measured.less_accurate else "pass"
        why = _measured_why(measured)
    elif estimate is not None:
        slower = estimate.ours > estimate.fp16 * (1 + estimate.tolerance)
        verdict, why = "regret" if slower else "pass", _why(sides, estimate)
    else:
        verdict = "unknown"
        why = (
            "no figures for a card of this compute capability; name a card with --gpu"
            if listed
            else "the library lists no kernels"
        )
    return Gate(
        ours=sides[0],
        fp16=sides[1],
        estimate=estimate,
        verdict=verdict,
        why=why,
        measured=measured,
    )


def estimated(ours: Engine, fp16: Engine, gpu: Gpu, shapes: str) -> Estimate:
    """Roofline times of two engines on one card."""
    return Estimate(
        gpu=gpu.name,
        capability=gpu.capability,
        source=gpu.source,
        shapes=shapes,
        ours=seconds(*ours, gpu),
        fp16=seconds(*fp16, gpu),
    )


def _why(sides: tuple[Side, Side], estimate: Estimate) -> str:
    ours, fp16 = sides
    return (
        f"estimated {figure(estimate.ours * 1e6)} us against {figure(estimate.fp16 * 1e6)} us of "
        f"FP16 on the {estimate.gpu}: {figure(ours.bytes_moved / 1e6)} MB moved against "
        f"{figure(fp16.bytes_moved / 1e6)} MB, {ours.low_macs:.0%} of MACs in low precision"
    )


def _measured_why(measured: Measured) -> str:
    worst = measured.worst
    accuracy = (
        "no output of floating point to compare"
        if worst is None
        else f"{worst.sqnr_db:.1f} dB SQNR against its output {worst.output!r} on inputs "
        f"{measured.inputs}, {measured.floor_db:g} allowed"
    )
    return (
        f"measured {spelled(measured.ours)} against {spelled(measured.fp16)} of FP16 on the "
        f"{measured.gpu} (median and 95 % interval of {measured.samples} samples): {accuracy}"
    )


def spelled(time: Timed) -> str:
    """A median with its interval, in microseconds."""
    low, high = figure(time.low * 1e6), figure(time.high * 1e6)
    return f"{figure(time.median * 1e6)} us [{low}, {high}]"


def figure(value: float) -> str:
    """A number with three decimals if it is small, one if not: two figures must differ to tell."""
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"
