"""What a probe finds with the real compiler, and with a double on a machine with a GPU."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from qcompiler import targets
from qcompiler.backends.cuda_driver import Device
from qcompiler.engine import probe as probes
from qcompiler.engine import probe_networks
from qcompiler.engine.listing import Layer, Tensor
from qcompiler.engine.measured import Measured, Timed
from qcompiler.engine.probe import probe, questions
from qcompiler.engine.probe_networks import network
from qcompiler.engine.probe_verdict import skip_precision
from qcompiler.errors import BackendError, UsageError
from qcompiler.load import load
from qcompiler.scan import scan
from qcompiler.targets.base import LAYERS, Capability
from qcompiler.targets.file import Row, TargetFile
from tests.engine import gpu
from tests.engine.library_double import install
from tests.hand_made import INT8
from tests.recorded import Recorded

RTX = targets.find("tensorrt-rtx:sm89")


def _table(found: TargetFile) -> dict[tuple[str, str, str], str]:
    return {(r.kind, r.format, r.base): r.verdict for r in found.rows if r.scales == "tensor"}


def _row(op: str, kind: str, **said: Any) -> Capability:
    return Capability(
        op=op, kind=kind, granularity="tensor", verdict="runs", note="-", source="-",
        confidence="tried", **said,
    )  # fmt: skip


@pytest.mark.parametrize(("op", "kind"), LAYERS)
def test_the_network_of_a_row_has_that_operator_and_kind(op: str, kind: str) -> None:
    """Where the row says that it runs, planning quantizes the nodes that are asked about."""
    row = _row(op, kind)
    made = network(row)
    helpers = tuple(_row(*helper) for helper in made.helpers)
    graph = load(made.model)
    graph.infer()
    points = scan(graph, INT8, replace(RTX, rows=(row, *helpers)))
    slots = {s.node for p in (*points.activations, *points.weights) for s in p.slots}
    assert slots.issuperset(made.nodes)
    # Without the row only the helpers are.
    points = scan(graph, INT8, replace(RTX, rows=helpers))
    slots = {s.node for p in (*points.activations, *points.weights) for s in p.slots}
    assert not slots.intersection(made.nodes)
    assert bool(slots) is bool(helpers)


def test_every_row_is_asked_once_a_base_type() -> None:
    for name, capability in (("tensorrt-rtx:sm75", 75), ("tensorrt:sm90", 90)):
        target = targets.find(name)
        asked = questions(target, capability)
        keys = [question.key for question in asked]
        assert len(set(keys)) == len(keys)
        for op, kind in LAYERS:
            # The first row that holds is the one that planning looks at.
            key = (op, kind, "int8", "tensor", "float16")
            row = next(q.row for q in asked if q.key == key)
            assert row == next(
                r
                for r in target.rows_for(capability)
                if (r.op, r.kind, r.format) == (op, kind, "int8") and "float16" in r.base
            )
    assert {q.row.op for q in questions(RTX, 89, "Add")} == {"Add"}
    with pytest.raises(UsageError, match="no row for 'Pool'") as caught:
        questions(RTX, 89, "Pool")
    assert "Add, Attention, Conv, ConvTranspose, Gemm, MatMul" in caught.value.hint


# ---------------------------------------------------------------------------- the real compiler


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU, and networks that are built in less time."""
    monkeypatch.setattr("qcompiler.backends.cuda_driver._library", lambda _name: None)
    for name, size in {"ROWS": 64, "WIDTH": 512, "CHANNELS": 64, "SIDE": 14}.items():
        monkeypatch.setattr(probe_networks, name, size)


def test_the_compiler_alone_says_what_runs(tmp_path: Path) -> None:
    found = probe("tensorrt-rtx:sm89", "MatMul")
    assert (found.card, found.target) == ("", "tensorrt-rtx:sm89")
    assert set(_table(found).values()) == {"runs"}
    assert len(_table(found)) == 8
    for row in (r for r in found.rows if (r.kind, r.scales) == ("dense", "tensor")):
        assert row.verified == f"{found.library} for sm89, not run"
        assert row.capabilities == (89, 89)
        assert row.quantized is not None
        assert row.plain is not None
        assert row.quantized.bytes_moved < row.plain.bytes_moved
        assert row.quantized.estimate is not None
        assert row.quantized.median is None
    found.save(tmp_path / "card.json")
    target = targets.find(str(tmp_path / "card.json"))
    assert target.rows == (*(r.capability() for r in found.rows), *RTX.rows)
    # Nothing is left to try.
    assert probe(str(tmp_path / "card.json"), "MatMul") == found


def test_what_falls_back_and_what_is_refused() -> None:
    found = probe("tensorrt-rtx:sm86", "ConvTranspose")
    assert _table(found) == {
        (kind, stored, base): "float" if stored == "int8" else "refused"
        for kind in ("dense", "grouped", "depthwise")
        for stored in ("int8", "fp8_e4m3")
        for base in ("float32", "float16")
    }
    notes = {(r.format, r.base): r.note for r in found.rows if r.kind == "dense"}
    assert notes["int8", "float16"] == "falls back to fp16"
    assert notes["int8", "float32"] == "falls back to fp32"
    assert "data type that this compute capability lacks" in notes["fp8_e4m3", "float16"]
    refused = [r for r in found.rows if r.verdict == "refused"]
    assert {r.quantized for r in refused} == {None}
    assert None not in {r.plain for r in refused}


def test_the_skip_of_a_residual_is_not_read_in_int8() -> None:
    """Its Add is fused into the convolution, and reads a copy in the base type."""
    verdicts = {(r.format, r.base): (r.verdict, r.note) for r in probe(RTX.name, "Add").rows}
    assert verdicts["int8", "float32"] == ("float", "the skip is read in fp32")
    assert verdicts["int8", "float16"] == ("float", "the skip is read in fp16")
    assert verdicts["fp8_e4m3", "float16"][0] == "runs"


def test_attention_is_one_kernel_in_both_formats() -> None:
    assert _table(probe(RTX.name, "Attention")) == {
        ("dense", "int8", "float16"): "runs",
        ("dense", "fp8_e4m3", "float16"): "runs",
    }


# ---------------------------------------------------------------------------- verdicts


def _layer(*inputs: str, kind: str = "correlation") -> Layer:
    tensors = tuple(Tensor(f"t{i}", (1, 2, 3, 4), t, "") for i, t in enumerate(inputs))
    return Layer("k", kind, tensors, (), (), ("second", "join"))


@pytest.mark.parametrize(
    ("layers", "precision"),
    [
        ([_layer("Int8", "Int8")], "int8"),
        ([_layer("Int8", "Half")], "fp16"),
        ([_layer("Half", "FP8", kind="kgen")], "fp8"),
        ([_layer("Float", kind="kgen")], "fp32"),
        ([], "unknown"),
    ],
)
def test_in_which_type_a_skip_is_read(layers: list[Layer], precision: str) -> None:
    assert skip_precision(layers, "join") == precision


def test_a_product_that_becomes_three_kernels_runs_all_the_same() -> None:
    """SM 12.0 gives query, key and value a kernel each, with a third of the weight."""
    found = _table(probe("tensorrt-rtx:sm120", "Gemm"))
    assert found["merged", "fp8_e4m3", "float16"] == "runs"
    assert found["merged", "int8", "float16"] == "runs"


def test_a_row_that_loses_is_not_acquitted_without_a_gpu() -> None:
    found = _table(probe(RTX.name, "Conv"))
    assert found["dense", "int8", "float16"] == "runs"
    assert found["depthwise", "int8", "float16"] == "loses"


@pytest.mark.parametrize(("ours", "verdict"), [(5e-6, "runs"), (9e-6, "loses")])
def test_on_a_gpu_the_times_decide(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, ours: float, verdict: str
) -> None:
    """Builds are real, the card and its times are made up."""
    device = Device("NVIDIA Toy", "SM89", "580.1")
    monkeypatch.setattr(probes, "present", lambda _engine: device)
    seen: list[tuple[Path, Path]] = []

    def times(plans: tuple[Path, Path], *_rest: object) -> Measured:
        assert all(plan.stat().st_size for plan in plans)
        seen.append(plans)
        ends = [Timed(median=t, low=t * 0.99, high=t * 1.01) for t in (ours, 7e-6)]
        return Measured(
            gpu=device.name, capability="SM89", driver="580.1", shapes="", inputs="made up",
            samples=201, calls=9, ours=ends[0], fp16=ends[1], outputs=(), floor_db=0.0,
        )  # fmt: skip

    monkeypatch.setattr(probes, "measure", times)
    found = probe("tensorrt-rtx", "Attention")
    assert (found.card, found.driver, len(seen)) == ("NVIDIA Toy", "580.1", 2)
    assert found.target == "tensorrt-rtx:sm89"
    row: Row = found.rows[0]
    assert row.verdict == verdict
    assert row.note == f"int8 kernels, {ours * 1e6:.3f} us against 7.000 us in float"
    assert row.verified == f"{found.library} on NVIDIA Toy"
    assert row.quantized is not None
    assert row.quantized.median == ours
    assert row.plain is not None
    assert row.plain.high == pytest.approx(7.07e-6)
    # What was tried on no GPU is tried again on one.
    old = [_elsewhere(r) for r in found.rows]
    made = TargetFile(
        target=found.target, library=found.library, card="", driver="", rows=tuple(old)
    )
    made.save(tmp_path / "old.json")
    assert probe(str(tmp_path / "old.json"), "Attention") == found
    assert len(seen) == 4


def _elsewhere(row: Row) -> Row:
    return msgspec.structs.replace(row, verified="elsewhere", verdict="float")


# ---------------------------------------------------------------------------- what cannot be asked


def test_several_capabilities_are_probed_one_by_one() -> None:
    with pytest.raises(UsageError, match="several compute capabilities"):
        probe("tensorrt-rtx:sm86,sm89")


def test_full_tensorrt_must_be_installed_and_have_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendError, match="needs TensorRT, which is not installed") as caught:
        probe("tensorrt:sm90")
    assert caught.value.exit_code == 3
    assert "pip install tensorrt-cu13" in caught.value.hint
    install(tmp_path / "double", monkeypatch, version="11.4.0.106")
    with pytest.raises(BackendError, match="has none for tensorrt:sm90"):
        probe("tensorrt:sm90")


def test_full_tensorrt_is_probed_on_its_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The double tells its inspector nothing about these networks: no row can be told, and why."""
    gpu.put(tmp_path, monkeypatch, 90)
    install(tmp_path / "double", monkeypatch, version="11.4.0.106")
    notes = Recorded()
    found = probe("tensorrt", "Add", notes)
    assert (found.target, found.card) == ("tensorrt:sm90", "NVIDIA Stub")
    assert found.rows == ()
    assert len(notes.warnings) == 4
    assert all("not tried" in warning for warning in notes.warnings)
