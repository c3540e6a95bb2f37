"""The facts about an engine say which inputs and outputs it has."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from models import build as models
from qcompiler.engine import sidecar
from qcompiler.engine.build import build
from qcompiler.engine.ports import Port, ports
from qcompiler.engine.target_string import parse
from qcompiler.load import load
from tests.hand_made import graph


def test_types_and_axes() -> None:
    found = graph("g (float16[n, 2, ?] x, string[3] t) => (y) { y = Identity (x) }")
    assert ports(found.inputs) == (
        Port("x", "float16", ("n", 2, None)),
        Port("t", "string", (3,)),
    )
    (y,) = ports(found.outputs)  # onnx's inference makes a name up for the last axis
    assert (y.name, y.dtype, y.shape and y.shape[:2]) == ("y", "float16", ("n", 2))


@pytest.mark.parametrize("name", ["dynamic_batch", "mlp"])
def test_a_build_writes_them(tmp_path: Path, name: str) -> None:
    model, plan = tmp_path / "m.onnx", tmp_path / "m.plan"
    onnx.save(models.load(name), model)
    build(model, plan, parse("tensorrt-rtx:sm89"))
    facts = sidecar.read(sidecar.beside(plan))
    loaded = load(model)
    assert facts.inputs == ports(loaded.inputs)
    assert [p.name for p in facts.outputs] == [t.name for t in loaded.outputs]
    assert all(p.shape and p.dtype == "float32" for p in (*facts.inputs, *facts.outputs))
