"""Every product of a compilation as a file, to be read, edited and resumed from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcompiler.driver import Result


def product_paths(folder: Path) -> list[Path]:
    """The files that ``write_products`` writes."""
    return [folder / n for n in ("prepared.onnx", "points.json", "plan.json", "stats.npz")]


def write_products(result: Result, folder: Path, model: Path, target: str) -> list[Path]:
    """Write ``prepared.onnx``, ``points.json``, ``stats.npz`` and ``plan.json``.

    Args:
        result: The compilation.
        folder: An existing folder.
        model: The original model, from which the prepared graph is made again.
        target: Name of the target.

    Returns:
        The files written.
    """
    from qcompiler import plan as products
    from qcompiler import targets
    from qcompiler.emit import emit
    from qcompiler.prepare import prepare

    prepared, points, plan, stats = product_paths(folder)
    # Of a bfloat16 graph the operator set is newer than that of the target.
    graph, _ = prepare(model, replace(targets.find(target), opset=result.graph.opset))
    files = emit(graph, prepared)
    products.save(result.points, points)
    products.save(result.plan, plan)
    files += [points, plan]
    if result.statistics is not None:
        result.statistics.save(stats)
        files.append(stats)
    return files
