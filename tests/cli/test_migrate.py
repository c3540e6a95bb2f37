"""The verb ``migrate``: old flags to commands, old calibration caches to statistics."""

from __future__ import annotations

import io
import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest

from models import build
from qcompiler import plan as products
from tests.cli.conftest import Run, names
from tests.migrate.test_cache import HEADER, text

SOURCE = """
import tensorrt as trt
config.set_flag(trt.BuilderFlag.FP16)
config.set_flag(trt.BuilderFlag.INT8)
config.int8_calibrator = calibrator
config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 32)
"""


def test_a_command_line_gives_commands_and_a_table(run: Run) -> None:
    ran = run("migrate", "trtexec --onnx=m.onnx --fp16 --saveEngine=m.engine --noTF32")
    assert (ran.code, ran.err) == (0, "")
    first, second, *_ = ran.out.splitlines()
    assert first == (
        "python -m qcompiler compile m.onnx --recipe fp16 --target tensorrt -o m.fp16.onnx"
    )
    assert second == "python -m qcompiler build m.fp16.onnx --target tensorrt -o m.engine"
    for word in ("old flag", "what it became", "why", "--noTF32", "1 without an equi"):
        assert word in ran.out


def test_words_behind_two_dashes_and_without_them(run: Run) -> None:
    words = ["trtexec", "--onnx=m.onnx", "--int8", "--workspace=4096"]
    quoted = run("migrate", " ".join(words))
    assert run("migrate", "--", *words) == quoted
    assert run("migrate", *words) == quoted
    assert "--workspace 4GiB" in quoted.out


def test_json_is_one_document(run: Run) -> None:
    ran = run("migrate", "--format", "json", "--target", "tensorrt-rtx:sm120", "--", "--fp16")
    assert (ran.code, ran.err) == (0, "")
    found = ran.document()
    assert found["schema_version"] == 1
    assert (found["source"], found["target"]) == ("trtexec", "tensorrt-rtx:sm120")
    assert found["commands"][-1].endswith("build MODEL.fp16.onnx --target tensorrt-rtx:sm120")
    assert [f["status"] for f in found["flags"]] == ["moved"]
    assert found["not_understood"] == []


def test_an_unknown_flag_ends_with_1_and_is_listed(run: Run) -> None:
    ran = run("migrate", "--format", "json", "trtexec --fp16 --banana --onnx=m.onnx")
    assert ran.code == 1
    assert ran.document()["not_understood"] == ["--banana"]
    ran = run("migrate", "trtexec --fp16 --banana --onnx=m.onnx")
    assert ran.code == 1
    assert "not understood" in ran.out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["hello world"], "only hello, world"),
        (["trtexec"], "no setting of a TensorRT build"),
        (["print(1)"], "no setting of a TensorRT build"),
        ([], "nothing to migrate"),
        (["trtexec --onnx='m"], "no command line"),
        (["none.py"], "cannot read the source"),
        (["--fp16", "--target", "banana"], "not a target"),
        (["--fp16", "--model", "m.onnx"], "belong to --cache"),
        (["--fp16", "--cache", "c"], "not both"),
        (["--cache", "c"], "--model MODEL.onnx"),
        (["--cache", "c", "--model", "m.onnx"], "cannot read the cache"),
    ],
)
def test_what_cannot_be_done_ends_with_2(run: Run, words: list[str], told: str) -> None:
    ran = run("migrate", *words)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err


def test_python_source_is_read_from_a_file_from_standard_input_or_in_quotes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "build_engine.py"
    path.write_text(SOURCE)
    ran = run("migrate", path)
    assert (ran.code, ran.err) == (0, "")
    assert "compile MODEL.onnx --recipe int8+fp16 --target tensorrt --data CALIB.npz" in ran.out
    assert "--workspace 4GiB" in ran.out
    assert run("migrate", SOURCE) == ran
    monkeypatch.setattr("sys.stdin", io.StringIO(SOURCE))
    assert run("migrate", "-") == ran


def test_python_source_is_never_run(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "s.py"
    mark = tmp_path / "ran"
    path.write_text(f"open({str(mark)!r}, 'w').close()\nconfig.set_flag(trt.BuilderFlag.FP16)\n")
    assert run("migrate", path).code == 0
    assert names(tmp_path) == ["s.py"]


def test_a_model_that_has_quantizers_is_not_quantized_again(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(build.load("int8_already"), path)
    found = run("migrate", "--format", "json", f"--onnx={path}", "--int8").document()
    assert [shlex.split(c)[3] for c in found["commands"]] == ["build"]


def test_the_commands_run_and_give_the_scales_of_the_cache(run: Run, mlp: Path) -> None:
    """End to end: trtexec with an old cache, each printed command, and the plan."""
    plan = mlp.with_name("plan.json")
    assert run("plan", mlp, "-o", plan).code == 0
    tensors = [d.tensor for d in products.read(plan, products.QuantPlan).activations]
    drawn = np.random.default_rng(0).uniform(0.001, 1, len(tensors)).astype(np.float32)
    scales = {t: float(s) for t, s in zip(tensors, drawn, strict=True)}
    cache = mlp.with_name("calib.cache")
    cache.write_text(text(scales))
    old = f"trtexec --onnx={mlp} --int8 --calib={cache} --saveEngine={mlp.with_name('m.engine')}"
    found = run("migrate", "--format", "json", "--target", "tensorrt-rtx:sm89", old).document()
    for command in found["commands"]:
        *start, verb = shlex.split(command)[:4]
        assert start == ["python", "-m", "qcompiler"]
        words = [verb, *shlex.split(command)[4:]]
        # So small a network is faster in FP32, and would be left there.
        ran = run(*words, *(["--force"] if verb == "compile" else []))
        assert ran.code == 0, ran.err
    assert {"mlp.stats.npz", "mlp.int8.onnx", "m.engine", "m.engine.json"} <= {*names(mlp.parent)}
    written = onnx.load(mlp.with_name("mlp.int8.onnx"))
    constants = {i.name: onnx.numpy_helper.to_array(i) for i in written.graph.initializer}
    quantizers = {n.input[0]: n for n in written.graph.node if n.op_type == "QuantizeLinear"}
    assert {t: float(constants[quantizers[t].input[1]]) for t in tensors} == scales


def test_a_cache_that_lacks_tensors_says_which(run: Run, mlp: Path) -> None:
    cache = mlp.with_name("calib.cache")
    cache.write_text(text({"x": 0.5, "other": 1.0}))
    ran = run("migrate", "--cache", cache, "--model", mlp)
    assert ran.code == 0
    assert HEADER in ran.out
    assert "2 entries, 1 not needed" in ran.out
    ran = run("migrate", "--cache", cache, "--model", mlp, "--overwrite", "--format", "json")
    found = ran.document()
    assert found["scales"] == {"x": 0.5}
    assert found["missing"]
    assert json.loads(ran.out)["left_in_float"]


def test_outputs_are_not_replaced_unless_told(run: Run, mlp: Path) -> None:
    cache = mlp.with_name("calib.cache")
    cache.write_text(text({"x": 0.5}))
    output = mlp.with_name("mlp.stats.npz")
    output.write_text("mine")
    assert run("migrate", "--cache", cache, "--model", mlp).code == 2
    assert output.read_text() == "mine"


def test_the_same_cache_gives_the_same_bytes(run: Run, mlp: Path, tmp_path: Path) -> None:
    cache = mlp.with_name("calib.cache")
    cache.write_text(text({"x": 0.5}))
    for name in ("a.npz", "b.npz"):
        assert run("migrate", "--cache", cache, "--model", mlp, "-o", tmp_path / name).code == 0
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
