"""Statistics: what is seen does not depend on order, batching or who else ran."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from qcompiler import calibrate
from qcompiler.calibrate import BINNED, HELD_OUT, Example, Sample, Split, Statistics, collect
from qcompiler.errors import InputError
from qcompiler.observers.histogram import Histogram
from tests.hand_made import f32, model, normal

TWO = model("g (float[N,4] x) => (float[N,4] y) { y = Neg (x) }")
F32 = np.dtype(np.float32)


def _feeds(count: int, shape: tuple[int, ...] = (1, 4), seed: int = 0) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    return [{"x": generator.standard_normal(shape).astype(np.float32)} for _ in range(count)]


def _key(feeds: Any) -> bytes:
    return bytes(feeds["x"].tobytes())


def _split(feeds: list[dict[str, Any]]) -> tuple[list[Any], Split]:
    split = Split(feeds)
    return [s.feeds for s in split], split


# ---------------------------------------------------------------------- held-out samples


@pytest.mark.parametrize(
    ("count", "held"), [(1, 0), (2, 1), (3, 1), (8, 1), (16, 2), (128, 16), (300, HELD_OUT)]
)
def test_one_in_eight_is_held_out_and_never_calibrated_on(count: int, held: int) -> None:
    feeds = _feeds(count)
    used, split = _split(feeds)
    assert (len(used), len(split.held_out), split.count) == (count - held, held, count)
    assert {_key(f) for f in used} | {_key(f) for f in split.held_out} == {_key(f) for f in feeds}
    assert {_key(f) for f in used}.isdisjoint(_key(f) for f in split.held_out)


def test_who_is_held_out_does_not_depend_on_the_order() -> None:
    feeds = _feeds(100)
    _, split = _split(feeds)
    _, reverse = _split(feeds[::-1])
    assert [_key(f) for f in split.held_out] == [_key(f) for f in reverse.held_out]


def test_an_empty_stream_holds_nothing_out() -> None:
    used, split = _split([])
    assert (used, split.held_out, split.count) == ([], [], 0)


# ---------------------------------------------------------------------- what is counted


def _collect(feeds: list[dict[str, Any]], text: Any = TWO, name: str = "y") -> Histogram:
    histograms, _ = collect(text, {name: F32}, Split(feeds))
    return histograms[name]


def test_extremes_are_exact_and_a_small_tensor_is_counted_whole() -> None:
    feeds = _feeds(20)
    used, _ = _split(feeds)
    values = -np.concatenate([f["x"] for f in used])
    found = _collect(feeds)
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found == Histogram.empty().update(values)


def test_an_extreme_that_no_sample_of_values_hits_is_still_seen() -> None:
    feeds = _feeds(3, (1, 1_000_003))
    for f in feeds:
        f["x"][0, 77_777] = 100.0
    made = model("g (float[N,M] x) => (float[N,M] y) { y = Neg (x) }")
    found = _collect(feeds, made)
    assert found.minimum == -100.0
    assert 0 < found.count < 50_000


@pytest.mark.parametrize("rank", [2, 4])
def test_neither_order_nor_company_changes_a_bit(rank: int) -> None:
    shape = (1, 4) if rank == 2 else (1, 8, 20, 20)
    body = "y = Relu (x)" if rank == 2 else "y = Sigmoid (x)"
    dims = "N,4" if rank == 2 else "N,8,20,20"
    made = model(f"g (float[{dims}] x) => (float[{dims}] y) {{ {body} }}")
    feeds = _feeds(53, shape)
    shuffled = [feeds[i] for i in np.random.default_rng(1).permutation(53)]
    assert _collect(feeds, made) == _collect(shuffled, made)


def test_samples_of_several_shapes_are_counted_in_any_order() -> None:
    made = model("g (float[N,M] x) => (float[N,M] y) { y = Neg (x) }")
    feeds = [*_feeds(6, (1, 5)), *_feeds(6, (1, 9), 1), *_feeds(6, (1, 5), 2)]
    assert _collect(feeds, made) == _collect(feeds[::-1], made)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dims", ["N,40", "N,3,64,64"])
@pytest.mark.parametrize("place", [0, 7, -1])
def test_one_value_that_is_not_finite_is_found(value: float, dims: str, place: int) -> None:
    made = model(f"g (float[{dims}] x) => (float[{dims}] y) {{ y = Neg (x) }}")
    feeds = _feeds(9, tuple(int(d) for d in dims.replace("N", "1").split(",")))
    for f in feeds:
        f["x"].reshape(-1)[place] = value
    assert _collect(feeds, made).nonfinite > 0


def test_half_precision_is_widened() -> None:
    made = model("g (float16[N,4] x) => (float16[N,4] y) { y = Neg (x) }")
    feeds = [{"x": f32([[1, 2, 3, 4]]).astype(np.float16)}]
    histograms, count = collect(made, {"y": np.dtype(np.float16)}, Split(feeds))
    assert (histograms["y"].minimum, histograms["y"].maximum, count) == (-4.0, -1.0, 1)


def test_an_empty_tensor_is_counted_as_nothing() -> None:
    made = model("g (float[N,M] x) => (float[N,M] y) { y = Neg (x) }")
    found = _collect([{"x": np.zeros((1, 0), np.float32)}], made)
    assert (found.count, found.nonfinite) == (0, 0)


def test_no_samples_are_the_callers_error() -> None:
    with pytest.raises(InputError, match="the data hold no samples"):
        _collect([])


def test_progress_counts_samples() -> None:
    seen: list[tuple[int, int]] = []
    collect(TWO, {"y": F32}, Split(_feeds(20)), progress=lambda a, b: seen.append((a, b)))
    assert seen[-1][0] == 18
    assert [a for a, _ in seen] == sorted(a for a, _ in seen)


# ---------------------------------------------------------------------- files


STATISTICS = Statistics(
    "d" * 64,
    "data.npz",
    True,
    12,
    {"b": Histogram.empty().update([1.0, -2.0, np.nan]), "a": Histogram.empty()},
)


def test_statistics_survive_their_file_and_give_the_same_bytes(tmp_path: Path) -> None:
    STATISTICS.save(tmp_path / "a.npz")
    found = Statistics.read(tmp_path / "a.npz")
    assert found == STATISTICS
    found.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_statistics_of_no_tensors_survive(tmp_path: Path) -> None:
    empty = dataclasses.replace(STATISTICS, histograms={})
    empty.save(tmp_path / "a.npz")
    assert Statistics.read(tmp_path / "a.npz") == empty


@pytest.mark.parametrize("content", [None, b"", b"junk", b"PK\x03\x04 truncated"])
def test_a_file_that_is_no_statistics(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "stats.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match="cannot read the statistics") as caught:
        Statistics.read(path)
    assert caught.value.where == str(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    STATISTICS.save(path)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="cannot read the statistics"):
        Statistics.read(path)


def test_other_arrays_are_no_statistics(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.zeros(3))
    with pytest.raises(InputError, match="cannot read the statistics"):
        Statistics.read(tmp_path / "a.npz")


def test_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    STATISTICS.save(tmp_path / "a.npz")
    monkeypatch.setattr(calibrate, "VERSION", 2)
    with pytest.raises(InputError, match="statistics of version 1, expected 2"):
        Statistics.read(tmp_path / "a.npz")


def test_a_fixed_batch_is_seen_whole() -> None:
    made = model(
        "g (float[4,16,2,2] x) => (float[4,16,2,2] y) { y = Conv <kernel_shape=[1,1]> (x, w) }",
        w=f32(np.eye(16).reshape(16, 16, 1, 1)),
    )
    values = f32(np.arange(256).reshape(4, 16, 2, 2))
    found, count = collect(made, {"x": F32}, [Sample.of({"x": values})])
    assert count == 1
    assert found["x"].count == 256
    assert (found["x"].minimum, found["x"].maximum) == (0, 255)


def test_a_watched_tensor_gives_its_extremes_alone() -> None:
    """No values are binned, and what another tensor's histogram is does not change."""
    source = model("g (float[1,64] x) => (float[1,64] y) { h = Relu (x) y = Exp (h) }")
    samples = [{"x": normal(str(i), (1, 64))} for i in range(20)]
    tensors = {"h": np.dtype(np.float32), "y": np.dtype(np.float32)}
    alone, _ = collect(source, {"h": np.dtype(np.float32)}, Split(samples))
    both, count = collect(source, tensors, Split(samples), watched=["y"])
    assert both["h"] == alone["h"]
    split = Split(samples)
    values = np.exp(np.maximum([s.feeds["x"] for s in split], 0))
    assert count == len(values)
    assert (both["y"].count, both["y"].nonfinite) == (0, 0)
    assert both["y"].minimum == pytest.approx(values.min(), rel=1e-6)
    assert both["y"].maximum == pytest.approx(values.max(), rel=1e-6)


def test_what_is_only_watched_is_run_for_a_share_of_the_samples() -> None:
    """Of 1,000 samples about 64 are drawn by their hashes; the others cost nothing."""
    source = model("g (float[1,4] x) => (float[1,4] y) { y = Exp (x) }")
    samples = [{"x": normal(str(i), (1, 4))} for i in range(1000)]
    split = Split(samples)
    found, count = collect(source, {"y": np.dtype(np.float32)}, split, expected=1000, watched=["y"])
    drawn = [s.feeds["x"] for s in Split(samples) if s.drawn(BINNED / 1000)]
    assert count == 1000 - len(split.held_out)
    assert 32 < len(drawn) < 128
    assert found["y"].maximum == pytest.approx(float(np.exp(np.max(drawn))), rel=1e-6)


@pytest.mark.parametrize("name", ["float8_e4m3fn", "float8_e5m2", "bfloat16", "int4", "uint4"])
def test_samples_of_narrow_types_have_a_key(name: str) -> None:
    dtype = np.dtype(getattr(ml_dtypes, name))
    keys = {Sample.of({"x": np.array(v, dtype)}).key for v in ([0, 1], [1, 0], [[0, 1]], 1)}
    assert len(keys) == 4


def test_the_example_does_not_depend_on_the_order() -> None:
    samples = [Sample.of({"x": normal(str(i), (1, 4))}) for i in range(20)]
    kept = []
    for order in (samples, samples[::-1]):
        example = Example(order)
        assert list(example) == order
        kept.append(example.feeds)
    assert kept[0] is not None
    assert kept[0] is kept[1]
    assert Example([]).feeds is None
