"""The primitives that passes edit with."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper, parser

from qcompiler.emit import emit
from qcompiler.errors import VerifyError
from qcompiler.graph import Graph, label
from qcompiler.load import load
from qcompiler.text import listing

CHAIN = """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x) => (float[N,2] y) <float[2] k = {1, 2}> {
  a = Relu (x)
  b = Mul (a, a)
  c = Add (b, k)
  y = Sub (c, k)
}"""
CAPTURE = """<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x, bool c) => (float[2] y) <float[2] k = {1, 2}> {
  a = Relu (x)
  y = If (c) <
    then_branch = t () => (float[2] p) { p = Add (a, k) },
    else_branch = e () => (float[2] q) {
      q = If (c) <
        then_branch = u () => (float[2] r) { r = Mul (a, k) },
        else_branch = v () => (float[2] s) { s = Identity (a) }
      >
    }
  >
}"""


def graph_of(text: str) -> Graph:
    return load(parser.parse_model(text))


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


def test_users_lists_every_slot_in_node_order() -> None:
    graph = graph_of(CHAIN)
    a, k = graph.tensor("a"), graph.tensor("k")
    assert a is not None
    assert k is not None
    assert [(n.op, i) for n, i in graph.users(a)] == [("Mul", 0), ("Mul", 1)]
    assert [(n.op, i) for n, i in graph.users(k)] == [("Add", 1), ("Sub", 1)]
    assert graph.sole_user(a) is None


def test_captures_are_not_users_but_pin_the_name() -> None:
    graph = graph_of(CAPTURE)
    a, k, c = (graph.tensor(n) for n in ("a", "k", "c"))
    assert a is not None
    assert k is not None
    assert c is not None
    assert graph.users(a) == []
    assert graph.is_pinned(a)
    assert graph.is_pinned(k)
    assert [(n.op, i) for n, i in graph.users(c)] == [("If", 0)]


def test_sole_user_is_nobody_for_an_output() -> None:
    graph = graph_of(CHAIN)
    y, c = graph.tensor("y"), graph.tensor("c")
    assert y is not None
    assert c is not None
    assert graph.is_output(y)
    assert graph.sole_user(y) is None
    user = graph.sole_user(c)
    assert user is not None
    assert user.op == "Sub"


def test_replace_lets_the_new_node_write_the_old_name() -> None:
    graph = graph_of(CHAIN)
    c = graph.tensor("c")
    assert c is not None
    new = graph.add("Neg", [graph.inputs[0]], output="n")
    graph.replace(c, new)
    assert graph.sweep() == 2
    assert [(n.op, n.outputs[0].name) for n in graph.nodes] == [("Neg", "c"), ("Sub", "y")]


def test_replace_keeps_the_name_of_an_output_and_of_a_capture() -> None:
    graph = graph_of(CAPTURE)
    a, y = graph.tensor("a"), graph.tensor("y")
    assert a is not None
    assert y is not None
    graph.replace(a, graph.inputs[0])
    graph.sweep()
    assert [(n.op, n.outputs[0].name) for n in graph.nodes] == [("Identity", "a"), ("If", "y")]
    graph.replace(y, graph.add("Neg", [graph.inputs[0]], output="z"))
    graph.sweep()
    assert [(n.op, n.outputs[0].name) for n in graph.nodes] == [("Neg", "y")]


def test_make_constant_keeps_the_name_where_a_body_reads_it() -> None:
    graph = graph_of(CAPTURE)
    a = graph.tensor("a")
    assert a is not None
    graph.make_constant(a, np.array([3, 4], np.float32))
    graph.sweep()
    model = graph.proto()
    onnx.checker.check_model(model)
    assert ops(graph) == ["If"]
    assert sorted(t.name for t in model.graph.initializer) == ["a", "k"]


def test_make_constant_of_a_graph_output() -> None:
    graph = graph_of(CHAIN)
    y = graph.tensor("y")
    assert y is not None
    graph.make_constant(y, np.zeros((2, 2), np.float32))
    assert graph.sweep() == 3
    assert ops(graph) == []
    assert graph.is_output(graph.outputs[0])
    assert [t.name for t in graph.proto().graph.initializer] == ["y"]


def test_fresh_names_avoid_tensors_and_what_bodies_define() -> None:
    graph = graph_of(CAPTURE)
    assert graph.fresh("new") == "new"
    assert graph.fresh("a") == "a_1"
    assert graph.fresh("r") == "r_1", "r is defined two bodies deep"


def test_sweep_puts_a_new_node_before_its_first_reader() -> None:
    graph = graph_of(CHAIN)
    b = graph.tensor("b")
    assert b is not None
    add = graph.sole_user(b)
    assert add is not None
    graph.set_input(add, 0, graph.add("Neg", [b], output="n"))
    graph.sweep()
    assert ops(graph) == ["Relu", "Mul", "Neg", "Add", "Sub"]


def test_sweep_finds_a_cycle() -> None:
    graph = graph_of(CHAIN)
    c, first = graph.tensor("c"), graph.nodes[0]
    assert c is not None
    graph.set_input(first, 0, c)
    with pytest.raises(VerifyError, match="cycle"):
        graph.sweep()


def test_a_chain_of_20000_nodes_needs_no_recursion() -> None:
    nodes = [helper.make_node("Relu", [f"t{i}"], [f"t{i + 1}"]) for i in range(20_000)]
    ends = [helper.make_tensor_value_info(n, 1, [2]) for n in ("t0", "t20000")]
    model = helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:]), ir_version=8)
    graph = load(model)
    assert len(graph.nodes) == 20_000
    assert graph.sweep() == 0


def test_dropping_one_of_two_equal_nodes_drops_that_one() -> None:
    """graphsurgeon compares nodes by value; the facade by identity."""
    graph = graph_of("""<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x) => (float[2] y) { a = Relu (x) b = Relu (x) y = Add (a, b) }""")
    first, second, last = graph.nodes
    graph.set_input(last, 1, first.outputs[0])
    graph.drop(second)
    assert [n is first for n, _ in graph.users(graph.inputs[0])] == [True]


def test_a_node_is_called_by_its_name_or_its_output() -> None:
    graph = graph_of(CHAIN)
    assert label(graph.nodes[0]) == "node_of_a"
    graph.nodes[0].name = "relu"
    assert label(graph.nodes[0]) == "relu"


def _decorated() -> ModelProto:
    model = parser.parse_model(CHAIN)
    model.doc_string, model.model_version, model.domain = "about", 7, "com.example"
    model.producer_name, model.producer_version = "exporter", "2"
    model.metadata_props.add(key="task", value="classify")
    model.graph.doc_string = "the graph"
    model.graph.metadata_props.add(key="g", value="1")
    model.graph.input[0].doc_string = "an image"
    model.graph.input[0].type.denotation = "IMAGE"
    model.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    model.graph.output[0].metadata_props.add(key="o", value="2")
    value = model.graph.value_info.add(name="c", doc_string="inside")
    value.type.tensor_type.elem_type = 1
    annotation = model.graph.quantization_annotation.add(tensor_name="c")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="k")
    node = model.graph.node[1]
    node.name, node.doc_string = "/mul", "a trace"
    node.metadata_props.add(key="pkg.torch.onnx.stack_trace", value="File x")
    return model


def test_everything_said_about_a_model_survives() -> None:
    model = _decorated()
    for node in model.graph.node:
        node.ClearField("domain")  # the parser writes the default domain out
    again = load(model).proto()
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(
        deterministic=True
    )


def test_bodies_pass_byte_for_byte() -> None:
    model = parser.parse_model(CAPTURE)
    model.graph.node[1].attribute[0].g.node[0].doc_string = "inside"
    graph = load(model)
    a = graph.tensor("a")
    assert a is not None
    graph.replace(a, graph.add("Neg", [graph.inputs[0]], output="n"))
    graph.sweep()
    before = {
        a.name: a.SerializeToString(deterministic=True) for a in model.graph.node[1].attribute
    }
    node = graph.proto().graph.node[1]
    assert {a.name: a.SerializeToString(deterministic=True) for a in node.attribute} == before
    assert list(node.input) == ["c"]


def test_a_weight_used_in_bodies_is_written_once() -> None:
    graph = graph_of(CAPTURE)
    model = graph.proto()
    assert [t.name for t in model.graph.initializer] == ["k"]
    assert not [t for a in model.graph.node[1].attribute for t in a.g.initializer]


def test_exotic_attributes_pass() -> None:
    """graphsurgeon drops some of these and crashes on others."""
    model = parser.parse_model("""<ir_version: 10, opset_import: ["" : 21, "com.example" : 1]>
g (float[2] x) => (y) { y = com.example.Plugin (x) }""")
    node = model.graph.node[0]
    node.attribute.add(name="blob", type=onnx.AttributeProto.STRING, s=b"\xff\x00\xfe")
    node.attribute.add(name="none", type=onnx.AttributeProto.INTS)
    one = numpy_helper.from_array(np.array([1.0], np.float32), "one")
    node.attribute.add(name="tensors", type=onnx.AttributeProto.TENSORS, tensors=[one, one])
    kind = node.attribute.add(name="kind", type=onnx.AttributeProto.TYPE_PROTO)
    kind.tp.tensor_type.elem_type = 1
    body = helper.make_graph([], "b", [], [helper.make_tensor_value_info("x", 1, [2])])
    node.attribute.add(name="graphs", type=onnx.AttributeProto.GRAPHS, graphs=[body, body])
    again = load(model).proto()
    wanted = {a.name: a.SerializeToString(deterministic=True) for a in node.attribute}
    found = again.graph.node[0].attribute
    assert {a.name: a.SerializeToString(deterministic=True) for a in found} == wanted


@pytest.mark.parametrize(
    "dtype",
    [
        "int4", "uint4", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu",
        "bfloat16", "float4_e2m1fn",
    ],
)  # fmt: skip
def test_constants_of_every_type_are_written_as_read(dtype: str) -> None:
    """Odd length on purpose: packed types end in half a byte."""
    kind = np.dtype(getattr(ml_dtypes, dtype))
    array = np.array([1, 2, 4, 1, 2], np.float32).astype(kind)
    graph = graph_of(CHAIN)
    made = graph.const("w", array)
    assert made.dtype == kind
    assert graph.constant_bytes(made) == (
        3 if dtype in ("int4", "uint4", "float4_e2m1fn") else 5 * kind.itemsize
    )
    read = graph.values(made)
    assert read.dtype == kind
    assert read.tobytes() == array.tobytes()
    add = graph.nodes[2]
    graph.set_input(add, 1, made)
    written = next(t for t in graph.proto().graph.initializer if t.name == "w")
    assert numpy_helper.to_array(written).tobytes() == array.tobytes()
    assert load(graph.proto()).tensor("w").dtype == kind  # type: ignore[union-attr]


def test_values_are_read_only() -> None:
    graph = graph_of(CHAIN)
    k = graph.tensor("k")
    assert k is not None
    with pytest.raises(ValueError, match="read-only"):
        graph.values(k)[0] = 5


def test_a_negative_declared_length_is_an_unknown_one() -> None:
    model = parser.parse_model(CHAIN)
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert load(model).inputs[0].shape == [None, 2]


def test_raising_the_opset_raises_the_ir_version() -> None:
    graph = graph_of(CHAIN)
    graph.opset = 21
    model = graph.proto()
    assert model.opset_import[0].version == 21
    assert model.ir_version == 10


def test_the_default_domain_has_one_name() -> None:
    model = parser.parse_model(CHAIN)
    model.graph.node[0].domain = "ai.onnx"
    assert not load(model).nodes[0].domain


def test_new_nodes_say_which_pass_made_them() -> None:
    graph = graph_of(CHAIN)
    y = graph.tensor("y")
    assert y is not None
    graph.provenance = "some-pass"
    graph.replace(y, graph.add("Neg", [y], output="n"))
    graph.provenance = ""
    node = next(n for n in graph.proto().graph.node if n.op_type == "Neg")
    assert {p.key: p.value for p in node.metadata_props} == {"qcompiler.pass": "some-pass"}


def test_a_skeleton_has_small_constants_only() -> None:
    graph = graph_of(CHAIN)
    big = graph.const("big", np.ones((2048, 2), np.float32))
    graph.set_input(graph.nodes[2], 1, big)
    skeleton = graph.proto(skeleton=True)
    assert [t.name for t in skeleton.graph.initializer] == ["k"]
    assert "big" in {v.name for v in skeleton.graph.input}
    assert len(skeleton.SerializeToString()) < 2000
    assert "sha256" in listing(graph)


def test_a_skeleton_needs_no_other_file(tmp_path: Path) -> None:
    """Small constants that lie beside the model are in it: inference must read axes and shapes."""
    graph = graph_of(CHAIN)
    graph.spill()
    wide = graph.const("wide", np.ones((1, 512), np.float32))
    assert graph.constant_bytes(wide) == 2048
    graph.set_input(graph.nodes[2], 1, wide)
    emit(graph, tmp_path / "model.onnx")
    loaded = load(tmp_path / "model.onnx")
    for candidate in (graph, loaded):
        skeleton = candidate.proto(skeleton=True)
        stored = next(t for t in skeleton.graph.initializer if t.name == "wide")
        assert stored.data_location == onnx.TensorProto.DEFAULT
        assert numpy_helper.to_array(stored).sum() == 512
