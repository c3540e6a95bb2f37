"""The engine inspector's JSON, in both layouts, becomes the same layers as the listing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import onnx
import onnx.parser
import pytest

from qcompiler.engine import inspector
from qcompiler.engine.listing import Layer, Listing, Memory, Tensor
from qcompiler.engine.precision import products
from qcompiler.engine.report import engine_report
from qcompiler.errors import InputError
from tests.engine import engines

# An INT8 Conv + ReLU, its Q, and a Conv that fell back, as TensorRT 10 and 11 write them.
OLD, NEW = (
    Path(__file__).with_name(f"inspector_{major}.json").read_text(encoding="utf-8")
    for major in (10, 11)
)

# The text form of ONNX writes float16 as its bits: 0.05, 0.01 and 1.
MODEL = """
<ir_version: 10, opset_import: ["" : 21]>
g (float16[8,4,16,16] x) => (float16[8,2,16,16] y)
<float16 s = {10854}, int8 z = {0}, float16 ws = {8479}, int8[6,4,3,3] w = {WEIGHTS},
 float16[2,6,1,1] v = {ONES}>
{
  [quantize_x] xq = QuantizeLinear(x, s, z)
  [dequantize_x] xd = DequantizeLinear(xq, s, z)
  [dequantize_w] wd = DequantizeLinear(w, ws, z)
  [conv1] c = Conv<pads = [1, 1, 1, 1]>(xd, wd)
  [relu1] r = Relu(c)
  [conv2] d = Conv(r, v)
  [sigmoid] y = Sigmoid(d)
}
""".replace("WEIGHTS", ", ".join(["1"] * 216)).replace("ONES", ", ".join(["15360"] * 12))


def test_the_old_layout() -> None:
    reformat, conv, last = inspector.parse(OLD)
    assert (reformat.kind, reformat.onnx_nodes) == ("reformat", ("quantize_x",))
    assert [t.dtype for t in (*reformat.inputs, *reformat.outputs)] == ["Half", "Int8"]
    assert conv == Layer(
        name="weight + quantize_w + conv1 + relu1",
        kind="convolution",
        inputs=(
            Tensor(
                "xq",
                (8, 4, 16, 16),
                "Int8",
                "Thirty-two wide channel vectorized row major Int8 format",
            ),
        ),
        constants=(
            Tensor("Weights", (6, 4, 3, 3), "Int8", ""),
            Tensor("Bias", (6,), "Float", ""),
        ),
        outputs=(
            Tensor("r", (8, 6, 16, 16), "Half", "Channel major FP16 format where channel % 8 == 0"),
        ),
        onnx_nodes=("dequantize_w", "conv1", "relu1"),
    )
    assert last.onnx_nodes == ("conv2", "sigmoid", "mul")  # no metadata: from the name
    assert last.constants == (Tensor("Weights", (2, 6, 1, 1), "Half", ""),)


def test_the_new_layout() -> None:
    quantize, conv = inspector.parse(NEW)
    assert (quantize.kind, conv.kind) == ("kgen", "correlation")
    assert quantize.inputs[0].format == "Row major linear FP16 format (kLINEAR)"
    assert quantize.outputs == (
        Tensor("xq", (-1, 4, 16, 16), "Int8", "Row major", (1024, 256, 16, 1)),
    )
    assert quantize.constants == (Tensor("s", (), "Half", "Row major"),)
    assert conv.constants == (Tensor("w", (6, 4, 3, 3), "Int8", "Row major"),)
    assert conv.onnx_nodes == ("dequantize_w", "conv1", "relu1")


def test_the_report_joins_it_with_the_model(tmp_path: Path) -> None:
    model, found = tmp_path / "m.onnx", tmp_path / "layers.json"
    onnx.save(onnx.parser.parse_model(MODEL), model)
    found.write_text(OLD)
    report = inspector.inspected(found, model).report
    first, second = report.linear
    assert (first.node, first.precision, first.reason) == ("conv1", "int8", "")
    assert (second.node, second.precision, second.quantized) == ("conv2", "fp16", "")
    assert first.macs == 8 * 16 * 16 * 6 * 4 * 9
    assert report.kinds == {"convolution": 2, "reformat": 1}
    assert report.movement == ("Reformatting CopyNode for Input Tensor 0 to quantize_x",)
    # x, xq, its copy's reader, the constants and r, in bytes
    image = 8 * 16 * 16
    assert report.bytes_read == 2 * 4 * image + 4 * image + 216 + 24 + 2 * 6 * image + 24
    assert report.bytes_written == 4 * image + 2 * 6 * image + 2 * 2 * image


def test_without_the_model_kernels_are_still_told(tmp_path: Path) -> None:
    found = tmp_path / "layers.json"
    found.write_text(OLD)
    told = inspector.inspected(found)
    assert (told.report.linear, told.report.quantizers, told.report.macs) == ((), (), 0)
    assert told.report.kernels == 3
    assert products(told.layers) == {"fp16": 1, "int8": 1}


def spell(layer: Layer, *, new: bool) -> dict[str, Any]:
    """A layer of the listing as the inspector writes it."""

    def tensor(t: Tensor) -> dict[str, Any]:
        said: dict[str, Any] = {"Name": t.name, "Dimensions": t.dims, "Strides": t.strides}
        if new:
            return said | {"Format": t.format, "Datatype": t.dtype}
        return said | {"Format/Datatype": t.dtype}

    return {
        "Name": layer.name,
        "LayerType": layer.kind,
        "Inputs": [tensor(t) for t in layer.inputs],
        "Constants": [tensor(t) for t in layer.constants],
        "Outputs": [tensor(t) for t in layer.outputs],
        "Metadata": "\x1f".join(f"[ONNX Layer: {n}]" for n in layer.onnx_nodes),
    }


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("name", ["residual", "depthwise"])
def test_a_real_engine_reads_alike_from_its_listing_and_from_the_inspector(
    name: str, new: bool
) -> None:
    listing = engines.listing(name)
    text = json.dumps({"Layers": [spell(layer, new=new) for layer in listing.layers]})
    found = inspector.parse(text)

    def plain(layers: tuple[Layer, ...]) -> list[Any]:
        strip = msgspec.structs.replace
        return [
            strip(n, **{k: tuple(strip(t, format="") for t in getattr(n, k)) for k in KINDS})
            for n in layers
        ]

    assert plain(found) == plain(listing.layers)
    ours = engine_report(Listing(found, Memory(0, 0, 0)), engines.model(name))
    theirs = msgspec.structs.replace(engines.report(name), memory=Memory(0, 0, 0))
    assert ours == theirs


KINDS = ("inputs", "constants", "outputs")


@pytest.mark.parametrize(
    ("said", "dtype"),
    [
        ("Row major linear FP32 format (kLINEAR)", "Float"),
        ("Row major linear FP32", "Float"),
        ("Row major linear INT8 format (kLINEAR)", "Int8"),
        ("Row major linear UINT8 format (kLINEAR)", "UInt8"),
        ("Row major linear INT64 format (kLINEAR)", "Int64"),
        ("Row major linear FP4 format (kLINEAR)", "FP4E2M1"),
        ("Channel major INT8 format where channel == 4 and column stride % 32 == 0", "Int8"),
        ("Thirty-two wide channel vectorized row major FP16 format (kCDHW32) with 3 s", "Half"),
        ("Four wide channel vectorized row major FP32 format", "Float"),
        ("Row major linear BF16 format", "BFloat16"),
        ("Row major linear UInt8 format", "UInt8"),
        ("Row major INT32 format", "Int32"),
        ("Row major linear Int64 format", "Int64"),
        ("Row major linear BOOL", "Bool"),
        ("Row major linear FP8 format", "FP8"),
        ("FP8UE8M0", "FP8UE8M0"),
        ("Row major linear Int4 format", "Int4"),
        ("FP4E2M1", "FP4E2M1"),
        ("Half", "Half"),
    ],
)
def test_types_are_found_in_prose(said: str, dtype: str) -> None:
    tensor = {"Name": "x", "Dimensions": [1], "Format/Datatype": said}
    layer = {"Name": "l", "LayerType": "kgen", "Inputs": [tensor], "Outputs": []}
    (found,) = inspector.parse(json.dumps({"Layers": [layer]}))
    assert found.inputs[0].dtype == dtype


def test_names_of_nodes_may_hold_brackets_and_marks() -> None:
    said = (
        "[ONNX Layer: a[0]]\x1f[ONNX Layer: b]__gemm_from_conv1x1\x1e[ONNX Layer: c][ONNX Layer: d]"
    )
    layer = {"Name": "l", "LayerType": "kgen", "Inputs": [], "Outputs": [], "Metadata": said}
    (found,) = inspector.parse(json.dumps({"Layers": [layer]}))
    assert found.onnx_nodes == ("a[0]", "b", "c", "d")


@pytest.mark.parametrize("raw", ["\x1e", "\x1f"])
def test_separators_may_stand_unescaped(raw: str) -> None:
    text = NEW.replace("\\u001f", raw)
    assert raw in text
    assert inspector.parse(text)[1].onnx_nodes == ("dequantize_w", "conv1", "relu1")


TENSOR = {"Name": "x", "Dimensions": [1], "Datatype": "Float"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not the JSON"),
        ("{", "not the JSON"),
        ("[]", "no layers"),
        ('{"Layers": []}', "no layers"),
        ('{"Layers": {"a": 1}}', "no layers"),
        ('{"Layers": ["conv1", "conv2"], "Bindings": ["x"]}', "only the names"),
        ('{"Layers": [{"Name": "conv1"}]}', "only the names"),
        (
            json.dumps({"Layers": [{"LayerType": "k", "Inputs": [TENSOR | {"Datatype": "Odd"}]}]}),
            "no known data type in 'Odd'",
        ),
        (json.dumps({"Layers": [{"LayerType": "k", "Inputs": [{"Name": "x"}]}]}), "Dimensions"),
        (json.dumps({"Layers": [{"LayerType": "k", "Outputs": [3]}]}), "unknown form"),
        (json.dumps({"Layers": [{"LayerType": "k", "Outputs": 3}]}), "unknown form"),
    ],
)
def test_what_cannot_be_read_is_the_files_fault(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "layers.json"
    path.write_text(text)
    with pytest.raises(InputError, match=told) as caught:
        inspector.read(path)
    assert str(path) in caught.value.where


def test_a_plan_is_not_its_inspectors_json(tmp_path: Path) -> None:
    path = tmp_path / "m.plan"
    path.write_bytes(b"ptrt\xff\x00")
    with pytest.raises(InputError, match="not the JSON") as caught:
        inspector.read(path)
    assert "--exportLayerInfo" in caught.value.hint
    with pytest.raises(InputError, match="No such file"):
        inspector.read(tmp_path / "none.json")
