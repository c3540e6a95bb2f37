"""The histogram: bins, extremes, special values, storage. Its laws are in tests/properties."""

from __future__ import annotations

import io

import numpy as np
import pytest

from qcompiler.errors import InputError
from qcompiler.observers.histogram import Histogram, HistogramBuilder

LARGEST = float(np.finfo(np.float32).max)


def of(*values: float) -> Histogram:
    return Histogram.empty().update(np.array(values, np.float32))


def test_empty() -> None:
    empty = Histogram.empty()
    assert (empty.count, empty.nonfinite) == (0, 0)
    assert (empty.minimum, empty.maximum) == (np.inf, -np.inf)
    assert all(array.size == 0 for array in empty.bins())
    assert empty.update(np.zeros((0, 3), np.float32)) == empty


def test_bins_are_a_64th_of_an_octave() -> None:
    edges = (1 + np.arange(64) / 64).astype(np.float32)
    below = np.nextafter(edges[1:], np.float32(0))
    hist = Histogram.empty().update(np.concatenate([edges, below, [np.float32(2)]]))
    centers, counts, widths = hist.bins()
    assert counts.tolist() == [2] * 63 + [1] + [1]
    assert (widths[:64] == 1 / 64).all()
    assert np.array_equal(centers[:64], edges + 1 / 128)
    assert (centers[-1], widths[-1]) == (2.0, 0.0)  # cut to the maximum


def test_bins_ascend_over_both_signs_and_hold_their_values() -> None:
    rng = np.random.default_rng(3)
    x = (rng.standard_normal(5000) * np.exp2(rng.uniform(-140, 120, 5000))).astype(np.float32)
    hist = Histogram.empty().update(x)
    centers, counts, widths = hist.bins()
    assert (np.diff(centers) > 0).all()
    assert (widths <= np.abs(centers) / 63.9).all() or (widths[np.abs(centers) < 1e-37] > 0).any()
    low, high = centers - widths / 2, centers + widths / 2
    tiny = 2.0**-132  # what bin 0 swallows
    for start, stop, count in zip(low, high, counts, strict=True):
        if start == stop == 0:
            assert count == (np.abs(x) < tiny).sum()
        else:
            inside = (x >= start) & (x <= stop) & (np.abs(x) >= tiny)
            # an edge belongs to one of the two bins it separates
            assert inside.sum() - ((x == start) | (x == stop)).sum() <= count <= inside.sum()
    assert counts.sum() == 5000


def test_extreme_finite_values() -> None:
    hist = of(LARGEST, -LARGEST)
    centers, counts, widths = hist.bins()
    assert (hist.minimum, hist.maximum, hist.nonfinite) == (-LARGEST, LARGEST, 0)
    assert counts.tolist() == [1, 1]
    assert centers[1] + widths[1] / 2 == LARGEST


def test_both_zeros_and_the_tiniest_share_bin_zero() -> None:
    hist = of(0.0, -0.0, 1e-45, -1e-45)
    centers, counts, widths = hist.bins()
    assert (centers.tolist(), counts.tolist(), widths.tolist()) == ([0.0], [4], [0.0])


def test_sign_of_zero_leaves_no_trace() -> None:
    assert of(0.0, -0.0) == of(-0.0, 0.0) == of(-0.0, -0.0)
    assert np.signbit(of(-0.0).minimum) == 0


def test_constant_data_have_one_bin_of_no_width() -> None:
    value = float(np.float32(3.3))
    centers, counts, widths = of(3.3, 3.3).bins()
    assert (centers.tolist(), counts.tolist(), widths.tolist()) == ([value], [2], [0.0])


def test_nonfinite_are_counted_not_binned() -> None:
    hist = of(1.0, np.nan, np.inf, -np.inf, -2.0, -np.nan)
    assert (hist.count, hist.nonfinite) == (2, 4)
    assert (hist.minimum, hist.maximum) == (-2.0, 1.0)
    only = of(np.nan)
    assert (only.count, only.nonfinite, only.minimum) == (0, 1, np.inf)


def test_given_extremes_widen() -> None:
    hist = Histogram.empty().update(np.array([0.5, 1.0]), minimum=-7.0, maximum=9.0)
    assert (hist.minimum, hist.maximum, hist.count) == (-7.0, 9.0, 2)


def test_given_extremes_do_not_narrow() -> None:
    hist = Histogram.empty().update(np.array([-3.0, 3.0]), minimum=-1.0, maximum=1.0)
    assert (hist.minimum, hist.maximum) == (-3.0, 3.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_nonfinite_extreme_outside_the_sample_is_noticed(bad: float) -> None:
    hist = Histogram.empty().update(np.array([1.0]), minimum=0.0, maximum=bad)
    assert (hist.nonfinite, hist.minimum, hist.maximum) == (1, 0.0, 1.0)
    seen = Histogram.empty().update(np.array([1.0, np.nan]), maximum=bad)
    assert seen.nonfinite == 1


def test_wider_types_are_rounded_to_float32() -> None:
    assert Histogram.empty().update([0.1]) == of(0.1)
    assert Histogram.empty().update(np.array([1e300])).nonfinite == 1
    assert Histogram.empty().update(np.array([0.5], np.float16)) == of(0.5)


def test_non_contiguous_input() -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert Histogram.empty().update(x.T[::2]) == Histogram.empty().update(x.T[::2].copy())


def test_update_leaves_the_histogram_as_it_was() -> None:
    first = of(1.0)
    first.update(np.array([2.0]))
    first.merge(of(3.0))
    assert first == of(1.0)
    with pytest.raises(ValueError, match="read-only"):
        first.counts[0] = 7


def test_builder_goes_on_after_a_snapshot() -> None:
    builder = HistogramBuilder()
    builder.update(np.array([1.0, np.nan, -0.0]))
    snapshot = builder.histogram()
    builder.update(np.array([2.0, np.inf]))
    assert snapshot == of(1.0, np.nan, -0.0)
    assert builder.histogram() == of(1.0, np.nan, -0.0, 2.0, np.inf)


def test_npz_round_trip_without_pickle() -> None:
    hist = of(1.0, -2.5, 0.0, np.nan).update(np.array([3.0]), minimum=-9.0)
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **hist.arrays())
    file.seek(0)
    with np.load(file, allow_pickle=False) as loaded:
        assert Histogram.from_arrays(loaded) == hist
        assert loaded["bins"].dtype == np.uint32
        assert loaded["counts"].dtype == np.int64
    assert Histogram.from_arrays(Histogram.empty().arrays()) == Histogram.empty()


def test_damaged_arrays_are_refused() -> None:
    arrays = of(1.0, 2.0).arrays()
    with pytest.raises(InputError, match="lacks counts"):
        Histogram.from_arrays({k: v for k, v in arrays.items() if k != "counts"})
    damaged = {
        "count": np.array(3),
        "bins": arrays["bins"][::-1],
        "counts": np.array([3, -1]),
    }
    for key, value in damaged.items():
        with pytest.raises(InputError, match="contradict"):
            Histogram.from_arrays({**arrays, key: value})
    with pytest.raises(InputError, match="contradict"):
        Histogram.from_arrays({**arrays, "bins": np.array([1, 1 << 15], np.uint32)})
