"""What the report says about engines that are really built."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from models import build
from qcompiler.engine.listing import Layer, Listing, Memory, Tensor
from qcompiler.engine.report import EngineReport, LinearNode, engine_report
from qcompiler.plan import encode
from tests.engine import engines
from tests.hand_made import f32, graph, model

ZERO = np.int8(0)
SCALE, WSCALE = f32(0.05), f32(0.01)
CODES = np.arange(-127, 127, dtype=np.int8)


def _codes(*shape: int) -> Any:
    return np.resize(CODES, shape)


def _quantized(text: str, **constants: Any) -> EngineReport:
    """A graph with scales ``s`` and ``ws`` and zero point ``z``, built."""
    return engines.report_of(model(text, s=SCALE, ws=WSCALE, z=np.asarray(ZERO), **constants))


def _linear(report: EngineReport, node: str) -> LinearNode:
    return next(n for n in report.linear if n.node == node)


def _fates(report: EngineReport) -> dict[str, str]:
    return {q.node: q.fate for q in report.quantizers}


# ---------------------------------------------------------------------- laws on every model


@pytest.mark.parametrize("name", build.names())
def test_counts_agree_with_the_listing(name: str) -> None:
    report, layers = engines.report(name), engines.listing(name).layers
    assert report.kernels == sum(report.kinds.values())
    assert report.kernels + sum(report.bookkeeping.values()) == len(layers)
    nodes = engines.model(name).graph.node
    linear = [n.name for n in nodes if n.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")]
    assert [n.node for n in report.linear] == linear
    constants = {i.name for i in engines.model(name).graph.initializer}
    quantize = [n for n in nodes if n.op_type == "QuantizeLinear"]
    assert [q.node for q in report.quantizers] == [
        n.name for n in quantize if n.input[0] not in constants
    ]
    assert {n.kernel for n in report.linear} <= {layer.name for layer in layers}
    assert {n.precision for n in report.linear} <= {"int8", "fp32"}
    assert report.bytes_moved == report.bytes_read + report.bytes_written > 0
    assert 0 < report.low_macs <= 1


@pytest.mark.parametrize("name", build.names())
def test_what_we_compile_falls_back_nowhere(name: str) -> None:
    assert engines.report(name).fallen == ()


@pytest.mark.parametrize("name", ["residual", "attention"])
def test_the_report_is_a_value_that_survives_json(name: str) -> None:
    report = engines.report(name)
    assert msgspec.json.decode(encode(report), type=EngineReport) == report
    assert engines.report(name) == report


def test_types_of_the_demo_models() -> None:
    depthwise = engines.report("depthwise")
    assert {n.node: (n.precision, n.quantized) for n in depthwise.linear} == {
        "/stem/Conv": ("int8", "both"),
        "/expand/Conv": ("int8", "both"),
        "/depthwise/Conv": ("fp32", ""),
        "/project/Conv": ("int8", "both"),
    }
    assert len(depthwise.movement) == 1  # the output goes back to NCHW
    low = sum(n.macs for n in depthwise.linear if n.precision == "int8")
    assert depthwise.low_macs == low / sum(n.macs for n in depthwise.linear)


def test_a_quantizer_behind_an_int8_convolution_is_a_kernel_of_its_own() -> None:
    report = engines.report("residual")
    assert "folded" not in _fates(report).values()
    assert report.quantizers[0].producer == ""  # the image is a graph input
    conv = next(q for q in report.quantizers if q.node == "s_q")
    assert (conv.fate, conv.producer) == ("own", "/stem/Conv")
    assert conv.kernel != _linear(report, "/stem/Conv").kernel


def test_a_quantizer_behind_a_normalization_is_folded() -> None:
    report = engines.report("layernorm_exploded")
    assert set(_fates(report).values()) == {"folded"}


# ---------------------------------------------------------------------- one cause a graph

CHAIN = """g (float[16,32] x) => (float[16,32] y) {
  [qx] xq = QuantizeLinear (x, s, z)
  [dqx] xd = DequantizeLinear (xq, s, z)
  [dqa] wa = DequantizeLinear (a, ws, z)
  [first] h = MatMul (xd, wa)
  [qh] hq = QuantizeLinear (h, s, z)
  [dqh] hd = DequantizeLinear (hq, s, z)
  [dqb] wb = DequantizeLinear (b, ws, z)
  [second] y = MatMul (hd, wb)
}"""


def test_a_product_without_bias_takes_its_quantizer_in() -> None:
    report = _quantized(CHAIN, a=_codes(32, 32), b=_codes(32, 32))
    assert [n.precision for n in report.linear] == ["int8", "int8"]
    assert report.low_macs == 1.0
    assert _fates(report) == {"qx": "own", "qh": "folded"}
    assert report.quantizers[1].producer == "first"
    assert report.quantizers[1].kernel == _linear(report, "first").kernel


POOL = """g (float[1,16,16,16] x) => (float[1,16,8,8] y) {
  [qx] xq = QuantizeLinear (x, s, z)
  [dqx] xd = DequantizeLinear (xq, s, z)
  [pool] p = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (xd)
  [dqw] wd = DequantizeLinear (w, ws, z)
  [conv] y = Conv (p, wd)
}"""


def test_a_pool_behind_dequantize_is_the_neighbour_that_explains() -> None:
    report = _quantized(POOL, w=_codes(16, 16, 3, 3))
    (conv,) = report.fallen
    assert (conv.node, conv.precision, conv.quantized) == ("conv", "fp32", "both")
    assert conv.reason == "AveragePool 'pool' stands behind DequantizeLinear"
    assert report.low_macs == 0


TRANSPOSED = """g (float[1,16,8,8] x) => (float[1,8,16,16] y) {
  [qx] xq = QuantizeLinear (x, s, z)
  [dqx] xd = DequantizeLinear (xq, s, z)
  [dqw] wd = DequantizeLinear (w, ws, z)
  [up] y = ConvTranspose <strides = [2, 2]> (xd, wd)
}"""


def test_a_transposed_convolution_falls_back_and_its_quantizer_is_emulated() -> None:
    report = _quantized(TRANSPOSED, w=_codes(16, 8, 2, 2))
    (up,) = report.fallen
    assert (up.precision, up.reason) == ("fp32", "ConvTranspose has no low-precision kernel")
    assert _fates(report) == {"qx": "emulated"}


WRONG_AXIS = """g (float[16,32] x) => (float[16,64] y) {
  [qx] xq = QuantizeLinear (x, s, z)
  [dqx] xd = DequantizeLinear (xq, s, z)
  [dqw] wd = DequantizeLinear <axis = 0> (w, rows, zeros)
  [product] y = MatMul (xd, wd)
}"""


def test_scales_along_the_sum_explain_a_fall_back() -> None:
    rows = np.linspace(0.01, 0.02, 32, dtype=np.float32)
    zeros = np.zeros(32, np.int8)
    report = _quantized(WRONG_AXIS, w=_codes(32, 64), rows=rows, zeros=zeros)
    (product,) = report.fallen
    assert (product.precision, product.stored) == ("fp32", "int8")  # cast in the kernel
    assert product.reason == "the weight's scales run along axis 0, its output channels along 1"


def _blocks(size: int) -> ModelProto:
    """INT4 weights in blocks along the sum."""
    scales = helper.make_tensor("ws", TensorProto.FLOAT, (128 // size, 64), [0.01] * (8192 // size))
    codes = helper.make_tensor("w", TensorProto.INT4, (128, 64), [i % 15 - 7 for i in range(8192)])
    made = model(
        f"""g (float[8,128] x) => (float[8,64] y) {{
          [dqw] wd = DequantizeLinear <axis = 0, block_size = {size}> (w, ws)
          [product] y = MatMul (x, wd)
        }}"""
    )
    made.graph.initializer.extend([scales, codes])
    return made


def test_weight_only_int4_is_stored_narrow_and_multiplied_wide() -> None:
    (product,) = engines.report_of(_blocks(32)).linear
    assert (product.precision, product.stored) == ("fp32", "int4")
    assert (product.quantized, product.reason) == ("weight", "")


def test_one_block_along_the_sum_is_no_weight_only_kernel() -> None:
    (product,) = engines.report_of(_blocks(128)).linear
    assert (product.precision, product.stored) == ("fp32", "")
    assert "1 block(s) of 128" in product.reason


RESIZED = POOL.replace("float[1,16,8,8] y", "float[1,16,N,N] y").replace(
    "AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (xd)", "Resize (xd, , double)"
)


def test_a_resize_stands_in_the_way_although_it_moves_data() -> None:
    double = f32([1, 1, 2, 2])
    report = _quantized(RESIZED, w=_codes(16, 16, 3, 3), double=double)
    assert [n.reason for n in report.fallen] == ["Resize 'pool' stands behind DequantizeLinear"]


def test_dequantize_of_other_domains_counts() -> None:
    made = model("g (float[8,64] x) => (float[8,16] y) { [fc] y = MatMul (xd, wd) }", w=(64, 16))
    for name in ("x", "w"):
        made.graph.node.insert(
            0,
            helper.make_node("TRT_MXFP8DequantizeLinear", [name, "x"], [f"{name}d"], domain="trt"),
        )
    made.opset_import.append(helper.make_opsetid("trt", 1))
    x, w = _tensor("x", (8, 64), "Half"), _tensor("w", (64, 16), "FP8")
    kernel = Layer("CastMulFc", "runtime_fusion", (x,), (w,), (), ("fc",))
    (product,) = _report((kernel,), made).linear
    assert (product.quantized, product.precision, product.stored) == ("both", "fp16", "fp8")
    assert product.reason == "MXFP8 is widened before every product"


FP16 = """g (float16[2,4,64,32] q, float16[2,4,32,64] k, float16[2,4,64,32] v)
  => (float16[2,4,64,32] y) {
  [scores] a = MatMul (q, k)
  [softmax] p = Softmax (a)
  [mix] y = MatMul (p, v)
}"""


def test_attention_in_half_precision_is_one_kernel() -> None:
    report = engines.report_of(model(FP16))
    assert [(n.precision, n.attention) for n in report.linear] == [("fp16", True)] * 2
    assert report.linear[0].kernel == report.linear[1].kernel


# ---------------------------------------------------------------------- a listing by hand


def _report(layers: tuple[Layer, ...], proto: ModelProto, batch: int = 8) -> EngineReport:
    return engine_report(Listing(layers, Memory(1, 2, 3)), proto, batch)


def _tensor(name: str, dims: tuple[int, ...], dtype: str) -> Tensor:
    return Tensor(name, dims, dtype, "")


def test_a_node_that_no_kernel_names_is_unknown() -> None:
    made = model("g (float[N,32] x) => (float[N,8] y) { [fc] y = MatMul (x, w) }", w=(32, 8))
    (fc,) = _report((), made).linear
    assert (fc.precision, fc.kernel, fc.reason) == ("unknown", "", "")
    assert fc.macs == 8 * 8 * 32


def test_low_precision_needs_both_factors() -> None:
    made = model("g (float[4,32] x) => (float[4,8] y) { [fc] y = MatMul (x, w) }", w=(32, 8))
    x, w = _tensor("x", (4, 32), "FP8"), _tensor("w", (32, 8), "FP8")
    scale = _tensor("s", (1,), "Float")
    y = _tensor("y", (4, 8), "Half")
    both = Layer("fc", "gemm", (x,), (scale, w), (y,), ("fc",))
    assert _report((both,), made).linear[0].precision == "fp8"
    wide = _tensor("x", (4, 32), "BFloat16")
    one = Layer("fc", "gemm", (wide,), (scale, w), (y,), ("fc",))
    found = _report((one,), made).linear[0]
    assert (found.precision, found.stored) == ("bf16", "fp8")
    prepared = Layer("fc", "gemm", (x, w), (scale,), (y,), ("fc",))
    assert _report((prepared,), made).linear[0].precision == "fp8"


@pytest.mark.parametrize(
    ("text", "weights", "count"),
    [
        (
            "(float[2,6,8,8] x) => (float[2,4,6,6] y) { y = Conv (x, w) }",
            (4, 6, 3, 3),
            2 * 4 * 36 * 54,
        ),
        (
            "(float[2,6,8,8] x) => (float[2,4,6,6] y) { y = Conv <group = 2> (x, w) }",
            (4, 3, 3, 3),
            2 * 4 * 36 * 27,
        ),
        (
            "(float[1,6,4,4] x) => (float[1,4,8,8] y) "
            "{ y = ConvTranspose <strides = [2, 2]> (x, w) }",
            (6, 4, 2, 2),
            6 * 16 * 4 * 4,
        ),
        ("(float[N,32] x) => (float[N,8] y) { y = Gemm <transB = 1> (x, w) }", (8, 32), 8 * 8 * 32),
        ("(float[2,5,32] x) => (float[2,5,8] y) { y = MatMul (x, w) }", (32, 8), 10 * 8 * 32),
    ],
)
def test_multiply_accumulates(text: str, weights: tuple[int, ...], count: int) -> None:
    assert _report((), model(f"g {text}", w=weights)).macs == count


def test_a_graph_will_do_as_well_as_a_proto() -> None:
    text = "g (float[4,32] x) => (float[4,8] y) { [fc] y = MatMul (x, w) }"
    listing = Listing((), Memory(1, 2, 3))
    assert engine_report(listing, graph(text, w=(32, 8))) == engine_report(
        listing, model(text, w=(32, 8))
    )
