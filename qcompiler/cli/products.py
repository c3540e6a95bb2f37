"""Every product of a compilation as a file, to be read, edited and resumed from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qcompiler.driver import Result


def write_products(result: Result, folder: Path, model: Path, target: str) -> list[Path]:
    """Write ``prepared.onnx``, ``points.json``, ``stats.npz`` and ``plan.json``.

    Args:
        result: The compilation.
        folder: Made if it does not exist.
        model: The original model, from which the prepared graph is made again.
        target: Name of the target.

    Returns:
        The files written.
    """
    from qcompiler import plan as products
    from qcompiler import targets
    from qcompiler.driver import prepare
    from qcompiler.emit import emit

    folder.mkdir(parents=True, exist_ok=True)
    graph, _ = prepare(model, targets.find(target))
    files = emit(graph, folder / "prepared.onnx")
    products.save(result.points, folder / "points.json")
    products.save(result.plan, folder / "plan.json")
    files += [folder / "points.json", folder / "plan.json"]
    if result.statistics is not None:
        result.statistics.save(folder / "stats.npz")
        files.append(folder / "stats.npz")
    return files
