"""Why a Q/DQ model is slower than FP16: every reason has rules, and the real builder shows them.

The reasons are those of the rule book's last part. Where TensorRT for RTX shares one, the bad model
of its rule costs kernels, bytes, a fused attention or the low-precision product itself, and the
good one, which computes the same, does not.
"""

from __future__ import annotations

from functools import cache

import pytest

from qcompiler import lint
from qcompiler.engine.listing import parse
from qcompiler.engine.precision import is_attention
from qcompiler.engine.report import EngineReport, engine_report
from qcompiler.lint.base import ERRORS, TENSORRT, UNSEEN
from tests.lint.fixtures import HERE, read, verdict
from tests.lint.test_rules import COSTS_THE_KERNEL, findings

# Reason -> what it is, and the rules that detect it.
REASONS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: ("the rest of the graph stayed FP32", ("TRT038", "TRT047")),
    2: ("one-sided Q/DQ on a linear operator", ("TRT022",)),
    3: ("an operator between DequantizeLinear and its reader", ("TRT026", "TRT039", "TRT040")),
    4: ("residual Add: skip float, or both branches quantized", ("TRT027", "TRT041")),
    5: ("different scales in a Concat or on one tensor", ("TRT028", "TRT034")),
    6: ("Q/DQ inside a composite", ("TRT029", "TRT042")),
    7: ("attention not fused", ("TRT043", "TRT044", "TRT045", "TRT046", "TRT047", "TRT062")),
    8: ("isolated quantized islands", ("TRT048",)),
    9: (
        "few channels, depthwise or grouped, ConvTranspose",
        ("TRT049", "TRT050", "TRT051", "TRT061"),
    ),
    10: ("small or memory-bound products", ("TRT052",)),
    11: ("FP8 per channel, activation per token", ("TRT025", "TRT053")),
    12: ("Q/DQ in front of an operator that computes in float", ("TRT054", "TRT026")),
    13: ("BatchNormalization that cannot be folded", ("TRT055", "TRT032")),
    14: ("wrong axis of the weight", ("TRT023", "TRT037")),
    15: ("refit or compatibility flags", ("TRT059",)),
    16: ("the GPU lacks the kernels", ("TRT031", "TRT057", "TRT058")),
    17: ("the measurement", ("TRT060",)),
}
# Seen in builds and in no document.
BESIDES = {"TRT056", "TRT063", "TRT064"}

FUSED_ATTENTION = ["TRT043", "TRT044", "TRT045", "TRT047"]
MORE_KERNELS = [
    "TRT043", "TRT044", "TRT045", "TRT046", "TRT048", "TRT049", "TRT050", "TRT052", "TRT054",
    "TRT055", "TRT057", "TRT061", "TRT063", "TRT064",
]  # fmt: skip
MORE_BYTES = [
    "TRT027", "TRT038", "TRT043", "TRT044", "TRT045", "TRT046", "TRT047", "TRT048", "TRT049",
    "TRT050", "TRT052", "TRT054", "TRT055", "TRT056", "TRT057", "TRT061",
    "TRT063", "TRT064",
]  # fmt: skip
WIDENED = ["TRT039", "TRT061"]
PROVEN = {*FUSED_ATTENTION, *MORE_KERNELS, *MORE_BYTES, *WIDENED, *COSTS_THE_KERNEL}
# They cost accuracy in TensorRT for RTX (TRT029, TRT042), a second copy of a tensor (TRT034), or
# are the same as a rule that is proven.
NOT_IN_KERNELS = {"TRT029", "TRT034", "TRT042"}


@cache
def report(code: str, kind: str) -> EngineReport:
    """The engine of a fixture, as TensorRT for RTX lists it."""
    judged = verdict(code, kind)
    return engine_report(parse(judged.log), read(HERE / code / f"{kind}.txt").model, batch=1)


def test_there_are_17_reasons_and_each_has_a_rule() -> None:
    assert sorted(REASONS) == list(range(1, 18))
    assert all(codes for _, codes in REASONS.values())


@pytest.mark.parametrize(
    ("number", "code"), [(n, code) for n, (_, codes) in REASONS.items() for code in codes]
)
def test_the_rules_of_a_reason_fire(number: int, code: str) -> None:
    assert code in findings(code, "bad"), REASONS[number]


def test_every_rule_about_speed_belongs_to_a_reason() -> None:
    """What is no error costs speed or accuracy; opsets (TRT030) and 4-bit sizes aside."""
    slow = {r.code for r in lint.rules() if r.severity not in ERRORS}
    mapped = {code for _, codes in REASONS.values() for code in codes}
    assert slow - mapped - BESIDES == {"TRT010", "TRT030"}


def test_every_lost_fusion_that_can_be_built_here_is_proven() -> None:
    lost = {r.code for r in lint.rules() if r.severity == "loses fusion" and r.verified != UNSEEN}
    assert lost - PROVEN == NOT_IN_KERNELS


@pytest.mark.parametrize("code", FUSED_ATTENTION)
def test_the_fault_costs_the_fused_attention(code: str) -> None:
    def fused(kind: str) -> bool:
        return any(is_attention(layer) for layer in parse(verdict(code, kind).log).layers)

    assert (fused("bad"), fused("good")) == (False, True)


@pytest.mark.parametrize("code", MORE_KERNELS)
def test_the_fault_costs_kernels(code: str) -> None:
    assert report(code, "bad").kernels > report(code, "good").kernels


@pytest.mark.parametrize("code", MORE_BYTES)
def test_the_fault_costs_bytes(code: str) -> None:
    assert report(code, "bad").bytes_moved > report(code, "good").bytes_moved


def test_convolutions_with_a_scale_per_channel_write_float32() -> None:
    """Rule TRT056, and nothing else: both run in INT8."""
    for kind, written in (("bad", "Float"), ("good", "Half")):
        layers = parse(verdict("TRT056", kind).log).layers
        made = [t.dtype for n in layers if n.kind == "correlation" for t in n.outputs]
        assert made == [written, written]
        assert report("TRT056", kind).low_macs == 1


def test_int8_depthwise_convolutions_store_their_activation_fourfold() -> None:
    layers = parse(verdict("TRT049", "bad").log).layers
    shapes = {t.dims for n in layers for t in n.outputs if t.dtype == "Int8"}
    assert (1, 256, 32, 32) in shapes


@pytest.mark.parametrize("code", WIDENED)
def test_the_fault_widens_both_operands(code: str) -> None:
    """The kernel may still read 8 bit, but it multiplies wider numbers."""
    assert (report(code, "bad").low_macs, report(code, "good").low_macs) == (0, 1)


@pytest.mark.parametrize("code", ["TRT040", "TRT041", "TRT051", "TRT059", "TRT060"])
def test_what_this_library_does_not_share_costs_it_nothing(code: str) -> None:
    """Those rules are of full TensorRT alone, and this is why; 1 % is a scale more or less."""
    assert lint.find(code).libraries == (TENSORRT,)
    bad, good = report(code, "bad"), report(code, "good")
    assert bad.low_macs >= good.low_macs
    assert bad.kernels <= good.kernels
    assert bad.bytes_moved <= 1.01 * good.bytes_moved


def test_fp8_weights_with_a_scale_per_channel_keep_their_kernel_here() -> None:
    """TRT053 is of full TensorRT alone."""
    assert lint.find("TRT053").libraries == (TENSORRT,)
    assert (report("TRT053", "bad").low_macs, report("TRT053", "good").low_macs) == (1, 1)
