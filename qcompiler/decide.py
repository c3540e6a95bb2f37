"""Points + statistics + weights -> plan.  Numbers only; the graph is read, never changed.

An activation's range comes from its histogram (merged over its group, so that tensors which share
a scale are judged together), a weight's scale from its values.  A node whose activation cannot be
quantized keeps its weight in float too: one-sided Q/DQ runs in float with a kernel more (rule D01).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np

from qcompiler import run_time
from qcompiler.calibrate import Statistics
from qcompiler.errors import UsageError
from qcompiler.graph import Graph
from qcompiler.islands import islands
from qcompiler.narrow import NARROW
from qcompiler.numerics.ranges import METHODS, Range, auto_named, expected_error, to_qparams
from qcompiler.numerics.run_time import LEAST_SCALE
from qcompiler.numerics.tiles import tile_qparams
from qcompiler.numerics.weight_scale import search_scale
from qcompiler.observers.histogram import Histogram
from qcompiler.plan import Decision, Point, Points, QuantPlan, Slot, require_digest
from qcompiler.recipe import Recipe
from qcompiler.spec import QParams
from qcompiler.tail import tail


def decide(
    graph: Graph,
    points: Points,
    statistics: Statistics,
    recipe: Recipe,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> QuantPlan:
    """Choose every scale.

    Args:
        graph: The prepared graph that the points belong to.
        points: What scan proposed.
        statistics: What calibration saw.
        recipe: Range method and weight search.
        progress: Called with tensors decided and to decide.

    Returns:
        The plan; every proposed node is decided or skipped with a reason. If the base is narrow,
        nodes whose values do not fit are kept in float32.

    Raises:
        InputError: Points or statistics belong to another model.
        UsageError: The recipe names an unknown range method.
    """
    require_digest(statistics.model_digest, points.model_digest, "statistics file")
    if recipe.range not in METHODS:
        raise UsageError(
            f"there is no range method {recipe.range!r}",
            hint=f"methods are: {', '.join(sorted(METHODS))}",
        )
    total, done = len(points.activations) + len(points.weights), 0
    skipped = dict(points.skipped)
    members: dict[str, list[str]] = {}
    for point in (p for p in points.activations if p.measured):
        members.setdefault(point.group, []).append(point.tensor)
    merged = {g: _merged(statistics, tensors) for g, tensors in members.items()}
    activations: list[Decision] = []
    ranges: dict[str, tuple[QParams, str]] = {}
    for point in points.activations:
        reason = _unusable(point, members.get(point.group, []), statistics)
        if reason:
            skipped.update({s.node: reason for s in point.slots})
        elif point.storage.dynamic:
            activations.append(run_time.decision(point))
        elif point.fixed is not None:
            activations.append(_fixed(point, point.fixed))
        else:
            if point.group not in ranges:
                ranges[point.group] = _choose(merged[point.group], point, recipe.range)
            activations.append(_activation(point, *ranges[point.group]))
        done += 1
        progress(done, total)
    _skip_with(points.needs, skipped)
    weights: list[Decision] = []
    for point in points.weights:
        slots = tuple(s for s in point.slots if s.node not in skipped)
        if slots:
            least = 0.0 if recipe.scales == "tensor" else LEAST_SCALE
            search = recipe.search_weights
            weights.append(weight_decision(graph, point, slots, search=search, least=least))
        done += 1
        progress(done, total)
    low = NARROW.get(recipe.base)
    found = {} if low is None else islands(graph, low, statistics.histograms)
    return QuantPlan(
        points.model_digest,
        points.target,
        points.recipe,
        statistics.synthetic and bool(points.activations or found),
        tuple(activations),
        tuple(weights),
        skipped,
        recipe.base,
        found if low is None else tail(graph, recipe.io) | found,
        recipe.io,
    )


def _skip_with(needs: Mapping[str, Sequence[str]], skipped: dict[str, str]) -> None:
    """Leave in float what needs a node that stays in float, and what needs that, and so on."""
    changed = True
    while changed:
        changed = False
        for node, needed in needs.items():
            lost = next((n for n in needed if n in skipped), None)
            if lost is not None and node not in skipped:
                skipped[node] = f"it needs {lost!r}, which stays in float"
                changed = True


def _merged(statistics: Statistics, tensors: list[str]) -> Histogram:
    merged = Histogram.empty()
    for tensor in tensors:
        merged = merged.merge(statistics.histograms.get(tensor, Histogram.empty()))
    return merged


def _unusable(point: Point, group: list[str], statistics: Statistics) -> str:
    """Why no range can be chosen for a tensor; one bad tensor spoils the scale of its group."""
    if not point.measured:
        return ""
    seen = {t: statistics.histograms.get(t, Histogram.empty()) for t in group}
    bad = next((t for t in (point.tensor, *group) if seen[t].nonfinite), None)
    if bad == point.tensor:
        return f"its activation {bad!r} holds NaN or infinity in the calibration data"
    if bad is not None:
        return f"{bad!r}, which shares the scale, holds NaN or infinity in the calibration data"
    if point.tensor not in statistics.histograms or not any(h.count for h in seen.values()):
        return f"calibration never computed its activation {point.tensor!r}"
    return ""


def _choose(histogram: Histogram, point: Point, method: str) -> tuple[QParams, str]:
    spec = point.storage.spec()
    if method == "auto":
        chosen, winner = auto_named(histogram, spec)
        how = f"auto = {winner}"
    else:
        chosen, how = METHODS[method](histogram, spec), method
    qparams = in_dtype(to_qparams(chosen, spec), point.dtype)
    error = expected_error(histogram, qparams, spec)
    why = (
        f"{how}: [{chosen.lo:.6g}, {chosen.hi:.6g}] of seen "
        f"[{histogram.minimum:.6g}, {histogram.maximum:.6g}], "
        f"root mean square error {np.sqrt(error):.3g}"
    )
    return qparams, why


def in_dtype(qparams: QParams, dtype: str, *, subnormal: bool = False) -> QParams:
    """Scales as a tensor of this type can hold them, never rounded to zero.

    Args:
        qparams: Scales in float32.
        dtype: Type of the float graph.
        subnormal: Whether a float16 scale may go below 6e-5. Of a weight it may: DequantizeLinear
            multiplies by it, and a small channel would keep few codes otherwise. Of an activation
            it may not: the reciprocal, by which QuantizeLinear may multiply, would overflow.
    """
    if dtype == "float32":
        return qparams
    kind = np.dtype(dtype)
    limits = np.finfo(kind)
    least = limits.smallest_subnormal if subnormal else limits.tiny
    rounded = np.maximum(qparams.scale.astype(kind), least)
    return QParams(rounded.astype(np.float32), qparams.zero_point)


def _fixed(point: Point, largest: float) -> Decision:
    """A range that is known without calibration."""
    qparams = to_qparams(Range(-largest, largest), point.storage.spec())
    made = _activation(point, in_dtype(qparams, point.dtype), f"ends at {largest:g} by definition")
    return msgspec.structs.replace(made, source="fixed")


def _activation(point: Point, qparams: QParams, why: str) -> Decision:
    shared = point.group != point.tensor
    return Decision(
        point.tensor,
        point.slots,
        point.storage,
        point.dtype,
        float(qparams.scale),
        int(qparams.zero_point),
        f"shared:{point.group}" if shared else "calibrated",
        why,
    )


def weight_decision(
    graph: Graph, point: Point, slots: tuple[Slot, ...], *, search: bool, least: float = 0.0
) -> Decision:
    """The scales of one weight.

    Args:
        graph: The prepared graph.
        point: The weight.
        slots: Those of its slots that are quantized.
        search: Whether each scale is searched, or taken from the largest value.
        least: No scale is smaller.
    """
    tensor = graph.tensor(point.tensor)
    if tensor is None:
        raise UsageError(f"the plan names the tensor {point.tensor!r}, which the graph lacks")
    values = np.asarray(graph.values(tensor), np.float32)
    spec = point.storage.spec()
    found = (
        search_scale(values, spec, search=search)
        if point.storage.block is None
        else tile_qparams(values, spec, search=search)
    )
    raised = QParams(np.maximum(found.scale, np.float32(least)), found.zero_point)
    scale = in_dtype(raised, point.dtype, subnormal=True).scale
    return Decision(
        point.tensor,
        slots,
        point.storage,
        point.dtype,
        float(scale) if scale.ndim == 0 else tuple(scale.reshape(-1).tolist()),
        0,
        "searched" if search else "largest value",
        f"{scale.size} scale{'s' if scale.size > 1 else ''} of {list(values.shape)}",
    )
