"""Which quantized products are worth it?  The compiler is asked, region by region.

On TensorRT for RTX an INT8 convolution saves arithmetic and costs traffic: its sum leaves the
kernel in 16 bits, and a kernel of its own rounds it (see :mod:`qcompiler.targets.tensorrt_rtx`).
Whether that pays depends on the layer, its neighbours and the card, so the graph is compiled both
ways and the listings are compared, kernel by kernel, by the roofline estimate of
:mod:`qcompiler.engine.gate`::

    gain(n) = seconds of n's kernels with nothing quantized - with everything quantized

What does not gain is left in float, the rest is compiled again, and so on while that helps; the
fastest engine seen wins, that without any quantization included.  So the answer is never slower
than float, by the estimate that judges the finished engine and a little for each launch.

Where the library is not installed, or the model is too large to be compiled several times, or is
refused, convolutions are judged by the roofline alone (:mod:`qcompiler.engine.by_hand`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from qcompiler.engine import gpus
from qcompiler.engine.by_hand import pays
from qcompiler.engine.fixed import fixed
from qcompiler.engine.gpus import Gpu
from qcompiler.engine.shapes import Shapes
from qcompiler.engine.target_string import EngineTarget, parse
from qcompiler.engine.trial import Trial, Trials
from qcompiler.errors import BackendError, InputError, UnsupportedError
from qcompiler.graph import Graph, label
from qcompiler.plan import Points
from qcompiler.progress import Journal
from qcompiler.recipe import Recipe
from qcompiler.scan import scan
from qcompiler.targets.base import Target

ROUNDS = 3
"""How often the losers of a trial are left out and the rest is tried again."""

MOST_BYTES = 1 << 30
"""Weights beyond which a model is not compiled for trial."""

WORTH = 0.02
"""Share of the time that quantizing must save: less is not worth a rounding, nor sure."""


@dataclass(frozen=True)
class Question:
    """Whom to ask, and about what.

    Attributes:
        engine: Library and compute capabilities.
        gpu: Card whose peaks the estimate takes.
        shapes: What the user said about dynamic inputs.
    """

    engine: EngineTarget
    gpu: Gpu
    shapes: Shapes = Shapes()  # noqa: RUF009  (frozen)


def weighed(
    graph: Graph,
    points: Points,
    recipe: Recipe,
    target: Target,
    *,
    shapes: Shapes,
    card: str | None,
    journal: Journal,
    leave: Mapping[str, str] | None = None,
) -> Points:
    """Points of a target that weighs, less what does not pay; the points themselves of any other.

    Args:
        graph: The prepared graph; not changed.
        points: What scan proposed for it.
        recipe: The recipe that was scanned with.
        target: The target that was scanned for.
        shapes: What the user said about dynamic inputs.
        card: Name of the card that times are estimated for; None for one of the target's.
        journal: Told the stage, and why no compiler was asked.
        leave: Nodes that ``scan`` was told to leave in float, and why.

    Raises:
        UsageError: The card is unknown, or none of the target's.
    """
    if not target.weighs or not quantized(points):
        return points
    engine = parse(target.name)
    gpu = gpus.choose(card, engine.capabilities)
    if gpu is None:
        journal.warn(f"nothing was weighed: there are no figures for a card of {engine}")
        return points
    question = Question(engine, gpu, shapes)
    with journal.stage("weigh"):
        try:
            update = journal.progress.update
            return weigh(graph, points, recipe, target, question, update, leave)
        except (BackendError, InputError, UnsupportedError) as error:
            journal.warn(
                f"{_low(recipe)} was weighed against {_words(recipe)} by the roofline of each "
                f"convolution alone, without the compiler: {error.message}"
            )
        return _by_hand(graph, points, recipe, target, question, leave)


def weigh(
    graph: Graph,
    points: Points,
    recipe: Recipe,
    target: Target,
    question: Question,
    progress: Callable[[int, int], None] = lambda done, total: None,
    leave: Mapping[str, str] | None = None,
) -> Points:
    """Leave in float what is not faster quantized, by trial engines.

    Args:
        graph: The prepared graph; not changed.
        points: What scan proposed for it.
        recipe: The recipe that was scanned with.
        target: The target that was scanned for.
        question: Whom to ask.
        progress: Called with trials done and at most to do.
        leave: Nodes that ``scan`` was told to leave in float, and why.

    Returns:
        Points that quantize the fastest set of nodes that was seen; maybe none.

    Raises:
        UnsupportedError: The model is too large, or refused.
        BackendError: The library is not installed, or died.
        InputError: The shapes do not fit the inputs.
    """
    if graph.weight_bytes() > MOST_BYTES:
        raise UnsupportedError("the model is too large to be compiled several times")
    question.engine.require()
    work = Trials(fixed(graph, question.shapes), recipe, question.engine, question.gpu)
    nodes = quantized(points)
    none = work.run(scan(graph, recipe, target, dict.fromkeys(nodes, "trial")))
    progress(1, ROUNDS + 1)
    seen: list[Trial] = []
    left = dict(leave or {})
    for number in range(ROUNDS):
        proposed = scan(graph, recipe, target, left) if number else points
        tried = quantized(proposed)
        if not tried:
            break
        seen.append(work.run(proposed))
        progress(number + 2, ROUNDS + 1)
        losers = _losers(none, seen[-1], tried)
        if not losers:
            break
        left |= dict.fromkeys(losers, _reason(none, seen[-1], losers, question.gpu, recipe))
    best = min(seen, key=lambda t: (t.seconds, t.kernels))
    if best.seconds <= none.seconds * (1 - WORTH):
        return best.points
    why = (
        f"{_low(recipe)} is not faster than {_words(recipe)} on this target: at best "
        f"{best.seconds * 1e6:.1f} us against {none.seconds * 1e6:.1f} us "
        f"{_estimate(none, question.gpu)}"
    )
    return scan(graph, recipe, target, dict.fromkeys(nodes, why) | dict(leave or {}))


def quantized(points: Points) -> frozenset[str]:
    """Linear nodes that points quantize."""
    weights = {s.node for p in points.weights for s in p.slots}
    return frozenset(weights | points.needs.keys())


def _losers(none: Trial, tried: Trial, nodes: Iterable[str]) -> set[str]:
    return {n for n in nodes if tried.by_node.get(n, 0.0) > none.by_node.get(n, 0.0)}


def _reason(none: Trial, tried: Trial, losers: set[str], gpu: Gpu, recipe: Recipe) -> str:
    ours = sum(tried.by_node.get(n, 0.0) for n in losers) * 1e6
    theirs = sum(none.by_node.get(n, 0.0) for n in losers) * 1e6
    return (
        f"slower than {_words(recipe)} on this target: {len(losers)} such nodes take {ours:.1f} us "
        f"quantized and {theirs:.1f} us not {_estimate(none, gpu)}"
    )


def _words(recipe: Recipe) -> str:
    return {"float16": "FP16", "bfloat16": "BF16"}.get(recipe.base, "FP32")


def _low(recipe: Recipe) -> str:
    return "INT8" if recipe.format == "int8" else "FP8"


def _estimate(trial: Trial, gpu: Gpu) -> str:
    return f"(estimate, {gpu.name}, kernels of {trial.library})"


def _by_hand(
    graph: Graph,
    points: Points,
    recipe: Recipe,
    target: Target,
    question: Question,
    leave: Mapping[str, str] | None,
) -> Points:
    try:
        at = fixed(graph, question.shapes)
    except InputError:  # shapes that contradict each other: what is fixed in the graph must do
        at = graph
    proposed = quantized(points)
    losers = [
        label(n)
        for n in at.nodes
        if n.op == "Conv" and label(n) in proposed and not pays(at, n, question.gpu)
    ]
    why = (
        f"slower than {_words(recipe)} on this target: more traffic than arithmetic "
        f"(roofline, {question.gpu.name}; nothing was compiled)"
    )
    if not losers:
        return points
    return scan(graph, recipe, target, dict.fromkeys(losers, why) | dict(leave or {}))
