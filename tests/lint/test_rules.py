"""Every rule: its fixtures, what the real library says of them, and its documentation."""

from __future__ import annotations

import re

import pytest

from models import build
from qcompiler import driver, lint, recipe, targets
from qcompiler.cli.lint import parse_target
from qcompiler.lint.base import REFUSED as NO_ENGINE
from qcompiler.lint.base import RTX, TENSORRT, UNSEEN
from qcompiler.load import load
from tests.compiled import compiled
from tests.lint.fixtures import HERE, read, verdict

REFUSED = [r.code for r in lint.rules() if r.severity in NO_ENGINE]
ACCEPTED = [code for code in lint.codes() if code not in REFUSED]
# Rules whose fault costs the INT8 product itself, not a copy or a rounding around it.
COSTS_THE_KERNEL = ["TRT010", "TRT022", "TRT023", "TRT025", "TRT026", "TRT028"]
BASE = "TRT038"  # the rest of the model is in FP32
FLOAT_ATTENTION = "TRT047"
# What the recipe entails: ``int8`` leaves the rest of the model in FP32, attention included.
ENTAILED = {r: {BASE, FLOAT_ATTENTION} for r in ("int8", "fp8", "fp8-rowwise", "fp8-block")}
# A convolution or matrix product, and the type of its first input.
_PRODUCT = re.compile(r"LayerType: (?:correlation|gemm|runtime_fusion), Inputs: .*?Datatype: (\w+)")
every_rule = pytest.mark.parametrize("code", lint.codes())


def findings(code: str, kind: str, target: str = "") -> set[str]:
    """Codes that lint gives, less what the fixture says is found besides.

    Fixtures are in FP32 where the type does not matter, so ``BASE`` counts in its own only.
    """
    fixture = read(HERE / code / f"{kind}.txt")
    wanted = parse_target(target or fixture.target, fixture.command)
    found = lint.lint(load(fixture.model, strict=False), wanted)
    return {d.code for d in found} - fixture.also - ({BASE} - {code})


def test_every_rule_has_its_two_fixtures_and_no_other_is_left() -> None:
    wanted = {f"{code}/{kind}.txt" for code in lint.codes() for kind in ("bad", "good")}
    assert {str(p.relative_to(HERE)) for p in HERE.rglob("*.txt")} == wanted


@every_rule
def test_code_and_file_are_one(code: str) -> None:
    rule = lint.find(code)
    assert rule.code == code
    assert rule.source
    assert rule.help
    assert rule.libraries


@every_rule
def test_the_docstring_has_its_five_headings(code: str) -> None:
    text = lint.module(code).__doc__ or ""
    headings = re.findall(r"^(\w+)(?:::)?$", text, re.MULTILINE)
    assert headings == ["What", "Why", "Example", "Instead", "Source"]
    assert re.search(r"Rule [A-K]\d\d", text), "names no rule id"


@every_rule
def test_the_bad_model_breaks_that_rule_and_no_other(code: str) -> None:
    assert findings(code, "bad") == {code}


@every_rule
def test_the_good_model_is_clean(code: str) -> None:
    assert findings(code, "good") == set()


@every_rule
def test_other_targets_are_left_alone(code: str) -> None:
    """A rule of TensorRT says nothing about ONNX Runtime."""
    assert not {c for c in findings(code, "bad", "onnxruntime") if c.startswith("TRT")}


@pytest.mark.parametrize("code", REFUSED)
def test_the_library_refuses_the_bad_model_where_the_rule_says(code: str) -> None:
    stage = {"parser rejects": "parse", "builder rejects": "build"}[lint.find(code).severity]
    judged = verdict(code, "bad")
    assert (judged.accepted, judged.stage) == (False, stage), judged.errors


@pytest.mark.parametrize("code", ACCEPTED)
def test_the_library_builds_a_bad_model_that_is_only_worse(code: str) -> None:
    judged = verdict(code, "bad")
    assert judged.accepted, judged.errors


@every_rule
def test_the_library_builds_the_good_model(code: str) -> None:
    judged = verdict(code, "good")
    assert judged.accepted, judged.errors


@pytest.mark.parametrize("code", COSTS_THE_KERNEL)
def test_the_fault_costs_the_int8_kernel(code: str) -> None:
    bad, good = (_PRODUCT.findall(verdict(code, kind).log) for kind in ("bad", "good"))
    assert "Int8" not in bad
    assert "Int8" in good


@every_rule
def test_what_only_full_tensorrt_has_is_marked(code: str) -> None:
    rule = lint.find(code)
    assert TENSORRT in rule.libraries or rule.libraries == (RTX,)
    assert RTX in rule.libraries or rule.verified == UNSEEN


@pytest.mark.parametrize("target", targets.names())
@pytest.mark.parametrize("name", build.names())
def test_what_this_compiler_writes_is_clean(name: str, target: str) -> None:
    graph = load(compiled(name, target, "int8").model())
    assert {d.code for d in lint.lint(graph, parse_target(target))} <= ENTAILED["int8"]


# The convolutions of ``int8_already`` come with a scale per channel; they are kept as they are.
@pytest.mark.parametrize("target", targets.names())
@pytest.mark.parametrize("name", sorted({*build.names()} - {"int8_already"}))
@pytest.mark.parametrize("wanted", sorted({*recipe.names()} - {*ENTAILED}))
def test_with_a_16_bit_base_it_is_clean_of_everything(wanted: str, name: str, target: str) -> None:
    made = driver.compile(build.load(name), target=target, recipe=wanted)
    found = lint.lint(load(made.model()), parse_target(target))
    # Where FP8 has no convolution of 16 channels, one of 32 between two of them stands alone.
    assert [d for d in found if wanted != "fp8+fp16" or d.code != "TRT048"] == []
