"""Hostile and damaged files: one clear error each, before anything is allocated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper, parser

from qcompiler.emit import emit
from qcompiler.errors import InputError
from qcompiler.load import load

GOOD = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x) => (float[N,2] y) <float[2] k = {1, 2}> { y = Add (x, k) }"""


def good() -> ModelProto:
    return parser.parse_model(GOOD)


def refused(source: Path | bytes | ModelProto, message: str) -> InputError:
    """Loading fails with this message, and says where and what to do."""
    with pytest.raises(InputError, match=message) as caught:
        load(source)
    assert caught.value.where
    assert caught.value.hint
    assert caught.value.exit_code == 2
    return caught.value


def external(folder: Path, **entries: str) -> Path:
    """A model whose constant ``k`` (8 bytes) is external data described by ``entries``."""
    model = good()
    constant = model.graph.initializer[0]
    constant.ClearField("float_data")
    constant.ClearField("raw_data")
    constant.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        constant.external_data.add(key=key, value=value)
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize(
    "data", [b"\x00\xff" * 40, b"hello world, this is text", b"\x7fELF" + b"\x01" * 60]
)
def test_bytes_that_are_no_onnx(data: bytes) -> None:
    refused(data, "not an ONNX file|holds no graph")


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.onnx"
    path.touch()
    refused(path, "holds no graph")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    refused(tmp_path / "none.onnx", "no such file")
    refused(tmp_path, "cannot read the model")


def test_a_git_lfs_pointer(tmp_path: Path) -> None:
    path = tmp_path / "pointer.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12345\n")
    error = refused(path, "Git LFS pointer")
    assert "git lfs pull" in error.hint


def test_every_truncation_is_refused_or_loads_a_valid_model(tmp_path: Path) -> None:
    """A prefix of a protobuf may itself be one; then its tensors or its graph must not add up."""
    data = good().SerializeToString()
    for length in range(len(data)):
        try:
            graph = load(data[:length])
        except InputError:
            continue
        onnx.checker.check_model(graph.proto())


@pytest.mark.parametrize("dims", [[2**40], [2**31, 2**31, 2**31], [3], [1]])
def test_a_declared_size_that_is_not_stored(dims: list[int]) -> None:
    model = good()
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend(dims)
    refused(model, "needs .* bytes, the file holds")


def test_a_negative_dimension_and_an_unknown_type() -> None:
    model = good()
    model.graph.initializer[0].dims[0] = -2
    refused(model, "negative dimension")
    model = good()
    model.graph.initializer[0].data_type = 999
    refused(model, "unknown element type 999")


def test_external_data_are_read_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 4 + np.array([3, 4], np.float32).tobytes())
    graph = load(external(tmp_path, location="w.bin", offset="4", length="8"))
    k = graph.tensor("k")
    assert k is not None
    assert graph.values(k).tolist() == [3, 4]
    assert isinstance(graph.values(k), np.memmap)
    emit(graph, tmp_path / "out.onnx")
    again = load(tmp_path / "out.onnx")
    k = again.tensor("k")
    assert k is not None
    assert again.values(k).tolist() == [3, 4]


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret", ""])
def test_external_data_outside_the_folder(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 8)
    inner = tmp_path / "inner"
    inner.mkdir()
    refused(external(inner, location=location), "inside the model's folder")


def test_a_link_that_leaves_the_folder(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 8)
    inner = tmp_path / "inner"
    inner.mkdir()
    (inner / "w.bin").symlink_to(tmp_path / "secret")
    refused(external(inner, location="w.bin"), "link that leaves")


def test_the_links_of_a_hugging_face_cache(tmp_path: Path) -> None:
    """``snapshots/<commit>/model.onnx`` and its data are links into ``blobs/``."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    external(blobs, location="w.bin").rename(blobs / "1111")
    (blobs / "2222").write_bytes(np.array([5, 6], np.float32).tobytes())
    (snapshot / "model.onnx").symlink_to("../../blobs/1111")
    (snapshot / "w.bin").symlink_to("../../blobs/2222")
    graph = load(snapshot / "model.onnx")
    k = graph.tensor("k")
    assert k is not None
    assert graph.values(k).tolist() == [5, 6]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "none.bin"}, "weights file of the model is missing"),
        ({"location": "w.bin", "length": "8", "offset": "4"}, "hold 4 bytes"),
        ({"location": "w.bin", "length": "4"}, "hold 4 bytes, the shape .* needs 8"),
        ({"location": "w.bin", "offset": "-8"}, "no positive number"),
        ({"location": "w.bin", "offset": "lots"}, "no positive number"),
        ({"location": "w.bin", "offset": "99999999999999"}, "hold 0 bytes"),
    ],
)
def test_external_data_that_do_not_fit(
    tmp_path: Path, entries: dict[str, str], message: str
) -> None:
    (tmp_path / "w.bin").write_bytes(b"\0" * 8)
    refused(external(tmp_path, **entries), message)


def test_external_data_without_a_folder(tmp_path: Path) -> None:
    path = external(tmp_path, location="w.bin")
    refused(path.read_bytes(), "its own folder is not known")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("{ a = Add (x, b) b = Relu (a) y = Relu (b) }", "'b' before it is computed"),
        ("{ y = Add (x, ghost) }", "'ghost' that nothing defines"),
        ("{ y = Relu (x) y = Neg (x) }", "two definitions"),
        ("{ x = Relu (x) y = Neg (x) }", "writes a graph input"),
        ("{ z = Relu (x) }", "output is computed by no node"),
    ],
)
def test_graphs_that_are_no_graphs(body: str, message: str) -> None:
    text = f'<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) {body}'
    refused(parser.parse_model(text), message)


def test_a_body_that_reads_what_nothing_defines() -> None:
    refused(
        parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x, bool c) => (float[2] y) {
  y = If (c) <
    then_branch = t () => (float[2] p) { p = Add (x, ghost) },
    else_branch = e () => (float[2] q) { q = Relu (x) }
  >
}"""),
        "'ghost' that nothing defines",
    )


def test_two_initializers_of_one_name() -> None:
    model = good()
    model.graph.initializer.append(model.graph.initializer[0])
    refused(model, "two definitions of the initializer 'k'")


def test_a_model_without_its_operator_set() -> None:
    model = good()
    del model.opset_import[:]
    refused(model, "which operator set")


def test_the_source_is_not_changed() -> None:
    model = good()
    before = model.SerializeToString(deterministic=True)
    graph = load(model)
    graph.opset = 21
    graph.set_metadata("a", "b")
    graph.make_constant(graph.outputs[0], np.zeros(2, np.float32))
    graph.sweep()
    assert model.SerializeToString(deterministic=True) == before


def test_local_functions_are_inlined_and_brought_to_the_models_opset() -> None:
    """Softmax of opset 11 without an axis is over axis 1; today's default is the last."""
    graph = load(
        parser.parse_model("""<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[2,3] x) => (float[2,3] y) { y = local.f (x) }
<domain: "local", opset_import: ["" : 11, "com.example" : 4]>
f (a) => (b) { c = Softmax <axis = 1> (a) b = com.example.Mystery (c) }""")
    )
    assert [n.op for n in graph.nodes] == ["Softmax", "Mystery"]
    assert graph.nodes[0].attrs["axis"] in (1, -1)
    assert graph.domains["com.example"] == 4


def test_a_function_that_calls_itself() -> None:
    refused(
        parser.parse_model("""<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[2,3] x) => (float[2,3] y) { y = local.f (x) }
<domain: "local", opset_import: ["" : 21, "local" : 1]>
f (a) => (b) { c = local.f (a) b = Relu (c) }"""),
        "cannot be inlined",
    )


def test_a_broken_quantization_that_came_with_the_model() -> None:
    refused(
        parser.parse_model("""<ir_version: 10, opset_import: ["" : 21]>
g (float[2] x) => (float[2] y) <float s = {0}, int8 z = {0}> {
  q = QuantizeLinear (x, s, z)
  y = DequantizeLinear (q, s, z)
}"""),
        "already quantized.*not positive and finite",
    )


def test_a_name_of_an_initializer_that_is_also_an_input_is_a_constant() -> None:
    """IR 3 demanded it of every initializer."""
    model = good()
    model.graph.input.append(helper.make_tensor_value_info("k", TensorProto.FLOAT, [2]))
    graph = load(model)
    assert [t.name for t in graph.inputs] == ["x"]
    k = graph.tensor("k")
    assert k is not None
    assert graph.is_constant(k)


def test_packed_constants_in_a_file_of_their_own(tmp_path: Path) -> None:
    """Three INT4 values take two bytes."""
    model = good()
    packed = numpy_helper.from_array(
        np.array([1, -2, 3]).astype(helper.tensor_dtype_to_np_dtype(TensorProto.INT4)), "k"
    )
    (tmp_path / "w.bin").write_bytes(packed.raw_data)
    assert len(packed.raw_data) == 2
    packed.ClearField("raw_data")
    packed.data_location = TensorProto.EXTERNAL
    packed.external_data.add(key="location", value="w.bin")
    model.graph.initializer[0].CopyFrom(packed)
    (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
    graph = load(tmp_path / "model.onnx")
    k = graph.tensor("k")
    assert k is not None
    assert graph.values(k).astype(np.int32).tolist() == [1, -2, 3]
