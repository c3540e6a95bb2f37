"""The real parser and builder as a judge: what it accepts, what it refuses and why."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import onnx.parser
import pytest

from qcompiler.backends import tensorrt, tensorrt_process
from qcompiler.errors import BackendError, InputError

CONV = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[1,4,8,8] x) => (float[1,2,8,8] y)
<float s = {0.05}, int8 z = {ZERO_POINT}, float[2] ws = {0.01, 0.02}, int8[2] wz = {0, 0},
 int8[2,4,1,1] w = {1, 2, 3, 4, 5, 6, 7, 8}BIAS>
{
  [quantize_x] xq = QuantizeLinear(x, s, z)
  [dequantize_x] xd = DequantizeLinear(xq, s, z)
  [dequantize_w] wd = DequantizeLinear<axis = 0>(w, ws, wz)
  LAST
}
"""

MATMUL = """
<ir_version: 10, opset_import: ["" : 21]>
g (float[N,K] x, float[N,past] a, float[N,total] b) => (float[N,total] y)
{ c = Concat<axis = 1>(a, x)
  y = Add(b, c) }
"""

BIAS = ", int32[2] b = {1, 2}, float[2] bs = {0.1, 0.1}, int32[2] bz = {0, 0}"
DEQUANTIZED_BIAS = """
  [dequantize_b] bd = DequantizeLinear<axis = 0>(b, bs, bz)
  [conv] y = Conv(xd, wd, bd)"""


def save(folder: Path, text: str) -> Path:
    """Write a model in ONNX text to a file."""
    path = folder / "model.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def conv(folder: Path, *, zero_point: int = 0, bias: bool = False) -> Path:
    """A 1x1 Conv with Q/DQ on the activation and a per-channel INT8 weight."""
    text = CONV.replace("ZERO_POINT", str(zero_point)).replace("BIAS", BIAS if bias else "")
    return save(
        folder, text.replace("LAST", DEQUANTIZED_BIAS if bias else "[conv] y = Conv(xd, wd)")
    )


@pytest.mark.parametrize("capability", ["SM86", "SM120"])
def test_builds_a_quantized_conv(tmp_path: Path, capability: str) -> None:
    verdict = tensorrt.build(conv(tmp_path), capability=capability)

    assert (verdict.accepted, verdict.stage, verdict.errors, verdict.log) == (True, "built", (), "")
    assert verdict.plan_bytes > 8  # more than the weight's own bytes
    assert verdict.library.startswith("tensorrt-rtx 1.")


def test_lists_the_layers_with_their_types_and_without_the_path(tmp_path: Path) -> None:
    log = tensorrt.build(conv(tmp_path), keep_log=True).log

    listing = log[log.index("Layers:") :]
    layer = next(line for line in listing.splitlines() if "LayerType: correlation" in line)
    assert "Datatype: Int8" in layer
    assert "[ONNX Layer: conv]" in layer
    assert str(tmp_path) not in log


def test_refuses_a_zero_point_with_the_node_name(tmp_path: Path) -> None:
    verdict = tensorrt.build(conv(tmp_path, zero_point=3))

    assert (verdict.accepted, verdict.stage, verdict.plan_bytes) == (False, "parse", 0)
    assert any("quantize_x" in error and "zero" in error.lower() for error in verdict.errors)


def test_refuses_an_int32_bias_behind_dequantize(tmp_path: Path) -> None:
    verdict = tensorrt.build(conv(tmp_path, bias=True))

    assert (verdict.accepted, verdict.stage) == (False, "parse")
    assert any("dequantize_b" in error for error in verdict.errors)


def test_refuses_a_type_the_card_lacks_in_the_builder(tmp_path: Path) -> None:
    text = """
<ir_version: 10, opset_import: ["" : 21]>
g (bfloat16[4,4] x) => (bfloat16[4,4] y) { y = Relu(x) }
"""
    model = save(tmp_path, text)

    refused = tensorrt.build(model, capability="SM75")
    assert (refused.accepted, refused.stage) == (False, "build")
    assert refused.errors
    assert tensorrt.build(model, capability="SM80").accepted


@pytest.mark.parametrize("content", [b"", b"hello world", b"\x08\x0a"])
def test_bytes_without_a_network_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)

    verdict = tensorrt.build(path)

    assert (verdict.accepted, verdict.stage) == (False, "parse")
    assert len(verdict.errors) >= 1


def test_given_shapes_satisfy_a_relation_between_symbols(tmp_path: Path) -> None:
    model = save(tmp_path, MATMUL)

    by_default = tensorrt.build(model)
    assert (by_default.accepted, by_default.stage) == (False, "build")  # K + past = 128, total = 64
    given = {"x": (2, 5), "a": (2, 7), "b": (2, 12)}
    assert tensorrt.build(model, shapes=given).accepted


def test_a_shape_fixes_its_symbols_in_the_other_inputs(tmp_path: Path) -> None:
    model = save(tmp_path, MATMUL.replace("float[N,total] b", "float[N,12] b"))

    assert tensorrt.build(model, shapes={"x": (2, 5), "a": (2, 7)}).accepted
    assert not tensorrt.build(model, shapes={"x": (2, 5), "a": (2, 8)}).accepted


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        ({"image": (1, 4, 8, 8)}, "no input is called 'image'; the inputs are x"),
        ({"x": (1, 4, 8)}, r"input 'x' has the shape \[1, 4, 8, 8\] .*; \[1, 4, 8\] does not fit"),
        ({"x": (2, 4, 8, 8)}, r"\[2, 4, 8, 8\] does not fit"),
    ],
)
def test_wrong_shapes_are_the_callers_error(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        tensorrt.build(conv(tmp_path), shapes=shapes)


def test_a_missing_file_and_an_unknown_capability_are_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such model file"):
        tensorrt.build(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="unknown compute capability 'SM12'"):
        tensorrt.build(conv(tmp_path), capability="SM12")


def test_a_timeout_is_a_verdict(tmp_path: Path) -> None:
    verdict = tensorrt.build(conv(tmp_path), timeout=0.001)

    assert (verdict.accepted, verdict.stage) == (False, "timeout")
    assert "0.001 s" in verdict.errors[0]


@pytest.mark.parametrize(
    ("death", "told"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV while building"),
        ("os._exit(7)", "exit code 7 while building"),
    ],
)
def test_a_crash_is_a_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, death: str, told: str
) -> None:
    child = tmp_path / "child.py"
    child.write_text(
        "import os, signal, sys\n"
        """open(sys.argv[1], "w").write('{"phase": "parse"}\\n{"phase": "build"}\\n{"pha')\n"""
        f"{death}\n"
    )
    # Known crashes of the real library are bugs that a release may mend; this child surely dies.
    monkeypatch.setattr(tensorrt_process, "_CHILD", child)

    verdict = tensorrt.build(conv(tmp_path))

    assert (verdict.accepted, verdict.stage, verdict.plan_bytes) == (False, "crash", 0)
    assert told in verdict.errors[0]


def test_a_missing_library_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = conv(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)

    assert not tensorrt.available()
    with pytest.raises(BackendError, match=r"pip install 'onnx-qcompiler\[rtx\]'"):
        tensorrt.build(model)


def test_a_library_that_does_not_load_is_a_backend_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "tensorrt_rtx.py").write_text(
        "raise OSError('libnvinfer.so: cannot open shared object file')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(broken))

    with pytest.raises(BackendError, match=r"does not load: libnvinfer\.so"):
        tensorrt.build(conv(tmp_path))
