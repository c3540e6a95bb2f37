"""Bundles: what is in them, and what `check` finds when something is changed or missing."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qcompiler
from qcompiler import plan as products
from qcompiler.backends import cuda_driver
from qcompiler.backends.cuda_driver import Device
from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.backends.tensorrt import RTX, Library
from qcompiler.engine import sidecar
from qcompiler.errors import BackendError, InputError, UsageError
from qcompiler.export import bundle, golden, manifest
from qcompiler.export import check as checking
from qcompiler.export.bundle import Contents, export, refuse_existing
from qcompiler.export.check import Checked, check
from qcompiler.export.manifest import Manifest, Tolerance
from tests.engine import engines
from tests.export.models import chosen, outside
from tests.export.test_triton import files

ROOT = Path(__file__).resolve().parents[2]
FLOAT = ROOT / "models/resnet20.onnx"
DATA = ROOT / "models/resnet20.calib.npz"


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-20 in INT8, with an engine, its facts and its quantization plan beside it."""
    folder = tmp_path_factory.mktemp("quantized")
    with np.load(DATA) as data:
        few = {name: values[:8] for name, values in data.items()}
    result = qcompiler.compile(FLOAT, data=few, recipe="int8")
    result.save(folder / "net.onnx")
    products.save(result.plan, folder / "plan.json")
    plan = folder / "net.plan"
    plan.write_bytes(b"vtrt, the plan")
    facts = engines.facts("mlp", plan.read_bytes())
    digest = sidecar.digest(folder / "net.onnx")
    msgspec.structs.replace(facts, model="net.onnx", model_digest=digest).save(sidecar.beside(plan))
    return folder


def contents(folder: Path, **fields: object) -> Contents:
    """Everything that can go into a bundle."""
    given: dict[str, object] = {
        "plan": folder / "net.plan",
        "quantization": folder / "plan.json",
        "source": FLOAT,
        "data": str(DATA),
        "samples": 2,
    }
    return Contents(**{**given, **fields})  # type: ignore[arg-type]


@pytest.fixture
def made(quantized: Path, tmp_path: Path) -> Path:
    """A complete bundle, as a folder."""
    export(quantized / "net.onnx", tmp_path / "b", contents(quantized))
    return tmp_path / "b"


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_driver, "device", lambda: None)


def of(found: Checked, which: str) -> list[tuple[str, str]]:
    return [(f.status, f.text) for f in found.findings if f.check == which]


# ---------------------------------------------------------------------- what is in it

CONTENT = [
    "engine/net.plan",
    "engine/net.plan.json",
    "golden/test_data_set_0/input_0.pb",
    "golden/test_data_set_0/output_0.pb",
    "golden/test_data_set_1/input_0.pb",
    "golden/test_data_set_1/output_0.pb",
    "manifest.json",
    "model/net.onnx",
    "quantization/plan.json",
]


def test_holds_everything_unchanged(quantized: Path, made: Path) -> None:
    assert files(made) == CONTENT
    for name in ("engine/net.plan", "engine/net.plan.json", "model/net.onnx"):
        assert (made / name).read_bytes() == (quantized / Path(name).name).read_bytes()
    found = manifest.decode((made / manifest.NAME).read_bytes(), "b")
    assert sorted([*found.files, manifest.NAME]) == CONTENT
    assert (found.target, found.library) == ("tensorrt", "tensorrt-rtx 1.7.1.116")
    assert found.capabilities == ("SM89",)
    assert found.source is not None
    assert found.source.sha256 == sidecar.digest(FLOAT)
    assert (found.data, found.synthetic, found.samples) == (DATA.name, False, 2)


def test_golden_values_are_those_of_the_model(made: Path) -> None:
    with np.load(DATA) as data:
        first = data["input"][:1]
    inputs, outputs = golden.read(made, 0)
    np.testing.assert_array_equal(inputs["input"], first)
    with OrtSession(made / "model/net.onnx") as session:
        np.testing.assert_array_equal(outputs["output"], session.run(inputs)["output"])
    raw = (made / "golden/test_data_set_0/input_0.pb").read_bytes()
    assert onnx.TensorProto.FromString(raw).name == "input"


def test_a_zip_holds_the_same_and_has_the_same_bytes_twice(
    quantized: Path, made: Path, tmp_path: Path
) -> None:
    for name in ("one.zip", "two.zip"):
        export(quantized / "net.onnx", tmp_path / name, contents(quantized))
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == CONTENT
        assert all(archive.read(n) == (made / n).read_bytes() for n in CONTENT)


def test_weights_in_other_files_go_along(tmp_path: Path, no_gpu: None) -> None:
    model = outside(tmp_path / "in")
    made = export(model, tmp_path / "b.zip", Contents())
    assert {"model/big.onnx", "model/weights/w.bin"} < set(made.files)
    assert made.synthetic
    assert check(tmp_path / "b.zip").ok


# ---------------------------------------------------------------------- what is refused


def test_an_engine_of_another_model_is_refused(quantized: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="built from another model"):
        export(FLOAT, tmp_path / "b", contents(quantized, quantization=None))
    assert files(tmp_path) == []


def test_another_quantization_plan_is_refused(quantized: Path, tmp_path: Path) -> None:
    changed = products.read(quantized / "plan.json", products.QuantPlan)
    products.save(msgspec.structs.replace(changed, recipe="mine"), tmp_path / "plan.json")
    given = contents(quantized, quantization=tmp_path / "plan.json")
    with pytest.raises(InputError, match="another quantization plan"):
        export(quantized / "net.onnx", tmp_path / "b", given)
    assert files(tmp_path) == ["plan.json"]


def test_a_source_with_other_outputs_is_refused(quantized: Path, tmp_path: Path) -> None:
    given = contents(quantized, source=chosen(tmp_path / "m.onnx"))
    with pytest.raises(InputError, match="has no output 'output'"):
        export(quantized / "net.onnx", tmp_path / "b", given)
    assert files(tmp_path) == ["m.onnx"]


def test_outputs_are_replaced_only_if_they_are_bundles(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    with pytest.raises(UsageError, match="the output exists"):
        refuse_existing(folder, overwrite=False)
    refuse_existing(folder, overwrite=True)
    (folder / "precious").touch()
    with pytest.raises(UsageError, match="its files would be lost"):
        refuse_existing(folder, overwrite=True)
    (folder / manifest.NAME).touch()
    refuse_existing(folder, overwrite=True)
    with pytest.raises(UsageError, match="the folder does not exist"):
        refuse_existing(tmp_path / "none/b", overwrite=True)


def test_a_failure_keeps_the_old_bundle(
    quantized: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (made / manifest.NAME).read_bytes()

    def broken(*_: object) -> dict[str, object]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(bundle, "_entries", broken)
    with pytest.raises(InputError, match="No space left"):
        export(quantized / "net.onnx", made, contents(quantized, samples=1))
    assert (made / manifest.NAME).read_bytes() == before
    assert [p.name for p in made.parent.iterdir()] == ["b"]


# ---------------------------------------------------------------------- tolerances


def test_the_floor_is_half_the_larger_error_that_was_seen(made: Path) -> None:
    found = manifest.decode((made / manifest.NAME).read_bytes(), "b")
    (tolerance,) = found.tolerances
    assert tolerance.measure == "sqnr_db"
    assert set(tolerance.seen) == {"optimized", "rounding"}
    least = min(tolerance.seen.values())
    assert tolerance.floor == pytest.approx(least - 20 * np.log10(2), abs=0.01)
    assert tolerance.accuracy is not None


def test_both_experiments_flip_codes_and_float_models_only_round(tmp_path: Path) -> None:
    """What the module's docstring says: a flip costs more than all float errors together.

    A sum of 576 products in another order errs by about 2^-24 * 24: 117 dB. Inputs that are 2^-14
    off (84 dB) stay near that through a network of Lipschitz constant about 1.
    """
    made = export(FLOAT, tmp_path / "b", Contents(data=str(DATA), samples=2))
    (tolerance,) = made.tolerances
    assert tolerance.seen["optimized"] > 110
    assert 70 < tolerance.seen["rounding"] < 100
    assert tolerance.floor > 60


def test_indices_are_counted(tmp_path: Path, no_gpu: None) -> None:
    made = export(chosen(tmp_path / "m.onnx"), tmp_path / "b", Contents(samples=3))
    y, best = made.tolerances
    assert (y.output, y.measure) == ("y", "sqnr_db")
    assert (best.output, best.measure, best.floor) == ("best", "equal", 1.0)
    text = of(check(tmp_path / "b"), "golden")[1][1]
    assert text.startswith("output 'best': 100.00% of elements equal, asked for 100.00%")


def test_the_experiments_change_scales_and_put_nothing_into_the_bundle(made: Path) -> None:
    assert files(made) == CONTENT
    model = made / "model/net.onnx"
    before = onnx.load(model)
    scales = {n.input[1] for n in before.graph.node if n.op_type == "QuantizeLinear"}
    with golden._shaken_scales(model, np.random.default_rng(0)) as path:
        after = onnx.load(path)
    changed = {
        a.name: float(numpy_helper.to_array(b) / numpy_helper.to_array(a)) - 1
        for a, b in zip(before.graph.initializer, after.graph.initializer, strict=True)
        if a != b
    }
    assert set(changed) == scales
    # float32 rounds the product: 2^-14 is met to within 2^-24.
    assert all(abs(abs(c) - 2.0**-14) < 2.0**-23 for c in changed.values())


# ---------------------------------------------------------------------- check


def test_a_sound_bundle_holds(made: Path, no_gpu: None) -> None:
    found = check(made)
    assert found.ok
    assert [f.status for f in found.findings] == ["ok", "ok", "ok", "unknown"]
    assert "not checkable here: no GPU" in found.findings[-1].text


@pytest.mark.parametrize(
    ("name", "change", "told", "golden_status"),
    [
        ("model/net.onnx", b"", "has 0 bytes instead of", "unknown"),
        ("model/net.onnx", None, "is missing", "unknown"),
        ("engine/net.plan", b"vtrt, the plaN", "has other bytes (SHA-256 differs)", "ok"),
        ("golden/test_data_set_1/output_0.pb", b"x", "has 1 bytes instead of", "unknown"),
    ],
)
@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_found(
    made: Path,
    no_gpu: None,
    name: str,
    change: bytes | None,
    told: str,
    golden_status: str,
    *,
    packed: bool,
) -> None:
    if change is None:
        (made / name).unlink()
    else:
        (made / name).write_bytes(change)
    found = check(_zip(made) if packed else made)
    assert not found.ok
    ((status, text),) = of(found, "files")
    assert status == "failed"
    assert text.startswith(f"{name} {told}")
    assert of(found, "golden")[0][0] == golden_status
    assert "damaged" in of(found, "engine")[0][1] or not name.startswith("engine/")


def _zip(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for name in files(folder):
            archive.write(folder / name, name)
    return path


def test_other_files_are_told_and_fail_nothing(made: Path, no_gpu: None) -> None:
    (made / ".DS_Store").touch()
    found = check(made)
    assert found.ok
    assert ("unknown", ".DS_Store is not in the manifest") in of(found, "files")


def test_a_wrong_weight_scale_is_not_reproduced(made: Path, no_gpu: None) -> None:
    """Even if somebody brings the digests up to date."""
    path = made / "model/net.onnx"
    model = onnx.load(path)
    nodes = model.graph.node
    shared = {n.input[1] for n in nodes if n.op_type == "QuantizeLinear"}
    scales = (n.input[1] for n in nodes if n.op_type == "DequantizeLinear")
    scale = next(name for name in scales if name not in shared)
    for tensor in model.graph.initializer:
        if tensor.name == scale:
            values = numpy_helper.to_array(tensor) * np.float32(1.5)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)

    def renewed(found: Manifest) -> Manifest:
        entry = manifest.Entry(sidecar.digest(path), path.stat().st_size)
        return msgspec.structs.replace(found, files={**found.files, "model/net.onnx": entry})

    _edit(made, renewed)
    found = check(made)
    assert [f.status for f in found.findings if f.check == "files"] == ["ok"]
    ((status, text),) = of(found, "golden")
    assert status == "failed"
    assert "SQNR" in text


def _edit(folder: Path, change: Callable[[Manifest], Manifest]) -> None:
    path = folder / manifest.NAME
    path.write_bytes(products.encode(change(manifest.decode(path.read_bytes(), "b"))))


def test_a_model_that_does_not_load_is_a_finding(
    made: Path, no_gpu: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise BackendError("ONNX Runtime cannot load the model: of another release")

    monkeypatch.setattr(checking, "OrtSession", refuse)
    assert of(check(made), "golden") == [
        ("failed", "ONNX Runtime cannot load the model: of another release")
    ]


def test_other_versions_are_told(made: Path, no_gpu: None) -> None:
    _edit(made, lambda m: msgspec.structs.replace(m, versions={"onnxruntime": "0.1"}))
    ((status, text),) = of(check(made), "versions")
    assert status == "ok"
    assert "(made with 0.1)" in text


def test_an_output_without_golden_values_fails(made: Path, no_gpu: None) -> None:
    other = Tolerance(output="z", measure="equal", floor=1.0, seen={}, derived="")
    _edit(made, lambda m: msgspec.structs.replace(m, tolerances=(other,)))
    assert of(check(made), "golden") == [("failed", "no golden values of output 'z'")]


@pytest.mark.parametrize(
    ("device", "version", "expected"),
    [
        ("SM89", "1.7.1.116", ["ok", "ok"]),
        ("SM89", "1.7.1.999", ["ok", "ok"]),
        ("SM90", "1.7.1.116", ["failed", "ok"]),
        ("SM89", "1.7.2.1", ["ok", "failed"]),
        ("SM89", None, ["ok", "failed"]),
    ],
)
def test_the_engine_against_the_gpu_and_the_library(
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    version: str | None,
    expected: list[str],
) -> None:
    gpu = Device("NVIDIA Test", device, "580.1")

    def installed(library: Library) -> str:
        if version is None:
            raise BackendError(f"{library.title} is not installed", hint=library.install)
        return version

    monkeypatch.setattr(cuda_driver, "device", lambda: gpu)
    monkeypatch.setattr(checking, "installed", installed)
    found = check(made)
    assert [status for status, _ in of(found, "engine")] == expected
    assert found.ok is (expected == ["ok", "ok"])
    if version is None:
        assert RTX.install in of(found, "engine")[1][1]


@pytest.mark.parametrize(
    ("built", "version", "flexible", "expected"),
    [
        ("tensorrt 11.0.1.2", "11.4.0.106", True, "ok"),
        ("tensorrt 11.0.1.2", "11.4.0.106", False, "failed"),
        ("tensorrt 11.4.0.106", "11.0.1.2", True, "failed"),
        ("tensorrt-rtx 1.6.0.1", "1.7.1.116", True, "failed"),
        ("another 1", "1.7.1.116", True, "unknown"),
    ],
)
def test_which_releases_run_a_plan(
    monkeypatch: pytest.MonkeyPatch, built: str, version: str, *, flexible: bool, expected: str
) -> None:
    monkeypatch.setattr(checking, "installed", lambda _: version)
    assert checking._library(built, flexible=flexible).status == expected


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"{", "not the manifest of a bundle"),
        (b'{"schema_version": 9}', "schema version 9 of a bundle, expected 1"),
        (b'{"schema_version": 1}', "not the manifest of a bundle"),
    ],
)
def test_what_is_no_manifest(made: Path, content: bytes, told: str) -> None:
    (made / manifest.NAME).write_bytes(content)
    with pytest.raises(InputError, match=told):
        check(made)


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "a\\..\\b", "C:/x"])
def test_a_manifest_cannot_reach_outside(made: Path, name: str) -> None:
    path = made / manifest.NAME
    entry = manifest.Entry("0" * 64, 1)
    found = manifest.decode(path.read_bytes(), "b")
    changed = msgspec.structs.replace(found, files={**found.files, name: entry})
    path.write_bytes(products.encode(changed))
    with pytest.raises(InputError, match="none of the bundle"):
        check(made)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    (tmp_path / "text.zip").write_text("hello")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    for name in ("none.zip", "text.zip", "empty.zip", ""):
        with pytest.raises(InputError, match="this is no bundle"):
            check(tmp_path / name)
