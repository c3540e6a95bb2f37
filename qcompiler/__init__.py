"""qcompiler: a graph-level quantization compiler on ONNX.

A model exported to ONNX goes in, a model with explicit Q/DQ nodes and integer weights comes out,
verified against the original::

    import qcompiler
    result = qcompiler.compile("model.onnx", data="calib.npz")
    print(result.report.outputs)
    result.save("model.int8.onnx")

Names are imported when they are first used, so that ``import qcompiler`` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qcompiler.calibrate import Statistics as Statistics
    from qcompiler.data.open import ImageOptions as ImageOptions
    from qcompiler.driver import Options as Options
    from qcompiler.driver import Result as Result
    from qcompiler.driver import compile as compile  # noqa: A004
    from qcompiler.errors import QCompilerError as QCompilerError
    from qcompiler.evaluate import open_evaluation as open_evaluation
    from qcompiler.graph import Graph as Graph
    from qcompiler.plan import Points as Points
    from qcompiler.plan import QuantPlan as QuantPlan
    from qcompiler.recipe import Recipe as Recipe
    from qcompiler.report import Report as Report
    from qcompiler.targets.base import Target as Target

_PUBLIC = {
    "Graph": "graph",
    "ImageOptions": "data.open",
    "Options": "driver",
    "Points": "plan",
    "QCompilerError": "errors",
    "QuantPlan": "plan",
    "Recipe": "recipe",
    "Report": "report",
    "Result": "driver",
    "Statistics": "calibrate",
    "Target": "targets.base",
    "compile": "driver",
    "open_evaluation": "evaluate",
}

__all__ = ["__version__", *sorted(_PUBLIC)]


def __getattr__(name: str) -> object:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'qcompiler' has no attribute {name!r}")
    return getattr(importlib.import_module(f"qcompiler.{_PUBLIC[name]}"), name)
