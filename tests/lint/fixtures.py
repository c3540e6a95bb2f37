"""Models in ONNX text that break one rule (``bad``) or keep it (``good``).

A fixture is ``tests/lint/<code>/{good,bad}.txt``; its header declares constants as golden pairs do,
and may say::

    // TARGET: tensorrt-rtx:sm86
    // ALSO: QC001

``ALSO`` names findings of onnx's own checker that the fault entails.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, numpy_helper, parser

from tests.golden import _DECLARATION, constant

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fixture:
    """One model, the target it is for, and what onnx's checker says besides."""

    model: ModelProto
    target: str
    also: frozenset[str]


def read(path: Path) -> Fixture:
    """Parse a fixture."""
    lines = path.read_text().splitlines()
    model = parser.parse_model("\n".join(line for line in lines if not line.startswith("//")))
    target, also = "tensorrt-rtx", frozenset[str]()
    for line in lines:
        if declared := _DECLARATION.fullmatch(line):
            array = constant(declared[2])
            model.graph.initializer.append(numpy_helper.from_array(array, declared[1]))
        elif line.startswith("// TARGET: "):
            target = line.removeprefix("// TARGET: ")
        elif line.startswith("// ALSO: "):
            also = frozenset(line.removeprefix("// ALSO: ").split(", "))
    return Fixture(model, target, also)
