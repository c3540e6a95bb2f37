"""Histograms are an exact commutative monoid; ranges follow from them alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from qcompiler.numerics.ranges import (
    METHODS,
    auto,
    expected_error,
    minmax,
    mse,
    percentile,
    to_qparams,
)
from qcompiler.observers.histogram import Histogram, HistogramBuilder
from qcompiler.spec import Spec

ANY = hnp.arrays(np.float32, st.integers(0, 60), elements=st.floats(width=32))
FINITE = hnp.arrays(
    np.float32,
    st.integers(1, 60),
    elements=st.floats(-(2.0**100), 2.0**100, width=32),
)
SPECS = st.sampled_from([Spec(), Spec(symmetric=False), Spec("uint8", symmetric=False)])


def of(x: NDArray[np.float32]) -> Histogram:
    return Histogram.empty().update(x)


def assert_identical(first: Histogram, second: Histogram) -> None:
    one, two = first.arrays(), second.arrays()
    assert list(one) == list(two)
    for key in one:
        assert one[key].dtype == two[key].dtype
        assert one[key].tobytes() == two[key].tobytes(), key
    assert first == second


@settings(deadline=None)
@given(ANY, ANY, ANY)
def test_monoid_laws(
    x: NDArray[np.float32], y: NDArray[np.float32], z: NDArray[np.float32]
) -> None:
    a, b, c = of(x), of(y), of(z)
    assert_identical(a.merge(Histogram.empty()), a)
    assert_identical(Histogram.empty().merge(a), a)
    assert_identical(a.merge(b), b.merge(a))
    assert_identical(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert_identical(a.update(y), a.merge(b))


@settings(deadline=None)
@given(ANY, st.data())
def test_any_order_batching_and_split(x: NDArray[np.float32], data: st.DataObject) -> None:
    whole = of(x)
    order = np.array(data.draw(st.permutations(range(x.size))), dtype=np.intp)
    cuts = sorted(data.draw(st.lists(st.integers(0, x.size), max_size=5)))
    batches = np.split(x[order], cuts)
    owners = [data.draw(st.integers(0, 2)) for _ in batches]
    workers = [HistogramBuilder() for _ in range(3)]
    for owner, batch in zip(owners, batches, strict=True):
        workers[owner].update(batch)
    merged = Histogram.empty()
    for worker in data.draw(st.permutations(workers)):
        merged = merged.merge(worker.histogram())
    assert_identical(merged, whole)


@settings(deadline=None)
@given(ANY)
def test_every_value_is_counted_once(x: NDArray[np.float32]) -> None:
    hist = of(x)
    finite = x[np.isfinite(x)]
    assert hist.count == finite.size
    assert hist.nonfinite == x.size - finite.size
    if finite.size:
        assert hist.minimum == finite.min()
        assert hist.maximum == finite.max()


@settings(deadline=None)
@given(ANY)
def test_bins_are_disjoint_ascending_and_between_the_extremes(x: NDArray[np.float32]) -> None:
    hist = of(x)
    centers, counts, widths = hist.bins()
    low, high = centers - widths / 2, centers + widths / 2
    assert (counts > 0).all()
    assert (widths >= 0).all()
    assert (high[:-1] <= low[1:]).all()
    assert counts.sum() == hist.count
    outside = (low < hist.minimum) | (high > hist.maximum)
    assert (np.abs(centers[outside]) == 0).all()  # bin 0 stands at 0, whatever it swallowed


@settings(deadline=None)
@given(ANY)
def test_arrays_round_trip(x: NDArray[np.float32]) -> None:
    assert_identical(Histogram.from_arrays(of(x).arrays()), of(x))


@settings(deadline=None)
@given(FINITE, SPECS, st.floats(1e-3, 100), st.floats(1e-3, 100))
def test_percentile_is_monotone(x: NDArray[np.float32], spec: Spec, p: float, q: float) -> None:
    """But for the sparse case, where a percentile of 0 falls back on the extremes."""
    hist, (small, large) = of(x), sorted((p, q))
    narrow, wide = percentile(hist, spec, small), percentile(hist, spec, large)
    extremes = minmax(hist, spec)
    assert narrow == extremes or (wide.lo <= narrow.lo and narrow.hi <= wide.hi)


@settings(deadline=None, max_examples=40)
@given(FINITE, SPECS)
def test_no_method_leaves_the_extremes_and_auto_is_best(x: NDArray[np.float32], spec: Spec) -> None:
    hist = of(x)
    widest = minmax(hist, spec)

    def score(method: str) -> float:
        return expected_error(hist, to_qparams(METHODS[method](hist, spec), spec), spec)

    for method in METHODS.values():
        found = method(hist, spec)
        assert widest.lo <= found.lo <= 0 <= found.hi <= widest.hi
    assert score("mse") <= score("minmax")
    assert all(score("auto") <= score(name) for name in METHODS)


@settings(deadline=None, max_examples=40)
@given(FINITE, FINITE, SPECS)
def test_ranges_do_not_depend_on_order(
    x: NDArray[np.float32], y: NDArray[np.float32], spec: Spec
) -> None:
    assert auto(of(x).merge(of(y)), spec) == auto(of(y).merge(of(x)), spec)
    assert mse(of(x).merge(of(x)), spec) == mse(of(np.concatenate([x, x])), spec)
