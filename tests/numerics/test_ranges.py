"""The methods: what each promises, on data of every shape."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from qcompiler.errors import InputError
from qcompiler.numerics.entropy import divergences
from qcompiler.numerics.error import mse as true_mse
from qcompiler.numerics.expected_error import segments
from qcompiler.numerics.quantize import fake_quantize
from qcompiler.numerics.ranges import (
    METHODS,
    Range,
    _best,
    auto,
    entropy,
    expected_error,
    minmax,
    mse,
    percentile,
    to_qparams,
)
from qcompiler.observers.histogram import Histogram, HistogramBuilder
from qcompiler.spec import Spec

INT8 = Spec()
UINT8 = Spec("uint8", symmetric=False)
SPECS = [INT8, Spec("int8", symmetric=False), UINT8]
N = 30_001  # odd, so that no percentile falls between two values


def data() -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    normal = rng.standard_normal(N)
    sparse = np.where(rng.random(N) < 1e-5, 5.0, 0.0)
    sparse[0] = 5.0
    drawn = {
        "normal": normal,
        "laplace": rng.laplace(size=N),
        "relu": np.maximum(normal, 0),
        "negative": -np.abs(normal),
        "silu": normal / (1 + np.exp(-normal)),
        "heavy": rng.standard_t(2, size=N),
        "outlier": np.append(normal[1:], 1e6),
        "shifted": normal + 50,
        "constant": np.full(N, -2.7),
        "zero": np.zeros(N),
        "sparse": sparse,
        "tiny": normal * 1e-44,
        "huge": normal * 1e37,
        "integers": rng.integers(0, 10, N).astype(np.float64),
    }
    return {name: x.astype(np.float32) for name, x in drawn.items()}


DATA = data()
HISTOGRAMS = {name: Histogram.empty().update(x) for name, x in DATA.items()}


def score(found: Range, hist: Histogram, spec: Spec) -> float:
    return expected_error(hist, to_qparams(found, spec), spec)


@pytest.mark.parametrize("spec", SPECS, ids=["int8", "int8-asymmetric", "uint8"])
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("method", METHODS)
def test_stays_within_the_extremes_and_holds_zero(method: str, name: str, spec: Spec) -> None:
    hist = HISTOGRAMS[name]
    found = METHODS[method](hist, spec)
    widest = minmax(hist, spec)
    assert widest.lo <= found.lo <= 0 <= found.hi <= widest.hi
    if spec.symmetric:
        assert found.lo == -found.hi
    if hist.minimum >= 0 and not spec.symmetric:
        assert found.lo == 0


@pytest.mark.parametrize("spec", SPECS, ids=["int8", "int8-asymmetric", "uint8"])
@pytest.mark.parametrize("name", DATA)
def test_auto_is_no_worse_than_any_and_mse_no_worse_than_minmax(name: str, spec: Spec) -> None:
    hist = HISTOGRAMS[name]
    best = score(auto(hist, spec), hist, spec)
    for method in METHODS.values():
        assert best <= score(method(hist, spec), hist, spec)
    assert best <= score(percentile(hist, spec, 99.999), hist, spec)
    assert score(mse(hist, spec), hist, spec) <= score(minmax(hist, spec), hist, spec)


def test_minmax_is_exact() -> None:
    hist = HISTOGRAMS["normal"]
    x = DATA["normal"]
    assert minmax(hist, UINT8) == Range(float(x.min()), float(x.max()))
    largest = float(np.abs(x).max())
    assert minmax(hist, INT8) == Range(-largest, largest)


def rank(x: NDArray[np.float32], p: float) -> float:
    return float(np.percentile(x, p, method="inverted_cdf"))


@pytest.mark.parametrize("name", ["normal", "laplace", "heavy", "silu"])
@pytest.mark.parametrize("p", [50.0, 90.0, 99.0, 99.9])
def test_percentile_agrees_with_numpy_to_a_bin(name: str, p: float) -> None:
    x, hist = DATA[name], HISTOGRAMS[name]
    threshold = percentile(hist, INT8, p).hi
    assert threshold == pytest.approx(rank(np.abs(x), p), rel=1 / 64)
    found = percentile(hist, UINT8, p)
    cut = (100 - p) / 2
    lo, hi = rank(x, cut), rank(x, 100 - cut)
    assert found.lo == pytest.approx(min(lo, 0.0), rel=1 / 64)
    assert found.hi == pytest.approx(hi, rel=1 / 64)


def test_percentile_of_both_signs_together() -> None:
    """The magnitude's percentile: 1 of 4 values exceeds 2, on either side."""
    hist = Histogram.empty().update([-4.0, 1.0, -1.0, 2.0])
    assert percentile(hist, INT8, 75).hi == 2.0
    assert percentile(hist, INT8, 100).hi == 4.0


def test_percentile_100_gives_the_extremes() -> None:
    for hist in HISTOGRAMS.values():
        for spec in SPECS:
            assert percentile(hist, spec, 100) == minmax(hist, spec)


def test_percentile_of_sparse_data_is_not_empty() -> None:
    assert percentile(HISTOGRAMS["sparse"], INT8, 99.0) == Range(-5.0, 5.0)


@pytest.mark.parametrize("p", [0.0, -1.0, 100.1, float("nan")])
def test_percentile_out_of_range(p: float) -> None:
    with pytest.raises(InputError, match="percentile"):
        percentile(HISTOGRAMS["normal"], INT8, p)


def naive_divergence(counts: NDArray[np.float64], end: int, levels: int) -> float:
    """KL(P || Q) of one candidate as the slides describe it, one group at a time."""
    p = counts[:end].copy()
    p[-1] += counts[end:].sum()
    q: NDArray[np.float64] = np.zeros(end)
    for level in range(levels):
        group = slice(end * level // levels, end * (level + 1) // levels)
        filled = counts[group] > 0
        if filled.any():
            q[group] = np.where(filled, counts[group].sum() / filled.sum(), 0.0)
    if q.sum() == 0 or ((p > 0) & (q == 0)).any():
        return float("inf")
    p, q = p / p.sum(), q / q.sum()
    return float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@pytest.mark.parametrize("kind", ["laplace", "heavy", "mixture"])
def test_entropy_is_the_divergence_of_the_slides(kind: str) -> None:
    rng = np.random.default_rng(6)
    x = {
        "laplace": rng.laplace(size=20_000),
        "heavy": rng.standard_t(3, 20_000),
        "mixture": np.concatenate([rng.normal(0, 1, 20_000), rng.normal(20, 1, 20)]),
    }[kind]
    counts = np.histogram(np.abs(x), bins=2048)[0].astype(np.float64)
    ends = np.arange(128, 2049, 16)
    naive = np.array([naive_divergence(counts, int(end), 128) for end in ends])
    assert np.isfinite(naive).sum() > 1
    # sums of 2048 terms of the order of log N in float64
    assert divergences(counts, ends, 128) == pytest.approx(naive, abs=1e-11)


def test_entropy_clips_a_long_tail_and_keeps_a_short_one() -> None:
    clipped = entropy(HISTOGRAMS["heavy"], INT8)
    assert clipped.hi < 0.5 * minmax(HISTOGRAMS["heavy"], INT8).hi
    uniform = Histogram.empty().update(np.random.default_rng(0).uniform(-1, 1, N))
    assert entropy(uniform, INT8).hi > 0.95


def test_mse_finds_the_optimum_of_a_normal() -> None:
    """Against the error integrated over the density, for thresholds 3 to 5.

    The threshold from two million draws may be off; its error must be within 1 % of the least.
    """
    x = np.linspace(-8, 8, 100_001)
    density = np.exp(-(x**2) / 2)
    density /= density.sum()

    def integrated(threshold: float) -> float:
        scale = threshold / 127
        return float(density @ (x - scale * np.clip(np.rint(x / scale), -128, 127)) ** 2)

    least = min(integrated(t) for t in np.linspace(3, 5, 101))
    hist = Histogram.empty().update(np.random.default_rng(0).standard_normal(2_000_000))
    assert integrated(mse(hist, INT8).hi) <= 1.01 * least


@pytest.mark.parametrize("name", ["normal", "laplace", "heavy", "silu", "relu", "shifted"])
@pytest.mark.parametrize("spec", [INT8, UINT8], ids=["int8", "uint8"])
def test_mse_beats_a_brute_force_of_true_errors(name: str, spec: Spec) -> None:
    """Within 3 % (the histogram's precision) of the best true error over 60 shrunk ranges."""
    x, hist = DATA[name], HISTOGRAMS[name]
    widest = minmax(hist, spec)

    def true(found: Range) -> float:
        return true_mse(x, fake_quantize(x, to_qparams(found, spec), spec))

    best = min(true(Range(widest.lo * f, widest.hi * f)) for f in np.geomspace(0.01, 1, 60))
    assert true(mse(hist, spec)) <= best * 1.03


def test_a_lone_outlier_is_kept_if_it_pays_and_cut_if_not() -> None:
    rng = np.random.default_rng(0)
    small = Histogram.empty().update(np.append(rng.standard_normal(1000), 1e6))
    assert auto(small, INT8).hi == pytest.approx(1e6, rel=0.01)
    many = Histogram.empty().update(np.append(rng.standard_normal(2_000_000), 40.0))
    assert auto(many, INT8).hi < 8


def test_sampling_does_not_hide_the_outlier() -> None:
    x = np.random.default_rng(0).standard_normal(1000)
    sampled = Histogram.empty().update(x, minimum=float(x.min()), maximum=1e6)
    assert auto(sampled, INT8).hi == pytest.approx(1e6, rel=0.01)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_ends_of_an_asymmetric_range_are_searched_apart(sign: int) -> None:
    """Values in [0, 1], and one in four millions at -40: shrinking both ends alike is useless."""
    x = np.random.default_rng(0).uniform(0, 1, 40_000).astype(np.float32)
    builder = HistogramBuilder()
    for _ in range(100):
        builder.update(sign * x)
    builder.update(np.array([-40.0 * sign]))
    hist = builder.histogram()
    outer, inner = -40.0 * sign * np.geomspace(0.01, 1, 60), sign * np.geomspace(0.5, 1, 20)
    least = min(
        score(Range(*sorted((float(o), float(i)))), hist, UINT8) for o in outer for i in inner
    )
    assert score(mse(hist, UINT8), hist, UINT8) <= 1.01 * least


def test_ties_go_to_the_wider_range() -> None:
    """Zeros are exact in any range, so all candidates tie."""
    wide, narrow = Range(-128.0, 128.0), Range(-127.0, 127.0)
    zeros = segments(Histogram.empty().update([0.0]))
    for candidates in ([wide, narrow], [narrow, wide]):
        assert _best(zeros, candidates, INT8) == wide


@pytest.mark.parametrize("method", METHODS)
def test_empty_histogram_is_refused(method: str) -> None:
    with pytest.raises(InputError, match="no finite value"):
        METHODS[method](Histogram.empty(), INT8)
