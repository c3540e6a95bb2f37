"""The table of cards: consistent, sourced, and found by any spelling."""

from __future__ import annotations

import pytest

from qcompiler.backends.tensorrt import CAPABILITIES
from qcompiler.engine import gpus
from qcompiler.engine.gpus import GPUS, Gpu
from qcompiler.engine.target_string import parse
from qcompiler.errors import UsageError


@pytest.mark.parametrize("gpu", GPUS, ids=lambda g: g.name)
def test_every_row_is_plausible_and_names_its_source(gpu: Gpu) -> None:
    assert "NVIDIA" in gpu.source
    assert parse(f"tensorrt:{gpu.capability.lower()}").capabilities == (gpu.capability,)
    # Tensor cores multiply INT8 at twice the rate of FP16, on every generation.
    assert gpu.int8 == pytest.approx(2 * gpu.fp16, rel=0.005)
    assert gpu.fp32 < gpu.fp16
    # 8-bit floats came with Ada, 4-bit floats with Blackwell.
    number = int(gpu.capability[2:])
    assert (gpu.fp8 is not None) == (number >= 89)
    assert (gpu.fp4 is not None) == (number >= 100)
    # FP8 has the rate of FP16 (FP32 accumulation on GeForce) or of INT8.
    assert gpu.fp8 is None or gpu.fp8 in (gpu.fp16, gpu.int8)
    # More than 10 and fewer than 500 FP16 operations a byte of bandwidth.
    assert 10 < gpu.fp16 * 1e3 / gpu.bandwidth < 500


def test_names_are_unique() -> None:
    assert len({g.name.lower() for g in GPUS}) == len(GPUS)


@pytest.mark.parametrize(
    "name", ["RTX 4090", "rtx4090", "NVIDIA GeForce RTX 4090", " GeForce  rtx 4090 "]
)
def test_spelling_does_not_matter(name: str) -> None:
    assert gpus.find(name).name == "RTX 4090"


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match="no figures for a GPU called 'RTX 6090'") as caught:
        gpus.find("RTX 6090")
    for gpu in GPUS:
        assert gpu.name in (caught.value.hint or "")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (("SM89",), "RTX 4090"),
        (("SM86",), "RTX 3090"),
        (("SM120",), "RTX 5090"),
        (("SM120", "SM89"), "RTX 4090"),
        (("SM121",), None),
        ((), None),
    ],
)
def test_without_a_name_the_first_card_of_the_weakest_capability(
    capabilities: tuple[str, ...], expected: str | None
) -> None:
    found = gpus.choose(None, capabilities)
    assert (found.name if found else None) == expected


def test_every_capability_of_tensorrt_for_rtx_but_the_spark_has_a_card() -> None:
    assert {c for c in CAPABILITIES if gpus.choose(None, (c,)) is None} == {"SM121"}


def test_a_named_card_must_be_of_the_target() -> None:
    assert gpus.choose("L4", ("SM89", "SM120")) is gpus.find("L4")
    assert gpus.choose("L4", ()) is gpus.find("L4")
    with pytest.raises(UsageError, match="the L4 is SM89; the engine is for SM86") as caught:
        gpus.choose("L4", ("SM86",))
    assert "RTX 3090, RTX 3060, A10" in (caught.value.hint or "")
    with pytest.raises(UsageError) as caught:
        gpus.choose("L4", ("SM121",))
    assert "add sm89 to the target" in (caught.value.hint or "")


def test_rates_by_precision() -> None:
    gpu = gpus.find("RTX 5090")
    rates = {p: gpu.rate(p) / 1e12 for p in ("fp32", "fp16", "bf16", "int8", "int4", "fp8", "fp4")}
    assert rates == {
        "fp32": 104.8, "fp16": 419, "bf16": 419, "int8": 838, "int4": 838, "fp8": 419, "fp4": 1676,
    }  # fmt: skip
    assert gpu.rate("unknown") == gpu.rate("fp32")
    older = gpus.find("RTX 3090")
    assert older.rate("fp8") == older.rate("fp4") == older.rate("fp16")
