"""How far two models are apart."""

from __future__ import annotations

import math
from typing import Any

import pytest

from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.compare import compare, outputs_of
from tests.hand_made import f32, model

FEEDS = [{"x": f32([3, 4])}, {"x": f32([0, 5])}]


def _session(body: str, **constants: Any) -> OrtSession:
    return OrtSession(model(f"g (float[2] x) => (float[2] y) {{ {body} }}", **constants))


def _measure(
    test: str, reference: str = "y = Identity (x)", **constants: Any
) -> tuple[float, float]:
    expected = outputs_of(_session(reference, **constants), FEEDS)
    return compare(expected, _session(test, **constants), FEEDS)["y"][:2]


def test_sums_run_over_all_samples_together() -> None:
    # y' = 1.1 y: noise (0.1)^2 of the signal's power, 20 dB, and the same direction.
    sqnr, cosine = _measure("y = Mul (x, k)", k=f32([1.1]))
    assert sqnr == pytest.approx(20, abs=1e-4)
    assert cosine == pytest.approx(1, abs=1e-12)


def test_one_bad_sample_counts_with_its_energy() -> None:
    # Off by (1, 0) in both samples: signal 25 + 25, noise 1 + 1.
    sqnr, _ = _measure("y = Add (x, k)", k=f32([1, 0]))
    assert sqnr == pytest.approx(10 * math.log10(50 / 2), abs=1e-9)


def test_equal_outputs() -> None:
    sqnr, cosine = _measure("y = Identity (x)")
    assert sqnr == math.inf
    assert cosine == pytest.approx(1.0)


def test_opposite_outputs() -> None:
    assert _measure("y = Neg (x)")[1] == pytest.approx(-1)


def test_two_silent_outputs_are_equal_and_a_sound_beside_silence_is_not() -> None:
    zero = f32([0])
    assert _measure("y = Mul (x, k)", "y = Mul (x, k)", k=zero) == (math.inf, 1.0)
    assert _measure("y = Identity (x)", "y = Mul (x, k)", k=zero) == (-math.inf, 0.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_in_both_alike_does_not_count(value: float) -> None:
    k = f32([1, value])
    assert _measure("y = Add (x, k)", "y = Add (x, k)", k=k)[0] == math.inf


@pytest.mark.parametrize(
    ("reference", "test"),
    [(1.0, math.nan), (math.nan, 1.0), (math.inf, 1.0), (1.0, math.inf), (math.inf, -math.inf)],
)
def test_what_is_not_finite_in_one_only_is_the_worst(reference: float, test: float) -> None:
    constants = {"r": f32([1, reference]), "t": f32([1, test])}
    sqnr, _ = _measure("y = Add (x, t)", "y = Add (x, r)", **constants)
    assert sqnr == -math.inf


def test_integer_outputs_are_compared_and_strings_left_out() -> None:
    made = model(
        """g (float[2] x) => (int64[2] n, string[2] s) {
          n = Cast <to = 7> (x)
          s = Cast <to = 8> (x)
        }"""
    )
    found = compare(outputs_of(OrtSession(made), FEEDS), OrtSession(made), FEEDS)
    assert list(found) == ["n"]
    assert found["n"][0] == math.inf


def test_progress_is_told() -> None:
    seen: list[tuple[int, int]] = []
    same, other = _session("y = Identity (x)"), _session("y = Neg (x)")
    expected = outputs_of(same, FEEDS, lambda done, total: seen.append((done, total)))
    found = compare(expected, other, FEEDS, lambda done, total: seen.append((done, total)))
    assert found["y"][0] == pytest.approx(10 * math.log10(1 / 4))
    assert seen == [(1, 2), (2, 2)] * 2


def test_the_divergence_of_logits_is_that_of_their_distributions() -> None:
    """Of one half and one half from p and 1 - p, it is ``-ln(4 p (1 - p)) / 2``."""
    even, odd = _session("y = Sub (x, x)"), _session("y = Mul (x, k)", k=f32([0, 0.1]))
    found = compare(outputs_of(even, FEEDS), odd, FEEDS, logits={"y"})["y"].divergence
    p = [1 / (1 + math.exp(-0.1 * x)) for x in (4, 5)]
    nats = sum(-math.log(4 * q * (1 - q)) / 2 for q in p) / 2
    assert found == pytest.approx(nats, rel=1e-6)


def test_a_constant_beside_all_logits_changes_no_distribution() -> None:
    same, shifted = _session("y = Identity (x)"), _session("y = Add (x, k)", k=f32([8]))
    found = compare(outputs_of(same, FEEDS), shifted, FEEDS, logits={"y"})["y"]
    assert found.divergence == pytest.approx(0, abs=1e-12)
    assert found.sqnr_db < 0


def test_logits_that_are_not_finite_are_infinitely_far() -> None:
    same, broken = _session("y = Identity (x)"), _session("y = Div (x, k)", k=f32([0]))
    assert compare(outputs_of(same, FEEDS), broken, FEEDS, logits={"y"})["y"].divergence == math.inf


def test_only_logits_have_a_divergence() -> None:
    same = _session("y = Identity (x)")
    assert compare(outputs_of(same, FEEDS), same, FEEDS)["y"].divergence is None
