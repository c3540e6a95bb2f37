"""Full TensorRT, which cannot be installed here, as a double with the members of each release."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest

from qcompiler.backends import cuda_driver
from qcompiler.engine import inspector
from qcompiler.engine.build import BuildOptions, build
from qcompiler.engine.listing import Memory
from qcompiler.engine.options import COMPATIBILITY, FLAGS
from qcompiler.engine.target_string import EngineTarget, parse
from qcompiler.errors import BackendError, InputError, QCompilerError, UnsupportedError
from tests.engine import library_double
from tests.engine.library_double import Double
from tests.recorded import Recorded

MODEL = (
    '<ir_version: 10, opset_import: ["" : 21]>\n'
    "g (float[N,4] x) => (float[N,4] y) { [relu] y = Relu(x) }"
)
RELEASES = ["10.0.1", "10.8.0.43", "10.13.3.9", "10.16.1.11", "11.0.0.114", "11.4.0.106"]
BOTH = ["10.13.3.9", "11.4.0.106"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(MODEL), path)
    return path


def target(version: str) -> EngineTarget:
    return parse(f"tensorrt-{'.'.join(version.split('.')[:2])}:sm90")


def install(
    model: Path, monkeypatch: pytest.MonkeyPatch, version: str, mode: str = "plan"
) -> Double:
    return library_double.install(model.parent / "lib", monkeypatch, version=version, mode=mode)


@pytest.mark.parametrize("version", RELEASES)
def test_it_is_asked_by_name(model: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    double = install(model, monkeypatch, version)
    progress, plan = Recorded(), model.with_name("p.plan")
    flags = tuple(flag for flag in FLAGS if flag != "locked")
    options = BuildOptions(workspace=10**9, level=3, flags=flags, compatibility="ampere-plus")
    facts = build(model, plan, target(version), options=options, progress=progress)

    assert plan.read_bytes() == b"plan"
    assert (facts.library, facts.plan_bytes) == (f"tensorrt {version}", 4)
    level = "HardwareCompatibilityLevel.AMPERE_PLUS"
    expected: list[dict[str, Any]] = [
        {"network": 3 if version.startswith("10.") else 1},
        {"set": "profiling_verbosity", "value": "ProfilingVerbosity.DETAILED"},
        {"pool": "MemoryPoolType.WORKSPACE", "size": 10**9},
        {"set": "builder_optimization_level", "value": 3},
        *({"flag": f"BuilderFlag.{FLAGS[flag]}"} for flag in flags),
        {"set": "hardware_compatibility_level", "value": level},
        {"shape": ["x", [1, 4], [4, 4], [8, 4]]},
        {"profile": True},
        {"set": "engine_host_code_allowed", "value": True},
        {"inspected": "LayerInformationFormat.JSON"},
    ]
    assert double.calls == expected
    assert facts.options["hardware-compatibility"] == "ampere-plus"


@pytest.mark.parametrize("version", BOTH)
def test_the_facts_hold_what_the_inspector_says(
    model: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    install(model, monkeypatch, version)
    facts = build(model, model.with_name("p"), target(version))
    (layer,) = facts.layers
    assert (layer.kind, layer.onnx_nodes) == ("kgen", ("relu",))
    assert [t.dtype for t in (*layer.inputs, *layer.outputs)] == ["Half", "Half"]
    assert facts.memory == Memory(activation=64, weights=32, scratch=16)
    assert facts.report.kernels == 1


@pytest.mark.parametrize(
    ("mode", "told"),
    [("names-only", "only the names of the layers"), ("no-engine", "not the JSON of an engine")],
)
@pytest.mark.parametrize("version", BOTH)
def test_a_plan_without_a_listing_is_kept_with_a_warning(
    model: Path, monkeypatch: pytest.MonkeyPatch, version: str, mode: str, told: str
) -> None:
    install(model, monkeypatch, version, mode)
    progress, plan = Recorded(), model.with_name("p.plan")
    facts = build(model, plan, target(version), progress=progress)
    assert plan.read_bytes() == b"plan"
    assert (facts.layers, facts.report.kernels) == ((), 0)
    assert any("hold no kernels" in w and told in w for w in progress.warnings)


@pytest.mark.parametrize(
    ("mode", "kind", "told", "where", "hint"),
    [
        ("parse", InputError, "the zero point must be 0", "QuantizeLinear 'q'", "int8"),
        ("parse-silent", InputError, "no reason", "model.onnx", "lint"),
        ("none", BackendError, "no kernel fits", "node 'conv1'", "raise --workspace"),
        ("silent", BackendError, "no plan and no message", "model.onnx", "--workspace"),
        ("memory", BackendError, "ran out of memory", "model.onnx", "--weight-streaming"),
        ("tactics", BackendError, "ran out of memory", "node 'conv1'", "smaller --max-shapes"),
        ("bad-alloc", BackendError, "ran out of memory", "model.onnx", "free memory"),
        ("no-gpu", BackendError, "raised TypeError: pybind11::init", "model.onnx", "report it"),
        ("crash-parse", BackendError, "SIGSEGV while parsing", "model.onnx", "report it"),
        ("crash-build", BackendError, "SIGSEGV while building", "model.onnx", "report it"),
        ("hang", BackendError, "not finished after 1.5 s", "model.onnx", "--timeout"),
        ("grow", BackendError, "more than 128 MiB", "model.onnx", "--memory"),
    ],
)
@pytest.mark.parametrize("version", BOTH)
def test_every_failure_is_one_error_and_leaves_nothing(
    model: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: str,
    mode: str,
    kind: type[QCompilerError],
    told: str,
    where: str,
    hint: str,
) -> None:
    install(model, monkeypatch, version, mode)
    options = BuildOptions(timeout=1.5 if mode == "hang" else 60.0, memory=2**27)
    with pytest.raises(kind, match=told) as caught:
        build(model, model.with_name("p.plan"), target(version), options=options)
    assert type(caught.value) is kind
    assert where in caught.value.where
    assert hint in caught.value.hint
    assert {path.name for path in model.parent.iterdir()} == {"lib", "model.onnx"}


def test_every_parser_error_is_told(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(model, monkeypatch, "11.4.0.106", "parse")
    with pytest.raises(InputError) as caught:
        build(model, model.with_name("p.plan"), target("11.4.0.106"))
    _, first, second = caught.value.message.splitlines()
    assert first == "QuantizeLinear 'q': Assertion failed: shiftIsAllZeros(zp): no"
    assert second == "Failed to parse"


@pytest.mark.parametrize("version", RELEASES)
def test_a_level_that_the_release_lacks_is_refused_by_name(
    model: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    install(model, monkeypatch, version)
    options = BuildOptions(compatibility="same-compute-capability")
    has = library_double.FACTS[".".join(version.split(".")[:2])]["HardwareCompatibilityLevel"]
    plan = model.with_name("p.plan")
    if COMPATIBILITY["same-compute-capability"] in has:
        assert build(model, plan, target(version), options=options).plan_bytes == 4
        return
    with pytest.raises(UnsupportedError, match=f"tensorrt {version} has no .*SAME_COMPUTE"):
        build(model, plan, target(version), options=options)
    assert not plan.exists()


@pytest.mark.parametrize("version", RELEASES)
def test_a_plan_of_another_tool_is_described(
    model: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    double = install(model, monkeypatch, version)
    plan = model.with_name("theirs.engine")
    plan.write_bytes(b"ptrt and more")
    (layer,) = inspector.inspected(plan, model, target(version)).layers
    assert layer.onnx_nodes == ("relu",)
    # Host code in a plan from elsewhere must not run, so it is not allowed to.
    assert double.calls == [{"inspected": "LayerInformationFormat.JSON"}]


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("no-engine", "serialization version"),
        ("crash-load", "SIGSEGV while loading"),
        ("raise-load", "RuntimeError: no"),
    ],
)
def test_a_plan_that_cannot_be_loaded(
    model: Path, monkeypatch: pytest.MonkeyPatch, mode: str, told: str
) -> None:
    install(model, monkeypatch, "11.4.0.106", mode)
    plan = model.with_name("theirs.engine")
    plan.write_bytes(b"ptrt and more")
    with pytest.raises(BackendError, match=told) as caught:
        inspector.inspected(plan)
    assert "the GPU that it was built for" in caught.value.hint


def test_a_plan_of_the_real_library_needs_its_gpu(model: Path) -> None:
    plan, rtx = model.with_name("ours.plan"), parse("tensorrt-rtx")
    build(model, plan, rtx)
    assert inspector.is_plan(plan)
    if cuda_driver.device() is None:
        with pytest.raises(BackendError, match=r"tensorrt-rtx 1\..* cannot load this plan"):
            inspector.inspected(plan, model, rtx)
    with pytest.raises(BackendError, match="which is not installed"):
        inspector.inspected(plan, model)
