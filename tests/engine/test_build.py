"""Real builds with their facts, and every way in which one can fail."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from models import build as models
from qcompiler.backends import tensorrt_process
from qcompiler.driver import compile  # noqa: A004 - the verb of the tool
from qcompiler.engine import sidecar
from qcompiler.engine.build import BuildOptions, build
from qcompiler.engine.options import FLAGS
from qcompiler.engine.shapes import Shapes
from qcompiler.engine.target_string import parse
from qcompiler.errors import (
    BackendError,
    InputError,
    QCompilerError,
    UnsupportedError,
    UsageError,
)
from qcompiler.progress import Silent

RESNET = Path(models.__file__).with_name("resnet20.onnx")
SM89 = parse("tensorrt-rtx:sm89")
HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'
DENSE = HEAD + "g (float[N,4] x) => (float[N,4] y) { [relu] y = Relu(x) }"
MATMUL = HEAD + "g (float[4,4] x) => (float[4,4] y) { [product] y = MatMul(x, x) }"


class Recorder(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.warnings: list[str] = []

    def begin(self, stage: str) -> None:
        self.told.append(f"begin {stage}")

    def update(self, done: int, total: int) -> None:
        self.told.append(f"update {done} {total}")

    def end(self) -> None:
        self.told.append("end")

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def _save(folder: Path, text: str) -> Path:
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_writes_the_plan_and_the_facts_beside_it(tmp_path: Path) -> None:
    plan, progress = tmp_path / "r.plan", Recorder()
    facts = build(RESNET, plan, SM89, progress=progress)

    assert _names(tmp_path) == {"r.plan", "r.plan.json"}
    assert sidecar.read(tmp_path / "r.plan.json") == facts
    assert facts.library.startswith("tensorrt-rtx 1.")
    assert (facts.capabilities, facts.model) == (("SM89",), "resnet20.onnx")
    assert facts.plan_bytes == plan.stat().st_size
    assert facts.plan_digest == hashlib.sha256(plan.read_bytes()).hexdigest()
    assert facts.model_digest == hashlib.sha256(RESNET.read_bytes()).hexdigest()
    assert sum(layer.kind == "correlation" for layer in facts.layers) == 21
    assert facts.report.kernels == sum(facts.report.kinds.values()) > 0
    assert 0 < facts.seconds < 600
    assert facts.options == {
        "profile": "default",
        "min-shapes": "input:1x3x32x32",
        "opt-shapes": "input:4x3x32x32",
        "max-shapes": "input:8x3x32x32",
    }
    assert progress.told[0] == "begin build"
    assert progress.told[-1] == "end"
    (warning,) = progress.warnings
    assert "--max-shapes input:8x3x32x32" in warning


def _addresses_can_be_fixed() -> bool:
    """Whether this machine lets a process ask for addresses that are not random."""
    code = "import ctypes, sys; sys.exit(ctypes.CDLL(None).personality(0x0040000) == -1)"
    ran = subprocess.run([sys.executable, "-c", code], check=False)
    return sys.platform == "linux" and ran.returncode == 0


def test_built_twice_plans_are_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantized: Path
) -> None:
    """Kernels always, bytes wherever addresses can be fixed; not so without (see the child)."""
    plans = [tmp_path / "a" / "m.plan", tmp_path / "another" / "of another name.plan"]
    facts = []
    for seed, plan in enumerate(plans):
        plan.parent.mkdir()
        model = plan.with_name("m.onnx")
        model.write_bytes(quantized.read_bytes())
        monkeypatch.setenv("PYTHONHASHSEED", str(seed))
        monkeypatch.setenv("SOMETHING", "else" * 1000 * seed)
        facts.append(build(model, plan, SM89))

    first, second = facts
    assert first.layers == second.layers
    assert (first.memory, first.report) == (second.memory, second.report)
    assert first.plan_bytes == second.plan_bytes
    assert (first.plan_digest == second.plan_digest) or not _addresses_can_be_fixed()


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-20 in INT8: large enough for its plans to differ where addresses do."""
    path = tmp_path_factory.mktemp("quantized") / "m.onnx"
    compile(RESNET, target="tensorrt-rtx").save(path)
    return path


def test_options_reach_the_builder_and_the_facts(tmp_path: Path) -> None:
    options = BuildOptions(
        shapes=Shapes({"x": (2, 4)}, {"x": (3, 4)}, {"x": (5, 4)}),
        workspace=2**30,
        level=1,
        flags=("weight-streaming",),
    )
    progress = Recorder()
    target = parse("tensorrt-rtx:sm86,sm120")
    facts = build(
        _save(tmp_path, DENSE), tmp_path / "p", target, options=options, progress=progress
    )

    assert facts.capabilities == ("SM86", "SM120")
    assert facts.options == {
        "weight-streaming": True,
        "workspace": 2**30,
        "optimization-level": 1,
        "profile": "given",
        "min-shapes": "x:2x4",
        "opt-shapes": "x:3x4",
        "max-shapes": "x:5x4",
    }
    (warning,) = progress.warnings
    assert "the weakest" in warning


def test_a_static_model_has_no_profile(tmp_path: Path) -> None:
    progress = Recorder()
    facts = build(_save(tmp_path, MATMUL), tmp_path / "p", SM89, progress=progress)
    assert (facts.options, progress.warnings) == ({}, [])


def test_external_data_is_read_from_the_models_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    proto = models.load("mlp")
    onnx.save(
        proto, folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0
    )
    assert "w.bin" in _names(folder)
    inside = tmp_path / "inside.onnx"
    onnx.save(models.load("mlp"), inside)

    there = build(folder / "m.onnx", tmp_path / "a.plan", SM89)
    here = build(inside, tmp_path / "b.plan", SM89)
    assert there.memory == here.memory
    assert there.report == here.report


@pytest.mark.parametrize(
    ("text", "target", "kind", "told", "where", "hint"),
    [
        (MATMUL, "tensorrt-rtx:sm75", BackendError, "Turing", "'product'", "sm80"),
        (
            HEAD + "g (bfloat16[4] x) => (bfloat16[4] y) { y = Relu(x) }",
            "tensorrt-rtx:sm75", BackendError, "lacks", "model.onnx", "FP8 needs sm89",
        ),
        (
            HEAD + "g (float16[4] x) => (float16[4] y) <float[4] w = {1, 2, 3, 4}>"
            "{ [sum] y = Add(x, w) }",
            "tensorrt-rtx:sm89", InputError, "different types", "Add 'sum'", "Cast",
        ),
        (
            HEAD + "g (float[4] x) => (float[4] y) <float s = {0.1}, int8 z = {3}>"
            "{ [q] a = QuantizeLinear(x, s, z) [d] y = DequantizeLinear(a, s, z) }",
            "tensorrt-rtx:sm89", InputError, "zero point", "QuantizeLinear 'q'", "int8",
        ),
        (
            HEAD + "g (float[4] x) => (float[4] y) <float s = {0.1}, int32[4] b = {1, 2, 3, 4}>"
            "{ [d] a = DequantizeLinear(b, s) y = Add(x, a) }",
            "tensorrt-rtx:sm89", InputError, "INT32 bias", "DequantizeLinear 'd'", "bias",
        ),
        (
            '<ir_version: 10, opset_import: ["" : 21, "own" : 1]>\n'
            "g (float[4] x) => (float[4] y) { [odd] y = own.Odd(x) }",
            "tensorrt-rtx:sm89", InputError, "plugin", "Odd 'odd'", "standard",
        ),
        (
            HEAD + "g (float[N,a] x, float[N,b] z) => (float[N,c] y)"
            "<float[1,4] w = {1, 2, 3, 4}>"
            "{ t = Concat<axis = 1>(x, z) [sum] y = Add(t, w) }",
            "tensorrt-rtx:sm89", BackendError, "contradict", "'sum'", "--opt-shapes",
        ),
    ],
)  # fmt: skip
def test_a_refusal_names_the_cause_the_node_and_the_lever(
    tmp_path: Path,
    text: str,
    target: str,
    kind: type[QCompilerError],
    told: str,
    where: str,
    hint: str,
) -> None:
    model = _save(tmp_path, text)
    with pytest.raises(kind) as caught:
        build(model, tmp_path / "p.plan", parse(target))
    assert told in caught.value.message
    assert "/_src/" not in caught.value.message
    assert where in caught.value.where
    assert hint in caught.value.hint
    assert _names(tmp_path) == {"model.onnx"}


def test_a_workspace_that_is_too_small_is_named(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="no kernel fits") as caught:
        build(RESNET, tmp_path / "p.plan", SM89, options=BuildOptions(workspace=1000))
    assert caught.value.hint == "raise --workspace, or leave it out"


@pytest.mark.parametrize(
    ("flag", "told"),
    [("refit", "driver"), ("strip-plan", "driver"), ("version-compatible", "returns none")],
)
def test_flags_that_rtx_cannot_keep_are_refused_before_anything_runs(
    tmp_path: Path, flag: str, told: str
) -> None:
    assert flag in FLAGS
    with pytest.raises(UnsupportedError, match=told):
        build(tmp_path / "none.onnx", tmp_path / "p", SM89, options=BuildOptions(flags=(flag,)))


@pytest.mark.parametrize(
    "options", [BuildOptions(level=6), BuildOptions(timeout=0.0), BuildOptions(flags=("fast",))]
)
def test_options_out_of_range_are_refused(tmp_path: Path, options: BuildOptions) -> None:
    with pytest.raises(UsageError):
        build(RESNET, tmp_path / "p", SM89, options=options)


def test_a_wrong_name_lists_the_inputs(tmp_path: Path) -> None:
    options = BuildOptions(shapes=Shapes(opt={"image": (1, 3, 32, 32)}))
    with pytest.raises(InputError, match="no input is called 'image'; the inputs are input"):
        build(RESNET, tmp_path / "p.plan", SM89, options=options)
    assert _names(tmp_path) == set()


# What a child writes before it dies or hangs.
_LINES = '{"phase": "parse"}\\n{"phase": "build"}\\n'


@pytest.mark.parametrize(
    ("deed", "told", "hint"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV while building", "report it"),
        ("os._exit(7)", "exit code 7 while building", "report it"),
        ("time.sleep(60)", "not finished after 1.5 s, while building", "--timeout"),
        ("x = bytearray(os.urandom(1)) * 2**28; time.sleep(60)", "more than 128 MiB", "--memory"),
    ],
)
def test_a_child_that_dies_or_grows_ends_as_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, deed: str, told: str, hint: str
) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        f"import os, signal, sys, time\nopen(sys.argv[1], 'w').write('{_LINES}')\n{deed}\n"
    )
    monkeypatch.setattr(tensorrt_process, "_CHILD", child)
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "p.plan").write_bytes(b"old plan")
    (folder / "p.plan.json").write_bytes(b"old facts")

    options = BuildOptions(timeout=1.5, memory=2**27)
    with pytest.raises(BackendError, match=told) as caught:
        build(RESNET, folder / "p.plan", SM89, options=options)
    assert hint in caught.value.hint
    assert _names(folder) == {"p.plan", "p.plan.json"}
    assert (folder / "p.plan").read_bytes() == b"old plan"
    assert (folder / "p.plan.json").read_bytes() == b"old facts"


def test_the_memory_of_a_process_is_seen() -> None:
    before = tensorrt_process.anonymous_bytes(os.getpid())
    held = np.ones(2**23)  # 64 MiB
    after = tensorrt_process.anonymous_bytes(os.getpid())
    assert held.nbytes - 2**22 <= after - before
    assert tensorrt_process.anonymous_bytes(2**22 + 1) == 0  # above the largest pid


@pytest.mark.parametrize("before", [b"old facts", None])
def test_the_pair_is_not_torn_when_the_plan_cannot_take_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bytes | None
) -> None:
    model, plan, facts = _save(tmp_path, MATMUL), tmp_path / "p.plan", tmp_path / "p.plan.json"
    if before is not None:
        facts.write_bytes(before)
    replace = Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if Path(target) == plan:
            raise PermissionError(13, "Permission denied", str(plan))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(PermissionError):
        build(model, plan, SM89)
    assert (facts.read_bytes() if facts.exists() else None) == before
    assert _names(tmp_path) == {"model.onnx", *(["p.plan.json"] if before else [])}


@pytest.mark.parametrize(("name", "told"), [("p.json", "must not end in .json"), ("d", "a folder")])
def test_a_plan_needs_a_name_of_its_own(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(InputError, match=told):
        build(_save(tmp_path, MATMUL), tmp_path / name, SM89)
