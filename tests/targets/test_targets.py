"""Rows of the targets, and how they are looked up."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from qcompiler import formats, targets
from qcompiler import recipe as recipes
from qcompiler.errors import UsageError
from qcompiler.targets.base import Capability, Layer, Target

KINDS = {
    *((op, kind) for op in ("Conv", "ConvTranspose") for kind in ("dense", "grouped", "depthwise")),
    *((op, kind) for op in ("Gemm", "MatMul") for kind in ("dense", "merged")),
    ("Add", "residual"),
}
ATTENTION = ("Attention", "dense")
CONV = Layer("Conv", "dense", 32, 32, (3, 3))


def _row(**changes: Any) -> Capability:
    """A row about a convolution that runs, changed."""
    said: dict[str, Any] = {
        "op": "Conv", "kind": "dense", "granularity": "axis", "verdict": "runs", "note": "fast",
        "source": "rule X1", "confidence": "tried",
    }  # fmt: skip
    return Capability(**(said | changes))


def _target(*rows: Capability, **changes: Any) -> Target:
    said: dict[str, Any] = {
        "name": "bare", "family": "bare", "activation_format": "int8", "symmetric": True,
        "opset": 21, "max_opset": 24, "rows": rows,
    }  # fmt: skip
    return Target(**(said | changes))


def test_targets_are_found_by_file() -> None:
    assert targets.names() == ("onnxruntime", "tensorrt", "tensorrt-rtx")


@pytest.mark.parametrize("name", targets.names())
def test_a_target_is_complete_and_says_where_its_rows_come_from(name: str) -> None:
    target = targets.find(name)
    assert (target.name, target.family) == (name, name)
    known = {(r.op, r.kind) for r in target.rows if r.format == "int8"}
    assert known - {ATTENTION} == KINDS
    assert (ATTENTION in known) is target.cards
    for row in target.rows:
        assert row.source, row
        assert row.note, row
        assert row.granularity in ("axis", "tensor", "tile", "ratio"), row
        assert (row.scales == "block") is (row.granularity == "tile"), row
        assert (row.confidence == "tried") is bool(row.verified), row
    assert target.recipe in recipes.names()
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


def test_a_name_may_say_the_release_and_the_compute_capabilities() -> None:
    target = targets.find("tensorrt-rtx-1.7:sm86,SM120")
    assert (target.family, target.version) == ("tensorrt-rtx", "1.7")
    assert target.capabilities == (86, 120)
    assert target.name == "tensorrt-rtx-1.7:sm86,SM120"
    assert targets.find("tensorrt-rtx").capabilities == (89,)


@pytest.mark.parametrize(
    "name", ["tensorrt:", "tensorrt:89", "tensorrt:sm8x", "onnxruntime:sm89", "tensorrt-rtx-", ""]
)
def test_what_follows_the_family_must_make_sense(name: str) -> None:
    with pytest.raises(UsageError):
        targets.find(name)


def test_a_layer_without_a_row_is_unknown_not_allowed() -> None:
    verdict = _target().allows(CONV)
    assert (verdict.ok, verdict.row) == (False, None)
    assert verdict.why == "unknown on bare: no row for Conv dense int8"


@pytest.mark.parametrize("verdict", ["loses", "float", "refused"])
def test_a_row_that_forbids_gives_its_note_and_source(verdict: str) -> None:
    target = _target(_row(verdict=verdict, note="too slow"))
    assert target.allows(CONV).why == "too slow [rule X1]"


def test_a_row_holds_for_its_base_type_release_and_capability() -> None:
    assert not _target(_row(base=("float16",))).allows(CONV, "float32").ok
    assert _target(_row(base=("float16",))).allows(CONV, "float16").ok
    row = _row(versions=("1.7", "2"))
    for version, ok in (("", True), ("1.7", True), ("1.10.2", True), ("1.6", False), ("2", False)):
        assert _target(row, version=version).allows(CONV).ok is ok, version
    row = _row(capabilities=(80, 89))
    for capability, ok in ((75, False), (80, True), (89, True), (90, False)):
        assert _target(row, capabilities=(capability,)).allows(CONV).ok is ok, capability


def test_a_layer_must_run_on_every_capability_and_the_first_row_decides() -> None:
    rows = (_row(verdict="float", note="old card", capabilities=(75, 75)), _row())
    assert _target(*rows, capabilities=(86, 89)).allows(CONV).ok
    both = _target(*rows, capabilities=(89, 75)).allows(CONV)
    assert (both.ok, both.why) == (False, "old card [rule X1]")


def test_turing_convolutions_stay_in_float() -> None:
    assert targets.find("tensorrt-rtx:sm89").allows(CONV).ok
    assert "SM 7.5" in targets.find("tensorrt-rtx:sm89,sm75").allows(CONV).why


@pytest.mark.parametrize(
    ("head", "keys", "queries", "ok"),
    [
        (16, 15, 15, False),
        (64, 65, 65, True),
        (32, 512, 512, True),
        (32, 513, 513, False),
        (48, 128, 128, False),
        (16, 64, 1, False),
        (16, 64, None, True),
    ],
)
@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_f02_attention(name: str, head: int, keys: int, queries: int | None, ok: bool) -> None:
    layer = Layer("Attention", "dense", head, keys, (), queries)
    verdict = targets.find(name).allows(layer, "float16")
    assert verdict.ok is ok
    assert bool(verdict.why) is not ok
    assert targets.find(name).allows(layer, "float32").row is None


def test_f02_a_free_number_of_keys_is_tried_where_a_compiler_can_be_asked() -> None:
    layer = Layer("Attention", "dense", 32, 0)
    assert targets.find("tensorrt-rtx").allows(layer, "float16").ok
    assert "their number is free" in targets.find("tensorrt").allows(layer, "float16").why


@pytest.mark.parametrize(
    ("head", "keys", "ok"),
    [(16, 32, True), (48, 4096, True), (256, 64, True), (20, 64, False), (64, 31, False)],
)
def test_f03_fp8_attention(head: int, keys: int, ok: bool) -> None:
    layer = Layer("Attention", "dense", head, keys)
    verdict = targets.find("tensorrt-rtx").allows(layer, "float16", "fp8_e4m3")
    assert verdict.ok is ok
    assert bool(verdict.why) is not ok


def test_d10_fp8_convolutions_only_where_they_can_be_weighed() -> None:
    assert "pays" in targets.find("tensorrt").allows(CONV, "float16", "fp8_e4m3").why
    assert targets.find("tensorrt-rtx").allows(CONV, "float16", "fp8_e4m3").ok
    assert targets.find("tensorrt-rtx").weighs


@pytest.mark.parametrize("family", ["tensorrt", "tensorrt-rtx"])
def test_i02_fp8_needs_ada(family: str) -> None:
    """Also where a card is named that lacks it beside one that has it."""
    layer = Layer("MatMul", "dense", 32, 32)
    for name in (f"{family}:sm89", f"{family}:sm120", family):
        assert targets.find(name).allows(layer, "float16", "fp8_e4m3").ok, name
    old = [f"{family}:sm86", f"{family}:sm75"]
    for name in [*old, "tensorrt-rtx:sm86,sm89"]:
        why = targets.find(name).allows(layer, "float16", "fp8_e4m3").why
        assert why == "FP8 needs SM 8.9 [rule I02]", name
    assert targets.find("onnxruntime").allows(CONV, "float32", "fp8_e4m3").row is None


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
