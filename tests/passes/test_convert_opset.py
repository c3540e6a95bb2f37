"""Old operators, as they were, against what they become: the same numbers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, parser

from qcompiler.errors import UnsupportedError
from qcompiler.load import load
from qcompiler.passes.convert_opset import ConvertOpset
from qcompiler.pipeline import Pipeline
from qcompiler.verify import check_onnx
from tests.contract.running import feeds_for, run, session

# Opset, inputs, constants, and one node (or two) that a later opset writes differently.
CASES = {
    "clip": (10, "float[2,5] x", "", "y = Clip <min = -0.5, max = 0.5> (x)"),
    "clip_one_side": (6, "float[2,5] x", "", "y = Clip <max = 0.5> (x)"),
    "pad": (2, "float[2,5] x", "", "y = Pad <pads = [0, 1, 1, 0], value = 2.5> (x)"),
    "pad_edge": (10, "float[2,5] x", "", 'y = Pad <pads = [0, 1, 0, 2], mode = "edge"> (x)'),
    "slice": (9, "float[4,5] x", "", "y = Slice <starts = [1, -3], ends = [3, 9]> (x)"),
    "topk": (9, "float[2,5] x", "", "y, i = TopK <k = 2, axis = 1> (x)"),
    "split": (11, "float[2,6] x", "", "y, z = Split <axis = 1, split = [2, 4]> (x)"),
    "split_even": (13, "float[2,6] x", "", "y, z = Split <axis = 1> (x)"),
    "squeeze": (11, "float[2,1,3] x", "", "y = Squeeze <axes = [1]> (x)"),
    "squeeze_all": (11, "float[2,1,3] x", "", "y = Squeeze (x)"),
    "unsqueeze": (11, "float[2,3] x", "", "y = Unsqueeze <axes = [0, 3]> (x)"),
    "reduce_sum": (11, "float[2,3] x", "", "y = ReduceSum <axes = [1], keepdims = 0> (x)"),
    "reduce_max": (17, "float[2,3] x", "", "y = ReduceMax <axes = [-1]> (x)"),
    "reduce_all": (13, "float[2,3] x", "", "y = ReduceMean (x)"),
    "dropout": (11, "float[2,3] x", "", "y = Dropout <ratio = 0.7> (x)"),
    "softmax_default": (11, "float[2,3,4] x", "", "y = Softmax (x)"),
    "softmax_first": (11, "float[2,3,4] x", "", "y = Softmax <axis = 0> (x)"),
    "softmax_last": (11, "float[2,3,4] x", "", "y = Softmax <axis = 2> (x)"),
    "softmax_negative": (11, "float[2,3,4] x", "", "y = Softmax <axis = -1> (x)"),
    "softmax_ones": (11, "float[2,3,1,1] x", "", "y = Softmax (x)"),
    "log_softmax": (11, "float[2,3,4] x", "", "y = LogSoftmax <axis = 1> (x)"),
    "hardmax": (11, "float[2,3,4] x", "", "y = Hardmax <axis = 1> (x)"),
    "softmax_dynamic": (11, "float[batch,3,4] x", "", "y = Softmax <axis = 1> (x)"),
    "upsample_attribute": (
        7, "float[1,2,3,3] x", "", "y = Upsample <scales = [1.0, 1.0, 2.0, 3.0]> (x)",
    ),
    "upsample_linear": (
        9, "float[1,2,3,3] x", "float[4] s = {1, 1, 2, 2}",
        'y = Upsample <mode = "linear"> (x, s)',
    ),
    "upsample_fraction": (
        9, "float[1,2,4,4] x", "float[4] s = {1, 1, 1.5, 1.75}",
        'y = Upsample <mode = "nearest"> (x, s)',
    ),
    "resize_10": (
        10, "float[1,2,3,3] x", "float[4] s = {1, 1, 2.5, 1.5}",
        'y = Resize <mode = "nearest"> (x, s)',
    ),
    "resize_10_linear": (
        10, "float[1,2,3,3] x", "float[4] s = {1, 1, 2.5, 0.5}",
        'y = Resize <mode = "linear"> (x, s)',
    ),
    "resize_11": (
        11, "float[1,2,3,3] x", "float[0] roi = {}, float[4] s = {1, 1, 2, 2}",
        'y = Resize <mode = "linear", '
        'coordinate_transformation_mode = "align_corners"> (x, roi, s)',
    ),
    "average_pool": (
        7, "float[1,2,5,5] x", "",
        "y = AveragePool <kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]> (x)",
    ),
    "batch_norm": (
        7, "float[2,2,3] x", "float[2] a = {1, 2}, float[2] b = {3, 4}",
        "y = BatchNormalization <momentum = 0.5> (x, a, b, b, a)",
    ),
    "batch_norm_9": (
        9, "float[2,2,3] x", "float[2] a = {1, 2}, float[2] b = {3, 4}",
        "y = BatchNormalization (x, a, b, b, a)",
    ),
    "gemm": (7, "float[2,3] x", "float[3,2] w = {1, 2, 3, 4, 5, 6}, float[2] b = {1, 2}",
             "y = Gemm <alpha = 0.5> (x, w, b)"),
    "scatter": (
        9, "float[2,3] x", "int64[1,2] i = {0, 2}, float[1,2] u = {5, 6}",
        "y = Scatter <axis = 1> (x, i, u)",
    ),
    "argmax": (11, "float[2,3] x", "", "y = ArgMax <axis = 1> (x)"),
    "reshape": (5, "float[2,3] x", "int64[2] s = {0, -1}", "y = Reshape (x, s)"),
    "cast": (9, "float[2,3] x", "", "a = Cast <to = 7> (x) y = Cast <to = 1> (a)"),
    "grid_sample": (
        16, "float[1,1,3,3] x, float[1,2,2,2] g", "",
        'y = GridSample <mode = "bilinear"> (x, g)',
    ),
    "lstm": (
        7, "float[3,1,2] x", "float[1,4,2] w = {1,2,3,4,5,6,7,8}, float[1,4,1] r = {1,2,3,4}",
        "y, h, c = LSTM <hidden_size = 1> (x, w, r)",
    ),
}  # fmt: skip


def _model(opset: int, inputs: str, constants: str, body: str) -> ModelProto:
    outputs = ["y", *(n.strip() for n in body.split("=")[0].split(",")[1:])]
    text = f"""<ir_version: 7, opset_import: ["" : {opset}]>
g ({inputs}) => ({", ".join(outputs)}) {f"<{constants}>" if constants else ""} {{ {body} }}"""
    model = parser.parse_model(text)
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    del model.graph.output[:]
    model.graph.output.extend(inferred.graph.output)
    return model


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("to", [21, 23])
def test_the_same_numbers(name: str, to: int) -> None:
    model = _model(*CASES[name])
    graph = load(model)
    graph.infer()
    Pipeline((ConvertOpset(to=to),)).run(graph)
    assert graph.opset == to
    assert check_onnx(graph) == ""
    feeds = feeds_for(session(model))
    for old, new in zip(run(model, feeds), run(graph.proto(), feeds), strict=True):
        assert old.dtype == new.dtype
        # Kernels of two versions may sum in another order, at most 16 terms here.
        allowed = 16 * np.finfo(np.float32).eps * np.abs(old).max()
        assert np.abs(old - new).max() <= allowed


def test_what_cannot_be_converted_is_named() -> None:
    """The old broadcast of Add with an axis, where the shapes do not allow it."""
    model = parser.parse_model("""<ir_version: 7, opset_import: ["" : 6]>
g (float[2,3,4] x, float[5] b) => (float[2,3,4] y) {
  a = Relu (x)
  ["/bad"] y = Add <broadcast = 1, axis = 1> (a, b)
}""")
    before = load(model)
    with pytest.raises(UnsupportedError, match="Add of opset 6 cannot be converted") as e:
        ConvertOpset().run(before)
    assert e.value.where == "/bad"
    assert before.opset == 6, "nothing was changed"


def test_scan_of_opset_8_is_refused() -> None:
    model = parser.parse_model("""<ir_version: 7, opset_import: ["" : 8]>
g (float[1,3,2] x) => (float[1,3,2] y) {
  ["/scan"] y = Scan <
    num_scan_inputs = 1, body = b (float[2] i) => (float[2] o) { o = Relu (i) }
  > (, x)
}""")
    with pytest.raises(UnsupportedError, match="batch axis"):
        ConvertOpset().run(load(model))


def test_an_opset_nobody_knows() -> None:
    model = parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[2] x) => (float[2] y) { y = Relu (x) }'
    )
    with pytest.raises(UnsupportedError, match="newer than the installed onnx"):
        ConvertOpset(to=999).run(load(model))


def test_names_and_metadata_of_nodes_survive() -> None:
    model = parser.parse_model("""<ir_version: 7, opset_import: ["" : 11]>
g (float[2,3] x) => (float[2,3] y) {
  ["/relu"] a = Relu (x)
  ["/up"] b = Unsqueeze <axes = [0]> (a)
  ["/down"] y = Squeeze <axes = [0]> (b)
}""")
    model.graph.node[1].doc_string = "from line 7"
    graph = load(model)
    ConvertOpset().run(graph)
    graph.sweep()
    nodes = graph.proto().graph.node
    assert [n.name for n in nodes] == ["/relu", "/up", "/down"]
    assert nodes[1].doc_string == "from line 7"
    assert np.array_equal(graph.values(graph.nodes[1].inputs[1]), [0])
