"""``inspect`` shows the facts beside a plan."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import msgspec
import onnx
import onnx.parser
import pytest
from rich.console import Console

from qcompiler.cli.inspect import summarize
from qcompiler.engine.report import LinearNode
from qcompiler.engine.sidecar import Sidecar
from tests.cli.conftest import Run
from tests.engine import engines, library_double, test_inspector

PLAN = b"the plan"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan with its facts."""
    path = tmp_path / "depthwise.plan"
    path.write_bytes(PLAN)
    engines.facts("depthwise", PLAN).save(tmp_path / "depthwise.plan.json")
    return path


def _text(facts: Sidecar, **changes: Any) -> str:
    stream = io.StringIO()
    report = msgspec.structs.replace(facts.report, **changes)
    changed = msgspec.structs.replace(facts, report=report)
    summarize(changed, Console(file=stream, width=120, highlight=False))
    return stream.getvalue()


def _node(number: int, reason: str) -> LinearNode:
    return LinearNode(
        node=f"/conv{number}", op="Conv", precision="fp16", stored="", attention=False,
        quantized="both", macs=1, kernel="k", reason=reason,
    )  # fmt: skip


def test_half_a_page(run: Run, plan: Path) -> None:
    ran = run("inspect", plan)
    report = engines.report("depthwise")
    assert ran.code == 0
    assert ran.out.startswith("depthwise.onnx  tensorrt-rtx 1.7.1.116 for SM89, plan of 0.000 MB\n")
    assert f"kernels       {report.kernels}: 4 correlation, 4 kgen" in ran.out
    assert f"3 int8, 1 fp32; {report.low_macs:.1%} of MACs in low precision" in ran.out
    assert "3 a kernel of its own" in ran.out
    assert "1 kernels copy, reorder or convert" in ran.out
    assert f"{report.bytes_read / 1e6:.3f} MB read" in ran.out
    assert f"weights {report.memory.weights / 1e6:.3f} MB" in ran.out
    assert "fell back" not in ran.out
    assert len(ran.out.splitlines()) < 25


def test_the_facts_alone_will_do(run: Run, plan: Path) -> None:
    assert run("inspect", f"{plan}.json").out == run("inspect", plan).out


def test_json_is_the_whole_file(run: Run, plan: Path) -> None:
    ran = run("inspect", plan, "--format", "json")
    assert ran.code == 0
    found = msgspec.convert(ran.document(), Sidecar)
    assert found == engines.facts("depthwise", PLAN)


def test_layers_are_one_line_each(run: Run, plan: Path) -> None:
    lines = run("inspect", plan, "--layers").out.splitlines()
    layers = engines.listing("depthwise").layers
    assert len(lines) == len(layers)
    for line, layer in zip(lines, layers, strict=True):
        assert line.startswith(layer.kind)
        assert layer.name in line
        assert all(node in line for node in layer.onnx_nodes)
    assert "Int8[1,16,16,16] | Int8[64,16,1,1]" in "\n".join(lines)


def test_nodes_that_fell_back_are_listed_by_reason() -> None:
    groups = [_node(i, "a convolution of 8 groups") for i in range(3)]
    nodes = (*groups, _node(3, "unknown"))
    text = _text(engines.facts("depthwise"), linear=nodes)
    assert "fell back     /conv0 and 2 more to fp16: a convolution of 8 groups" in text
    assert "/conv3 to fp16: unknown" in text


def test_a_long_list_of_reasons_is_cut_and_says_so() -> None:
    nodes = tuple(_node(i, f"reason [{i}]") for i in range(30))
    text = _text(engines.facts("depthwise"), linear=nodes)
    assert "reason [0]" in text
    assert "… 22 more reasons, see --format json" in text
    assert len(text.splitlines()) < 25


def test_no_facts_no_answer(run: Run, tmp_path: Path) -> None:
    ran = run("inspect", tmp_path / "m.plan")
    assert (ran.code, ran.out) == (2, "")
    assert "cannot read the facts about the plan" in ran.err
    assert "m.plan.json" in ran.err


def test_facts_of_another_plan_are_refused(run: Run, plan: Path) -> None:
    plan.write_bytes(b"another")
    ran = run("inspect", plan)
    assert (ran.code, ran.out) == (2, "")
    assert "not the one that these facts describe" in ran.err


LAYERS = Path(library_double.__file__).with_name("inspector_10.json")


def test_the_inspectors_json_without_a_model(run: Run) -> None:
    ran = run("inspect", "--inspector", LAYERS)
    assert (ran.code, ran.err) == (0, "")
    text = " ".join(ran.out.split())
    assert "what the engine inspector said" in text
    assert "kernels 3: 2 convolution, 1 reformat" in text
    assert "products 1 fp16, 1 int8; --model tells of which nodes" in text
    assert "memory" not in text  # of which it says nothing
    document = run("inspect", "--inspector", LAYERS, "--format", "json").document()
    assert [layer["kind"] for layer in document["layers"]] == [
        "reformat", "convolution", "convolution",
    ]  # fmt: skip
    assert document["report"]["kernels"] == 3


def test_the_inspectors_json_with_its_model(run: Run, tmp_path: Path) -> None:
    model = tmp_path / "m.onnx"
    onnx.save(onnx.parser.parse_model(test_inspector.MODEL), model)
    ran = run("inspect", "--inspector", LAYERS, "--model", model)
    assert (ran.code, ran.err) == (0, "")
    assert "linear nodes 1 int8, 1 fp16;" in " ".join(ran.out.split())
    assert "of MACs in low precision" in ran.out


def test_the_inspectors_kernels(run: Run) -> None:
    ran = run("inspect", "--inspector", LAYERS, "--layers")
    assert len(ran.out.splitlines()) == 3
    assert "Int8[8,4,16,16] | Int8[6,4,3,3] -> Half[8,6,16,16]" in ran.out


def test_a_plan_without_facts_needs_the_library(run: Run, tmp_path: Path) -> None:
    plan = tmp_path / "theirs.engine"
    plan.write_bytes(b"ptrt")
    ran = run("inspect", "--inspector", plan, "--target", "tensorrt-10.13")
    assert ran.code == 3
    assert "pip install 'tensorrt-cu12==10.13.*'" in ran.err


@pytest.mark.parametrize(
    "words", [[], ["x.plan", "--inspector", "y.json"], ["x.plan", "--model", "m.onnx"]]
)
def test_what_is_to_be_inspected_is_one_thing(run: Run, words: list[str]) -> None:
    ran = run("inspect", *words)
    assert ran.code == 2
    assert "--inspector" in ran.err
