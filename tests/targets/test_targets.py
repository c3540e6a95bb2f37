"""Rows of the targets, and how they are looked up."""

from __future__ import annotations

import importlib

import pytest

from qcompiler import formats, targets
from qcompiler.errors import UsageError
from qcompiler.targets.base import Capability, Layer, Target

KINDS = [
    *((op, kind) for op in ("Conv", "ConvTranspose") for kind in ("dense", "grouped", "depthwise")),
    *((op, kind) for op in ("Gemm", "MatMul") for kind in ("dense", "merged")),
]
EMPTY = Target("bare", "int8", True, 21, 24, "skip", 16, 16, 3, 8, ())


def test_targets_are_found_by_file() -> None:
    assert targets.names() == ("onnxruntime", "tensorrt", "tensorrt-rtx")


@pytest.mark.parametrize("name", targets.names())
def test_a_target_is_complete_and_says_where_its_rows_come_from(name: str) -> None:
    target = targets.find(name)
    assert target.name == name
    assert sorted((r.op, r.kind) for r in target.capabilities) == sorted(KINDS)
    for row in target.capabilities:
        assert row.source, row
        assert row.note, row
        assert row.weight_granularity in ("axis", "tensor"), row
    assert 13 <= target.opset <= target.max_opset
    assert target.activation_format in formats.names()
    assert target.symmetric is (formats.get(target.activation_format).min < 0)
    assert importlib.import_module(f"qcompiler.targets.{name.replace('-', '_')}").__doc__


def test_an_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no target 'cuda'") as caught:
        targets.find("cuda")
    assert "onnxruntime, tensorrt, tensorrt-rtx" in caught.value.hint


def test_base_is_no_target() -> None:
    with pytest.raises(UsageError):
        targets.find("base")


def test_a_layer_without_a_row_is_unknown_not_allowed() -> None:
    verdict = EMPTY.allows(Layer("Conv", "dense", 16, 16, (3, 3)))
    assert (verdict.ok, verdict.row) == (False, None)
    assert verdict.why == "unknown on bare: no row for Conv dense"


def test_a_row_that_forbids_gives_its_note_and_source() -> None:
    row = Capability("Conv", "dense", False, "axis", "too slow", "rule X1")
    target = Target("slow", "int8", True, 21, 24, "skip", 16, 16, 3, 8, (row,))
    assert target.allows(Layer("Conv", "dense", 16, 16)).why == "too slow [rule X1]"


@pytest.mark.parametrize(
    ("layer", "ok"),
    [
        (Layer("MatMul", "dense", 16, 16, (), None), True),
        (Layer("MatMul", "dense", 16, 16, (), 2), True),
        (Layer("MatMul", "dense", 16, 16, (), 1), False),
        (Layer("MatMul", "dense", 15, 16), False),
        (Layer("Gemm", "dense", 16, 15), False),
        (Layer("Gemm", "dense", 64, 1), False),
        (Layer("Conv", "dense", 3, 1, (3, 3)), True),
    ],
)
@pytest.mark.parametrize("name", targets.names())
def test_d16_products_that_do_not_pay(name: str, layer: Layer, ok: bool) -> None:
    verdict = targets.find(name).allows(layer)
    assert verdict.ok is ok
    assert bool(verdict.why) is not ok


@pytest.mark.parametrize(
    ("layer", "ok"),
    [
        (Layer("Conv", "depthwise", 1, 32, (3, 3)), True),
        (Layer("Conv", "depthwise", 1, 32, (5,)), True),
        (Layer("Conv", "depthwise", 1, 32, (1, 3)), False),
        (Layer("Conv", "depthwise", 1, 30, (3, 3)), False),
        (Layer("Conv", "grouped", 4, 32, (1, 1)), False),
    ],
)
def test_d13_grouped_convolutions_that_may_have_no_kernel(layer: Layer, ok: bool) -> None:
    verdict = targets.find("tensorrt").allows(layer)
    assert verdict.ok is ok
    assert ok or "[rules D12, D13]" in verdict.why
