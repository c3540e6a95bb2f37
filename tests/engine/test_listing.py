"""Every line of the layer listing is read, or named."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import build
from qcompiler.engine.listing import Layer, Memory, Tensor, parse, parse_line
from qcompiler.engine.traffic import BITS
from qcompiler.errors import BackendError
from tests.engine import engines

MEMORY = (
    "[INFO] Max Scratch Memory: 512 bytes\n[INFO] Total Activation Memory: 4096 bytes\n"
    "[INFO] Total Weights Memory: 1024 bytes\n"
)
FORMAT = "(Linear) Row major linear format"
ODD = (
    "Name: a, b [x, LayerType: gemm, Inputs: [ { Name: t[0, {y, Dimensions: [-1,2], "
    "Strides: [2,1], StrideOrder: [1,0], Datatype: Int8, Format: (NHWC) Channel major format }, "
    "{ Name: ]], Location: Device, Dimensions: [], Datatype: Int64, Format: Format not available "
    "due to dynamic shapes }], Constants: [], Outputs: [ { Name: o, Dimensions: [1], "
    f"Strides: [-1], StrideOrder: [0], Datatype: Float, Format: {FORMAT} }}], TacticName: q, "
    "StreamId: 2, EventId: 7, "
    "Metadata: [ONNX Layer: n]1]\x1f[ONNX Layer: m, o]\x1f[ONNX Layer: n]1]"
)
TRANSFER = (
    "Name: [ShapeHostToDeviceCopy 0], LayerType: ShapeHostToDevice, Inputs: [], Outputs: [ { Name: "
    "(Unnamed Layer* 12) [Cast]_output, Location: Device, Dimensions: [], Datatype: Int64, Format: "
    "Format not available due to dynamic shapes }], ParameterType: ShapeH2D, shapeValues0: [-9], "
    "TacticValue: 0x0000000000000000, StreamId: 0, Metadata: "
)
JUMP = (
    "Name: c_myl0_5, LayerType: cjmp, Inputs: [], Constants: [], Outputs: [], TacticName: , "
    "StreamId: 0, JumpTargetThen: __myl_FcRelu_myl0_6, JumpTargetElse: b, Metadata: "
    "[ONNX Layer: /If/then/MatMul | wide (then_branch) | /If (If)]"
)


def _lines(log: str) -> list[str]:
    """The listing by its end, a blank line."""
    return log.split("Layers:\n", 1)[1].split("\n\n", 1)[0].split("\n")


@pytest.mark.parametrize("name", build.names())
def test_every_line_and_every_tensor_of_a_real_listing_is_read(name: str) -> None:
    lines = _lines(engines.log(name))
    layers = engines.listing(name).layers
    assert len(layers) == len(lines)
    for line, layer in zip(lines, layers, strict=True):
        assert line.startswith(f"Name: {layer.name}, LayerType: {layer.kind}, ")
        tensors = (*layer.inputs, *layer.constants, *layer.outputs)
        assert len(tensors) == line.count("{ Name: ")
        assert [t.dtype for t in tensors] == re.findall(r"Datatype: (\w+)", line)
        assert line.count("[ONNX Layer: ") >= len(layer.onnx_nodes)
        assert {t.dtype for t in tensors} <= set(BITS)


@pytest.mark.parametrize("name", ["residual", "attention", "resnet20"])
def test_layers_name_nodes_of_the_model(name: str) -> None:
    nodes = {n.name for n in engines.model(name).graph.node}
    named = {node for layer in engines.listing(name).layers for node in layer.onnx_nodes}
    assert named <= nodes
    assert {
        n.name for n in engines.model(name).graph.node if n.op_type in ("Conv", "Gemm")
    } <= named


def test_memory_is_that_of_the_log() -> None:
    log = engines.log("residual")
    memory = engines.listing("residual").memory
    for text, count in (
        ("Total Activation Memory", memory.activation),
        ("Total Weights Memory", memory.weights),
        ("Max Scratch Memory", memory.scratch),
    ):
        assert count > 0
        assert f"{text}: {count} bytes" in log


def test_names_hold_brackets_braces_and_commas() -> None:
    assert parse_line(ODD) == Layer(
        "a, b [x",
        "gemm",
        (
            Tensor("t[0, {y", (-1, 2), "Int8", "(NHWC) Channel major format", (2, 1)),
            Tensor("]]", (), "Int64", "Format not available due to dynamic shapes"),
        ),
        (),
        (Tensor("o", (1,), "Float", FORMAT, (-1,)),),
        ("n]1", "m, o"),
    )


def test_layers_without_constants() -> None:
    layer = parse_line(TRANSFER)
    assert (layer.name, layer.kind) == ("[ShapeHostToDeviceCopy 0]", "ShapeHostToDevice")
    assert (layer.inputs, layer.constants, layer.onnx_nodes) == ((), (), ())
    assert [t.name for t in layer.outputs] == ["(Unnamed Layer* 12) [Cast]_output"]


def test_jumps_keep_the_node_in_the_body() -> None:
    assert parse_line(JUMP).onnx_nodes == ("/If/then/MatMul | wide (then_branch) | /If (If)",)


@pytest.mark.parametrize(
    "end", ["\n\nI/O Tensors:\nName: x, IOMode: Input\n", "\n[INFO] Bye\n", ""]
)
def test_the_listing_ends_at_a_blank_line_or_the_next_message(end: str) -> None:
    found = parse(f"{MEMORY}[VERBOSE] Layers:\n{ODD}\n{JUMP}{end}")
    assert [layer.kind for layer in found.layers] == ["gemm", "cjmp"]
    assert found.memory == Memory(activation=4096, weights=1024, scratch=512)


@pytest.mark.parametrize(
    "line",
    [
        "something else",
        ODD.replace(", LayerType", ", Layertype"),
        ODD.replace("Inputs: [", "Input: ["),
        ODD.replace("Dimensions: [1]", "Dimensions: [one]"),
        ODD.replace("Strides: [-1]", "Strides: [1,1]"),
        ODD.replace("Datatype: Float, ", ""),
        ODD.replace("Outputs: [", "Output: ["),
        ODD.replace("Metadata: ", "Meta: "),
        ODD.replace("\x1f[ONNX Layer: m", "\x1f[Layer: m"),
    ],
)
def test_a_line_that_cannot_be_read_is_named(line: str) -> None:
    with pytest.raises(BackendError) as caught:
        parse(f"{MEMORY}[VERBOSE] Layers:\n{JUMP}\n{line}\n{JUMP}\n")
    assert caught.value.where == f"line 6: {line}"
    assert caught.value.hint


@pytest.mark.parametrize("line", [ODD, TRANSFER, JUMP])
def test_a_line_cut_before_its_metadata_is_refused(line: str) -> None:
    for end in range(1, line.index("Metadata:")):
        with pytest.raises(BackendError):
            parse_line(line[:end])


def test_a_log_without_listing_or_memory_is_refused() -> None:
    with pytest.raises(BackendError, match="no listing"):
        parse(MEMORY)
    with pytest.raises(BackendError, match="2 listings"):
        parse(f"{MEMORY}Layers:\n{ODD}\n\nLayers:\n{ODD}\n")
    with pytest.raises(BackendError, match="does not say 'Total Weights Memory'"):
        parse(f"{MEMORY.replace('Weights', 'weights')}Layers:\n{ODD}\n")


# ---------------------------------------------------------------------- the grammar, both ways

# No key of the grammar, no line end; a name neither begins nor ends with a blank.
_names = st.text("ab/.:[]{},*( )_^1é", min_size=1, max_size=12).filter(
    lambda s: s == s.strip() and not s.endswith(",")
)
_axes = st.lists(st.tuples(st.integers(-1, 4096), st.integers(-1, 4096)), max_size=4)


@st.composite
def _tensors(draw: st.DrawFn) -> Tensor:
    axes = draw(_axes)
    strides = tuple(s for _, s in axes) if draw(st.booleans()) else ()
    dtype = draw(st.sampled_from(sorted(BITS)))
    return Tensor(draw(_names), tuple(d for d, _ in axes), dtype, FORMAT, strides)


_lists = st.lists(_tensors(), max_size=3).map(tuple)
_nodes = st.lists(_names, max_size=3, unique=True).map(tuple)
_layers = st.builds(
    Layer, _names, st.sampled_from(["kgen", "gemm"]), _lists, _lists, _lists, _nodes
)


def _spell(tensor: Tensor) -> str:
    strides = ",".join(map(str, tensor.strides))
    order = f", Strides: [{strides}], StrideOrder: [0]" if tensor.strides else ""
    return (
        f"{{ Name: {tensor.name}, Dimensions: [{','.join(map(str, tensor.dims))}]{order}, "
        f"Datatype: {tensor.dtype}, Format: {tensor.format} }}"
    )


def _spelled(layer: Layer) -> str:
    lists = (
        f"{key}: [{' ' if found else ''}{', '.join(map(_spell, found))}], "
        for key, found in (
            ("Inputs", layer.inputs),
            ("Constants", layer.constants),
            ("Outputs", layer.outputs),
        )
    )
    nodes = "\x1f".join(f"[ONNX Layer: {n}]" for n in layer.onnx_nodes)
    return (
        f"Name: {layer.name}, LayerType: {layer.kind}, {''.join(lists)}TacticName: , StreamId: 0, "
        f"Metadata: {nodes}"
    )


@given(_layers)
def test_what_is_written_in_the_grammar_is_read_back(layer: Layer) -> None:
    assert parse_line(_spelled(layer)) == layer


def test_a_marked_metadata_entry_names_its_node() -> None:
    line = (
        "Name: k, LayerType: gemm, Inputs: [], Constants: [], Outputs: [], TacticName: t, "
        "StreamId: 0, Metadata: [ONNX Layer: /f/Conv]__gemm_from_conv1x1\x1f[ONNX Layer: /f/Add]"
    )
    assert parse_line(line).onnx_nodes == ("/f/Conv", "/f/Add")
