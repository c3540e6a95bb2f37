"""Caches, hardware compatibility and building twice: where each library has them."""

from __future__ import annotations

import hashlib
import importlib
from pathlib import Path

import onnx
import onnx.parser
import pytest

from qcompiler.backends import cuda_driver, tensorrt_child
from qcompiler.backends.cuda_driver import Device
from qcompiler.engine import baseline, sidecar
from qcompiler.engine.build import BuildOptions, build
from qcompiler.engine.target_string import parse
from qcompiler.errors import (
    BackendError,
    InputError,
    QCompilerError,
    UnsupportedError,
    UsageError,
)
from tests.engine import library_double
from tests.engine.library_double import Double
from tests.engine.test_full_tensorrt import MODEL

FULL, RTX = parse("tensorrt-11.4:sm90"), parse("tensorrt-rtx:sm89")
H100 = Device("NVIDIA H100 80GB HBM3", "SM90", "580.95.05")
TIMING = "tensorrt-11.4.0.106_nvidia-h100-80gb-hbm3_sm90_580.95.05.timing"
RUNTIME = "tensorrt-rtx-1.7.1.116_nvidia-h100-80gb-hbm3_sm90_580.95.05.runtime"


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    return path


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a GPU."""
    monkeypatch.setattr(cuda_driver, "device", lambda: H100)


def full(model: Path, monkeypatch: pytest.MonkeyPatch, mode: str = "plan") -> Double:
    folder = model.parent / "lib"
    return library_double.install(folder, monkeypatch, version="11.4.0.106", mode=mode)


def rtx(model: Path, monkeypatch: pytest.MonkeyPatch, mode: str = "plan") -> Double:
    folder = model.parent / "lib"
    return library_double.install(folder, monkeypatch, version="1.7.1.116", mode=mode)


@pytest.mark.usefixtures("gpu")
def test_a_timing_cache_is_filled_and_read_again(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double, folder = full(model, monkeypatch), model.parent / "deep" / "times"
    options = BuildOptions(timing_cache=folder)
    first, second = (build(model, model.with_name(n), FULL, options=options) for n in ("a", "b"))

    assert [path.name for path in folder.iterdir()] == [TIMING]
    assert (folder / TIMING).read_bytes() == b"+timed+timed"
    assert double.called("timing_cache") == ["", "+timed"]
    fact = {"kind": "timing", "file": TIMING}
    one, two = sha(b"+timed"), sha(b"+timed+timed")
    assert first.caches == (sidecar.CacheFact(**fact, before="", after=one),)
    assert second.caches == (sidecar.CacheFact(**fact, before=one, after=two),)
    assert sidecar.read(model.with_name("b.json")) == second


@pytest.mark.usefixtures("gpu")
def test_a_locked_cache_is_read_only_and_a_miss_is_an_error(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double, folder = full(model, monkeypatch), model.parent / "times"
    options = BuildOptions(timing_cache=folder, flags=("locked",))
    with pytest.raises(InputError, match="no timing cache") as caught:
        build(model, model.with_name("p"), FULL, options=options)
    assert caught.value.where == str(folder / TIMING)
    folder.mkdir()
    (folder / TIMING).write_bytes(b"times")

    facts = build(model, model.with_name("p"), FULL, options=options)

    assert (folder / TIMING).read_bytes() == b"times"
    assert double.called("flag") == ["BuilderFlag.ERROR_ON_TIMING_CACHE_MISS"]
    assert double.called("timing_cache") == ["times"]
    (fact,) = facts.caches
    assert fact.before == fact.after == sha(b"times")
    assert facts.options["locked"] is True


@pytest.mark.parametrize("mode", ["cache-damaged", "cache-none", "cache-mismatch"])
@pytest.mark.usefixtures("gpu")
def test_a_cache_that_the_library_refuses_is_named_and_kept(
    model: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    full(model, monkeypatch, mode)
    folder = model.parent / "times"
    folder.mkdir()
    (folder / TIMING).write_bytes(b"times")
    with pytest.raises(UnsupportedError, match="refuses the cache") as caught:
        build(model, model.with_name("p"), FULL, options=BuildOptions(timing_cache=folder))
    assert str(folder / TIMING) in caught.value.message
    assert "delete the cache" in caught.value.hint
    assert (folder / TIMING).read_bytes() == b"times"
    assert [path.name for path in folder.iterdir()] == [TIMING]


@pytest.mark.usefixtures("gpu")
def test_a_time_that_a_locked_cache_lacks(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(model, monkeypatch, "locked")
    folder = model.parent / "times"
    folder.mkdir()
    (folder / TIMING).write_bytes(b"times")
    options = BuildOptions(timing_cache=folder, flags=("locked",))
    with pytest.raises(BackendError, match="lacks a kernel of this model") as caught:
        build(model, model.with_name("p"), FULL, options=options)
    assert "without --locked" in caught.value.hint


@pytest.mark.filterwarnings("ignore:Use Deprecated")  # of TensorRT for RTX, where it holds nothing
@pytest.mark.parametrize("damage", [b"damaged" * 20, bytes(200)])
def test_the_real_library_only_warns_of_a_damaged_cache(tmp_path: Path, damage: bytes) -> None:
    trt = importlib.import_module("tensorrt_rtx")
    rows: list[tuple[str, str]] = []
    log = tensorrt_child.logger(trt, rows)
    config = trt.Builder(log).create_builder_config()
    old = tmp_path / "old"
    assert tensorrt_child.use_timing_cache(config, str(old), rows) is not None
    old.write_bytes(damage)
    assert config.create_timing_cache(damage) is not None
    with pytest.raises(tensorrt_child.Lacks, match="damaged"):
        tensorrt_child.use_timing_cache(config, str(old), rows)


@pytest.mark.usefixtures("gpu")
def test_a_refused_model_leaves_no_cache(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full(model, monkeypatch, "none")
    folder = model.parent / "times"
    with pytest.raises(QCompilerError):
        build(model, model.with_name("p"), FULL, options=BuildOptions(timing_cache=folder))
    assert list(folder.iterdir()) == []


@pytest.mark.usefixtures("gpu")
def test_a_runtime_cache_keeps_finished_kernels(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double, folder = rtx(model, monkeypatch), model.parent / "kernels"
    options = BuildOptions(runtime_cache=folder)
    build(model, model.with_name("a"), RTX, options=options)
    facts = build(model, model.with_name("b"), RTX, options=options)

    assert (folder / RUNTIME).read_bytes() == b"+finished+finished"
    assert double.called("runtime_cache") == ["", "+finished"]
    (fact,) = facts.caches
    assert (fact.kind, fact.file, fact.before) == ("runtime", RUNTIME, sha(b"+finished"))
    strategy = "DynamicShapesKernelSpecializationStrategy.EAGER"
    assert strategy in double.called("value")


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("no-engine", "cannot load this engine here"),
        ("no-set", "does not take a runtime cache"),
        ("no-context", "no execution context"),
        ("no-data", "cannot serialize"),
    ],
)
@pytest.mark.usefixtures("gpu")
def test_a_runtime_cache_that_cannot_be_made(
    model: Path, monkeypatch: pytest.MonkeyPatch, mode: str, told: str
) -> None:
    rtx(model, monkeypatch, mode)
    with pytest.raises(UnsupportedError, match=told):
        build(model, model.with_name("p"), RTX, options=BuildOptions(runtime_cache=model.parent))
    assert {path.name for path in model.parent.iterdir()} == {"lib", "model.onnx"}


@pytest.mark.usefixtures("gpu")
def test_the_real_library_loads_no_engine_without_a_driver(model: Path) -> None:
    if cuda_driver._library("libcuda.so.1") is not None:
        return
    options = BuildOptions(runtime_cache=model.parent / "kernels")
    with pytest.raises(UnsupportedError, match="cannot load this engine here"):
        build(model, model.with_name("p"), RTX, options=options)


def test_a_cache_needs_a_gpu(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "device", lambda: None)
    with pytest.raises(UnsupportedError, match="none is visible") as caught:
        build(model, model.with_name("p"), RTX, options=BuildOptions(runtime_cache=model.parent))
    assert "leave --runtime-cache out" in caught.value.hint


@pytest.mark.parametrize(
    ("target", "options", "told"),
    [
        (RTX, BuildOptions(timing_cache=Path("x")), "timing cache holds nothing"),
        (RTX, BuildOptions(compatibility="none"), "the target names"),
        (RTX, BuildOptions(flags=("locked",)), "timing cache holds nothing"),
        (FULL, BuildOptions(runtime_cache=Path("x")), "finished kernels"),
    ],
)
def test_what_a_library_lacks_is_said_before_anything_runs(
    target: object, options: BuildOptions, told: str
) -> None:
    with pytest.raises(UnsupportedError, match=told) as caught:
        build(Path("none.onnx"), Path("p"), target, options=options)  # type: ignore[arg-type]
    assert caught.value.hint.startswith("leave --")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (BuildOptions(compatibility="hopper"), "unknown hardware compatibility"),
        (BuildOptions(flags=("locked",)), "--locked needs --timing-cache"),
    ],
)
def test_options_that_make_no_sense(options: BuildOptions, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        build(Path("none.onnx"), Path("p"), FULL, options=options)


def test_built_twice(model: Path) -> None:
    facts = build(model, model.with_name("p"), RTX, options=BuildOptions(twice=True))
    assert facts.repeat is not None
    assert facts.repeat.equal_layers
    assert facts.repeat.equal_bytes == (facts.repeat.plan_digest == facts.plan_digest)
    assert sidecar.read(model.with_name("p.json")) == facts


@pytest.mark.usefixtures("gpu")
def test_the_second_build_reads_what_the_first_measured(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    double, folder = full(model, monkeypatch), model.parent / "times"
    options = BuildOptions(timing_cache=folder, twice=True)
    facts = build(model, model.with_name("p"), FULL, options=options)
    assert facts.repeat == sidecar.Repeat(
        plan_digest=sha(b"plan"), equal_bytes=True, equal_layers=True
    )
    assert double.called("timing_cache") == ["", "+timed"]
    assert (folder / TIMING).read_bytes() == b"+timed"  # it only read


def test_the_baseline_is_built_once_and_unlocked() -> None:
    options = BuildOptions(
        flags=("locked", "weight-streaming"),
        timing_cache=Path("t"),
        runtime_cache=Path("r"),
        twice=True,
        level=2,
    )
    plain = baseline._plain(options)
    assert plain == BuildOptions(flags=("weight-streaming",), timing_cache=Path("t"), level=2)
