"""What each verb does, writes and prints."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest

from models import build
from qcompiler import formats, lint, targets
from qcompiler import plan as products
from qcompiler import recipe as recipes
from qcompiler.calibrate import Statistics
from qcompiler.data.synthetic import WARNING
from qcompiler.numerics.ranges import METHODS
from qcompiler.pipeline import find_pass, pass_names
from qcompiler.plan import Points, QuantPlan
from qcompiler.report import Report
from tests.cli.conftest import Run, names
from tests.hand_made import normal
from tests.lint.fixtures import HERE, read


def _data(folder: Path, samples: int = 9) -> Path:
    path = folder / "calib.npz"
    np.savez(path, x=normal("data", (32 * samples, 64)))
    return path


# ---------------------------------------------------------------------- compile


@pytest.mark.parametrize("verb", [("compile",), ()])
def test_compile_writes_beside_the_model_and_prints_half_a_page(
    run: Run, mlp: Path, verb: tuple[str, ...]
) -> None:
    before = mlp.read_bytes(), mlp.stat().st_mtime_ns
    ran = run(*verb, mlp)
    assert ran.code == 0
    assert names(mlp.parent) == ["mlp.int8+fp16.onnx", "mlp.onnx"]
    assert (mlp.read_bytes(), mlp.stat().st_mtime_ns) == before
    assert "quantized  3 of 3 linear nodes, 100.0% of MACs, 100.0% of weight bytes" in ran.out
    assert "output y   SQNR" in ran.out
    assert "DequantizeLinear" in ran.out
    assert len(ran.out.splitlines()) < 40


def test_the_synthetic_warning_comes_first_and_last(run: Run, mlp: Path) -> None:
    ran = run(mlp)
    assert f"warning: {WARNING}" in ran.err
    assert WARNING in ran.out.splitlines()[-1] or WARNING in ran.out.splitlines()[-2]
    written = onnx.load(mlp.with_name("mlp.int8+fp16.onnx"))
    assert {p.key: p.value for p in written.metadata_props}["qcompiler.warning"] == WARNING


def test_real_data_bring_no_warning(run: Run, mlp: Path) -> None:
    ran = run(mlp, "--data", _data(mlp.parent))
    assert (ran.code, ran.err) == (0, "")
    assert "warning" not in ran.out
    assert "calib.npz: 8 samples, 1 held out to verify" in ran.out


def test_json_is_one_document_and_alone_on_standard_output(run: Run, mlp: Path) -> None:
    report = mlp.with_name("report.json")
    ran = run(mlp, "--format", "json", "--report", report)
    document = ran.document()
    assert json.loads(report.read_text()) == document
    assert document["synthetic"] is True
    assert WARNING in document["warnings"]
    assert f"warning: {WARNING}" in ran.err
    assert document["output"] == str(mlp.with_name("mlp.int8+fp16.onnx"))
    assert document["bytes_after"] == mlp.with_name("mlp.int8+fp16.onnx").stat().st_size
    found = msgspec.json.decode(ran.out, type=Report)
    assert found.coverage.nodes == 3


def test_equal_outputs_are_numbers_in_json(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "int8_already.onnx"
    onnx.save(build.load("int8_already"), path)
    np.savez(tmp_path / "x.npz", x=normal("data", (3, 16, 16, 16)))
    ran = run(path, "--data", tmp_path / "x.npz", "--format", "json", "--recipe", "int8")
    assert [o["sqnr_db"] for o in ran.document()["outputs"]] == [999.0]
    text = run(path, "--data", tmp_path / "x.npz", "--recipe", "int8", "--overwrite").out
    assert "SQNR equal, cosine 1.00000  (ONNX Runtime optimized: equal)" in text


def test_exclude_target_and_output(run: Run, mlp: Path) -> None:
    out = mlp.with_name("o.onnx")
    ran = run(
        mlp,
        "-o",
        out,
        "--exclude",
        "/fc1/*",
        "/fc3/*",
        "--target",
        "tensorrt-rtx-1.7:sm86",
        "--force",
        "--format",
        "json",
    )
    document = ran.document()
    assert document["target"] == "tensorrt-rtx-1.7:sm86"
    assert document["skipped"] == {
        "/fc1/MatMul": "excluded by '/fc1/*'",
        "/fc3/Gemm": "excluded by '/fc3/*'",
    }
    assert names(mlp.parent) == ["mlp.onnx", "o.onnx"]


def test_a_recipe_from_a_file_names_the_output(run: Run, mlp: Path) -> None:
    recipe = mlp.with_name("plain.toml")
    recipe.write_text('name = "plain"\nrange = "minmax"\n')
    assert run(mlp, "--recipe", recipe).code == 0
    assert mlp.with_name("mlp.plain.onnx").exists()


def test_eval_shows_the_metric(run: Run, tmp_path: Path) -> None:
    script = tmp_path / "score.py"
    script.write_text(
        "import numpy as np\n"
        "def spread(run):\n"
        "    x = np.linspace(-1, 1, 2048, dtype=np.float32).reshape(32, 64)\n"
        "    return 'spread', run({'x': x})['y'].std()\n"
    )
    path = tmp_path / "mlp.onnx"
    onnx.save(build.load("mlp"), path)
    ran = run(path, "--eval", f"{script}:spread", "--format", "json")
    metric = ran.document()["metric"]
    assert metric["name"] == "spread"
    assert metric["before"] > 0
    assert metric["after"] == pytest.approx(metric["before"], rel=0.05)


def test_two_runs_write_the_same_bytes(run: Run, mlp: Path) -> None:
    outputs = [mlp.with_name(f"{n}.onnx") for n in "ab"]
    for out in outputs:
        assert run(mlp, "-o", out).code == 0
    assert outputs[0].read_bytes() == outputs[1].read_bytes()


# ---------------------------------------------------------------------- step by step


def test_every_step_by_hand_gives_the_bytes_of_compile(run: Run, mlp: Path) -> None:
    folder = mlp.parent
    data = _data(folder)
    assert run(mlp, "--data", data, "--keep", folder / "kept", "-o", folder / "all.onnx").code == 0
    assert names(folder / "kept") == ["plan.json", "points.json", "prepared.onnx", "stats.npz"]
    expected = (folder / "all.onnx").read_bytes()

    stats, plan = folder / "s.npz", folder / "p.json"
    assert run("calibrate", mlp, "--data", data, "-o", stats).code == 0
    assert run("plan", mlp, "--stats", stats, "-o", plan).code == 0
    assert run("apply", mlp, "--plan", plan, "-o", folder / "steps.onnx").code == 0
    assert (folder / "steps.onnx").read_bytes() == expected
    kept = folder / "kept"
    assert Statistics.read(stats) == Statistics.read(kept / "stats.npz")
    assert plan.read_bytes() == (kept / "plan.json").read_bytes()
    assert products.read(kept / "points.json", Points).weights

    assert run(mlp, "--stats", kept / "stats.npz", "-o", folder / "a.onnx").code == 0
    assert run(mlp, "--plan", kept / "plan.json", "-o", folder / "b.onnx").code == 0
    assert run("apply", kept / "prepared.onnx", "--plan", plan, "-o", folder / "c.onnx").code == 0
    for name in ("a", "b", "c"):
        assert (folder / f"{name}.onnx").read_bytes() == expected, name


def test_an_edited_plan_is_what_apply_does(run: Run, mlp: Path) -> None:
    plan, out = mlp.with_name("p.json"), mlp.with_name("o.onnx")
    assert run("plan", mlp, "-o", plan).code == 0
    document = json.loads(plan.read_text())
    document["skipped"]["/fc2/Gemm"] = "I say so"
    document["activations"][0]["scale"] = 0.25
    plan.write_text(json.dumps(document))
    ran = run("apply", mlp, "--plan", plan, "-o", out)
    assert "2 linear nodes quantized, 1 left in float" in ran.out
    assert f"warning: {WARNING}" in ran.out
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(out).graph.initializer}
    assert float(constants["x_scale"]) == 0.25
    assert constants["fc2.weight"].dtype == np.float16


def test_calibrate_says_what_it_saw(run: Run, mlp: Path) -> None:
    ran = run("calibrate", mlp, "--data", _data(mlp.parent), "--recipe", "int8")
    assert mlp.with_name("mlp.stats.npz").exists()
    assert "mlp.stats.npz: 3 tensors, 8 samples, 1 held out, from" in ran.out


def test_plan_shows_every_node_with_its_reason(run: Run, mlp: Path) -> None:
    ran = run("plan", mlp, "--exclude", "/fc1/*")
    lines = ran.out.splitlines()
    assert any(line.startswith("/fc1/MatMul") and "excluded by '/fc1/*'" in line for line in lines)
    for node in ("/fc2/Gemm", "/fc3/Gemm"):
        roles = {line.split()[1] for line in lines if line.startswith(node)}
        assert roles == {"activation", "weight"}
    assert names(mlp.parent) == ["mlp.onnx"]


def test_plan_as_json_is_the_plan(run: Run, mlp: Path) -> None:
    out = mlp.with_name("p.json")
    ran = run("plan", mlp, "--format", "json", "-o", out)
    assert ran.out == out.read_text()
    assert products.read(out, QuantPlan).recipe == "int8+fp16"


# ---------------------------------------------------------------------- lint, passes, explain


def _zero_scale(folder: Path) -> Path:
    proto = build.load("int8_already")
    for tensor in proto.graph.initializer:
        if tensor.name == "conv1.weight_scale":
            values = onnx.numpy_helper.to_array(tensor).copy()
            values[3] = 0
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    path = folder / "zero.onnx"
    onnx.save(proto, path)
    return path


def test_lint_finds_a_zero_scale(run: Run, tmp_path: Path) -> None:
    """As a rule of the target, and where it has none, against the Q/DQ specification."""
    path = _zero_scale(tmp_path)
    ran = run("lint", path)
    assert ran.code == 1
    line = "TRT006 conv1.weight_DequantizeLinear: has a scale that is not positive (parser rejects)"
    assert line in ran.out
    assert "  help: give dead channels a positive scale" in ran.out
    assert "2 findings" in ran.out  # the other: its base is FP32
    for target, code in (("tensorrt-rtx:sm89", "TRT006"), ("onnxruntime", "QC010")):
        ran = run("lint", path, "--target", target, "--format", "json")
        assert ran.code == 1
        finding, *others = ran.document()["findings"]
        assert (finding["code"], finding["where"]) == (code, "conv1.weight_DequantizeLinear")
        assert {f["code"] for f in others} <= {"TRT038"}


def test_lint_as_sarif(run: Run, tmp_path: Path) -> None:
    path = _zero_scale(tmp_path)
    (log,) = run("lint", path, "--format", "sarif").document()["runs"]
    result, base = log["results"]
    assert (result["ruleId"], result["level"]) == ("TRT006", "error")
    assert (base["ruleId"], base["level"]) == ("TRT038", "note")
    (place,) = result["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == str(path)
    assert place["logicalLocations"] == [{"fullyQualifiedName": "conv1.weight_DequantizeLinear"}]
    assert [rule["id"] for rule in log["tool"]["driver"]["rules"]] == list(lint.codes())


def test_lost_fusions_alone_are_no_error(run: Run, tmp_path: Path) -> None:
    fixture = read(HERE / "TRT022" / "bad.txt")
    path = tmp_path / "m.onnx"
    onnx.save(fixture.model, path)
    ran = run("lint", path, "--target", "tensorrt-rtx")
    assert ran.code == 0
    assert "TRT022 node_of_y: only its weight is quantized (loses fusion)" in ran.out


def test_lint_fix_writes_a_model_that_is_clean(run: Run, tmp_path: Path) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "fixed.onnx"
    onnx.save(read(HERE / "TRT001" / "bad.txt").model, path)
    before = path.read_bytes()
    ran = run("lint", path, "--fix", out)
    assert (ran.code, ran.err) == (0, "")
    assert "fixed node_of_bf: INT32 bias stored as float" in ran.out
    assert "TRT038 node_of_y: 1 of 1 linear operators give float32 (advice)" in ran.out
    assert f"{out}: 1 finding" in ran.out
    assert path.read_bytes() == before
    assert run("lint", out).code == 0
    ran = run("lint", path, "--fix", out)
    assert ran.code == 2
    assert "the file exists" in ran.err
    assert run("lint", path, "--fix", path, "--overwrite").code == 2


def test_lint_refuses_an_unknown_target(run: Run, mlp: Path) -> None:
    assert run("lint", mlp, "--target", "tensorrt-rtx:sm1").code == 2
    assert run("lint", mlp, "--target", "nothing").code == 2


def test_lint_says_what_was_not_verified(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(read(HERE / "TRT041" / "bad.txt").model, path)
    line = "TRT041 node_of_a: adds a float tensor to node_of_c (loses fusion, unverified here)"
    ran = run("lint", path, "--target", "tensorrt-11.4:sm90")
    assert (ran.code, ran.out.splitlines()[0]) == (0, line)
    (finding,) = run("lint", path, "--format", "json").document()["findings"]
    assert (finding["code"], finding["verified"]) == ("TRT041", "unverified here")
    assert "verified: unverified here" in run("explain", "TRT041").out


def test_lint_reads_a_trtexec_command_line(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(read(HERE / "TRT059" / "bad.txt").model, path)
    options = ("--target", "tensorrt-10.13", "--command")
    ran = run("lint", path, *options, "trtexec --onnx='a b.onnx' --versionCompatible --refit")
    assert ran.code == 0
    assert "TRT059 trtexec: --refit keeps requantizations in the engine (advice" in ran.out
    assert "TRT059 trtexec: --versionCompatible leaves fewer kernels" in ran.out
    assert (
        "TRT060 trtexec: measures without --useCudaGraph, --noDataTransfers, --useSpinWait, "
        "--timingCacheFile" in ran.out
    )
    newer = run("lint", path, "--target", "tensorrt-11.4", "--command", "trtexec --onnx=a.onnx")
    assert "TRT060 trtexec: measures without --timingCacheFile (" in newer.out
    refused = run("lint", path, *options, "trtexec 'open")
    assert refused.code == 2
    assert "close every quote in it" in refused.err


def test_lint_of_a_sound_model(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(build.load("mlp"), path)
    assert run("lint", path) == (0, f"{path}: 0 findings\n", "")
    assert run("lint", path, "--format", "json").document()["findings"] == []


def test_passes_lists_every_pass(run: Run) -> None:
    rows = run("passes", "--format", "json").document()
    assert [r["name"] for r in rows] == list(pass_names())
    text = run("passes").out
    for row in rows:
        cls = find_pass(row["name"])
        assert (row["phase"], row["effect"]) == (cls.phase, cls.effect.name)
        assert row["summary"]
        assert row["name"] in text
        assert row["summary"] in text


EXPLAINED = [
    *(("pass", n) for n in pass_names()),
    *(("range method", n) for n in METHODS),
    *(("target", n) for n in targets.names()),
    *(("recipe", n) for n in recipes.names()),
    *(("format", n) for n in formats.names()),
    *(("lint rule", n) for n in lint.codes()),
]


@pytest.mark.parametrize(("kind", "name"), EXPLAINED)
def test_explain_prints_the_documentation(run: Run, kind: str, name: str) -> None:
    ran = run("explain", name)
    assert ran.code == 0
    assert f"{kind} {name}" in ran.out
    assert "object at 0x" not in ran.out
    assert len(ran.out) > 100


def test_explain_a_target_shows_its_rows_with_their_sources(run: Run) -> None:
    text = run("explain", "tensorrt-rtx").out
    for row in targets.find("tensorrt-rtx").rows:
        assert f"{row.note}  [{row.source}; {row.verified or row.confidence}]" in text
        assert row.verdict in text
    assert "float16 base" in text
    assert "sm75" in text
    assert "anything else is unknown" in text


def test_explain_a_name_of_two_things_shows_both(run: Run) -> None:
    text = run("explain", "int8").out
    assert "recipe int8" in text
    assert "search_weights = true" in text
    assert "format int8" in text
    assert "codes -128 to 127" in text


def test_explain_something_unknown(run: Run) -> None:
    ran = run("explain", "nothing")
    assert (ran.code, ran.out) == (2, "")
    assert "error: nothing is called 'nothing'" in ran.err
    assert "fold-constants" in ran.err
