"""Models in ONNX text that break one rule (``bad``) or keep it (``good``).

A fixture is ``tests/lint/<code>/{good,bad}.txt``; its header declares constants as golden pairs do,
and may say::

    // TARGET: tensorrt-rtx:sm86
    // COMMAND: trtexec --onnx=model.onnx --refit
    // ALSO: QC001

``COMMAND`` is the trtexec command line that is checked with the model;
``ALSO`` names further findings that the fault or the form of the model entails, those of onnx's own
checker above all.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import onnx
from onnx import ModelProto, numpy_helper, parser

from qcompiler.backends import tensorrt
from tests.golden import _DECLARATION, constant

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Fixture:
    """One model, the target and command line it is for, and what onnx's checker says besides."""

    model: ModelProto
    target: str
    command: str
    also: frozenset[str]


def read(path: Path) -> Fixture:
    """Parse a fixture."""
    lines = path.read_text().splitlines()
    model = parser.parse_model("\n".join(line for line in lines if not line.startswith("//")))
    target, command, also = "tensorrt-rtx", "", frozenset[str]()
    for line in lines:
        if declared := _DECLARATION.fullmatch(line):
            array = constant(declared[2])
            model.graph.initializer.append(numpy_helper.from_array(array, declared[1]))
        elif line.startswith("// TARGET: "):
            target = line.removeprefix("// TARGET: ")
        elif line.startswith("// COMMAND: "):
            command = line.removeprefix("// COMMAND: ")
        elif line.startswith("// ALSO: "):
            also = frozenset(line.removeprefix("// ALSO: ").split(", "))
    return Fixture(model, target, command, also)


@cache
def verdict(code: str, kind: str) -> tensorrt.Verdict:
    """What TensorRT for RTX does with the ``good`` or ``bad`` model of a rule."""
    fixture = read(HERE / code / f"{kind}.txt")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(fixture.model, path)
        capability = fixture.target.partition(":")[2].upper() or "SM89"
        return tensorrt.build(path, capability=capability, keep_log=True)
