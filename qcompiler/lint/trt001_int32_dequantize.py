"""An INT32 tensor is dequantized: the bias of onnxruntime.quantization.

What
    A DequantizeLinear whose codes are INT32.

Why
    ONNX Runtime stores a bias as INT32 with the scale s_x * s_w. TensorRT has no 32-bit codes;
    it adds the bias to the accumulator in float. No model that onnxruntime.quantization made
    with its defaults parses.

Example::

    b = DequantizeLinear(b_int32, b_scale)
    y = Conv(x, w, b)

Instead
    Keep the bias in float: b_float = b_int32 * b_scale, which is exact in float32 up to 2^24
    steps.

Source
    Rule B25; TensorRT 11.0 ONNX parser; onnxruntime#14229
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule
from qcompiler.verify import DEQUANTIZE, QUANTIZE


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """DequantizeLinear of INT32."""
    for node in r.quantizers(graph, DEQUANTIZE):
        producer = graph.producer(node.inputs[0])
        made_here = producer is not None and producer.op == QUANTIZE  # INT8 there (TRT004)
        if r.type_name(node.inputs[0]) == "int32" and not made_here:
            yield Fault(label(node), "dequantizes INT32 codes (a quantized bias)")


RULE = Rule(
    code="TRT001",
    severity="parser rejects",
    confidence="high",
    source="rule B25; TensorRT 11.0 ONNX parser; onnxruntime#14229",
    verified=SEEN,
    help="store the bias as float: codes times scale",
    check=check,
)
