"""Small models: a list with one trait each, and a hypothesis strategy that mixes the traits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser

_TEXTS = {
    "only_identity": """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x) => (float[N,2] y) { y = Identity (x) }""",
    "constant_output": """<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x) => (float[2] y, float[2] k) {
  c = Constant <value = float[2] {1, 2}> ()
  k = Neg (c)
  y = Add (x, c)
}""",
    "opset_9": """<ir_version: 4, opset_import: ["" : 9]>
g (float[1,2,4,4] x) => (float[1,2,16,16] y, float[1,64] p)
<float[2,2,1,1] W = {1, -1, 0.5, 2}, float[2] s = {1, 2}, float[2] b = {0, 1},
 float[2] m = {0.5, -1}, float[2] v = {1, 4}, float[4] scales = {1, 1, 2, 2}> {
  c = Conv (x, W)
  n = BatchNormalization (c, s, b, m, v)
  d = Dropout <ratio = 0.5> (n)
  r = Clip <min = 0.0, max = 6.0> (d)
  p1 = Pad <pads = [0, 0, 2, 2, 0, 0, 2, 2], mode = "reflect"> (r)
  y = Upsample <mode = "nearest"> (p1, scales)
  q = Slice <starts = [0, 0], ends = [4, 2], axes = [2, 3]> (y)
  f = Flatten (p1)
  h = Slice <axes = [1], starts = [0], ends = [64]> (f)
  p = Softmax (h)
}""",
    "shape_subgraph": """<ir_version: 8, opset_import: ["" : 13]>
g (float[N,3,4] x) => (float[N,12] y) <int64 zero = {0}> {
  s = Shape (x)
  n = Gather (s, zero)
  axes = Constant <value_ints = [0]> ()
  n1 = Unsqueeze (n, axes)
  rest = Constant <value = int64[1] {-1}> ()
  t = Concat <axis = 0> (n1, rest)
  y = Reshape (x, t)
}""",
    "loop_and_if": """<ir_version: 8, opset_import: ["" : 11]>
g (float[2,3] x, bool c) => (float[2,3] y, float[2,3] z)
<int64 trips = {3}, bool go = {1}, float[2,3] step = {1, 2, 3, 4, 5, 6}> {
  k = Constant <value = float {0.5}> ()
  z = Loop (trips, go, x) <body = b (int64 i, bool cond, float[2,3] a) => (bool on, float[2,3] o) {
    on = Identity (cond)
    u = Unsqueeze <axes = [0]> (a)
    q = Squeeze <axes = [0]> (u)
    w = Mul (q, k)
    o = Add (w, step)
  }>
  y = If (c) <
    then_branch = t () => (float[2,3] p) { p = Softmax (z) },
    else_branch = e () => (float[2,3] r) { r = Add (x, step) }
  >
}""",
    "functions": """<ir_version: 10, opset_import: ["" : 21, "local" : 1]>
g (float[2,3] x) => (float[2,3] y) {
  a = local.twice (x)
  y = local.twice (a)
}
<domain: "local", opset_import: ["" : 21]>
twice (a) => (b) { b = Add (a, a) }""",
    "norms_after_linear": """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x) => (float[N,2] y)
<float[2,2] W = {1, 2, 3, 4}, float[2] s = {1, -2}, float[2] b = {0, 1}, float[2] m = {0.5, -1},
 float[2] v = {0, 4}> {
  a = Gemm <beta = 0.5, transB = 1> (x, W, b)
  n = BatchNormalization (a, s, b, m, v)
  c = MatMul (n, W)
  o = BatchNormalization <epsilon = 0.1> (c, s, b, m, v)
  y = Gemm (o, W)
}""",
    "half_precision": """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,2] x) => (float[N,2] y) {
  h = Cast <to = 10> (x)
  k = Constant <value_floats = [1.5, 2.5]> ()
  kh = Cast <to = 10> (k)
  m = Mul (h, kh)
  y = Cast <to = 1> (m)
}""",
    "already_quantized": """<ir_version: 10, opset_import: ["" : 21]>
g (float[N,2] x) => (float[N,2] y)
<float s = {0.5}, int8 z = {0}, int8[2,2] W = {1, 2, 3, 4}, float[2] sw = {0.25, 0.5}> {
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  w = DequantizeLinear <axis = 1> (W, sw)
  y = MatMul (d, w)
}""",
    "optional_inputs": """<ir_version: 8, opset_import: ["" : 17]>
g (float[N,3] x) => (float[N,3] y) <float top = {1}> {
  c = Clip (x, , top)
  y = Dropout (c, , )
}""",
}


def names() -> tuple[str, ...]:
    """Names of the listed models."""
    return tuple(_TEXTS)


def small_model(name: str) -> ModelProto:
    """One of the listed models."""
    return parser.parse_model(_TEXTS[name])


@st.composite
def models(draw: st.DrawFn) -> ModelProto:
    """A valid model on ``float[2, 4]`` with fan-out, shared weights, constants, norms and bodies.

    Every tensor between the nodes is ``[2, 4]``, so that any may feed any.
    """
    seed = draw(st.integers(0, 2**16))
    builder = _Builder(np.random.default_rng(seed), draw(st.booleans()))
    tensors = ["x"]
    for kind in draw(st.lists(st.sampled_from(_Builder.KINDS), min_size=1, max_size=8)):
        source = draw(st.sampled_from(tensors))
        other = draw(st.sampled_from(tensors))
        tensors.append(builder.grow(kind, source, other))
    outputs = draw(st.lists(st.sampled_from(tensors[1:]), min_size=1, max_size=2, unique=True))
    return builder.model(outputs)


class _Builder:
    KINDS = (
        "Relu", "Add", "MatMul", "Gemm", "ConvNorm", "Identity", "Dropout", "Constant", "If",
        "Reshape", "Transpose",
    )  # fmt: skip

    def __init__(self, generator: np.random.Generator, share: bool) -> None:
        self.generator, self.share = generator, share
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}

    def weight(self, name: str, *shape: int) -> str:
        """An initializer; with sharing, one for each wished name."""
        name = name if self.share else f"{name}{len(self.initializers)}"
        values = np.abs(self.generator.standard_normal(shape, np.float32)) + np.float32(0.1)
        self.initializers.setdefault(name, numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; returns the name of its output."""
        output = f"t{len(self.nodes)}"
        node = helper.make_node(op, inputs, [output], name=f"/{op}_{output}", **attributes)
        self.nodes.append(node)
        return output

    def grow(self, kind: str, source: str, other: str) -> str:
        """Append what ``kind`` stands for; returns its ``[2, 4]`` result."""
        match kind:
            case "Add":
                return self.node("Add", source, other)
            case "MatMul":
                return self.node("MatMul", source, self.weight("W", 4, 4))
            case "Gemm":
                weight, bias = self.weight("W", 4, 4), self.weight("b", 4)
                return self.node("Gemm", source, weight, bias, transB=1, beta=0.5)
            case "ConvNorm":
                return self._norm(source)
            case "Constant":
                value = numpy_helper.from_array(np.full((4,), 0.5, np.float32))
                return self.node("Mul", source, self.node("Constant", value=value))
            case "If":
                return self._if(source, other)
            case "Reshape":
                shape = self.node("Shape", source)
                return self.node("Reshape", other, shape)
            case "Transpose":
                turned = self.node("Transpose", self.weight("V", 4, 4), perm=[1, 0])
                return self.node("MatMul", source, turned)
            case _:
                return self.node(kind, source)

    def _norm(self, source: str) -> str:
        self.initializers.setdefault(
            "axes", numpy_helper.from_array(np.array([2], np.int64), "axes")
        )
        wide = self.node("Unsqueeze", source, "axes")
        result = self.node("Conv", wide, self.weight("K", 4, 4, 1))
        parameters = [self.weight(n, 4) for n in ("gamma", "beta", "mean", "var")]
        normed = self.node("BatchNormalization", result, *parameters)
        return self.node("Squeeze", normed, "axes")

    def _if(self, source: str, other: str) -> str:
        condition = numpy_helper.from_array(np.array(True))
        flag = self.node("Constant", value=condition)
        return self.node(
            "If",
            flag,
            then_branch=_branch("Add", source, self.weight("b", 4), f"p{len(self.nodes)}"),
            else_branch=_branch("Sub", other, source, f"q{len(self.nodes)}"),
        )

    def model(self, outputs: list[str]) -> ModelProto:
        """The finished model."""
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 4]) for name in outputs],
            list(self.initializers.values()),
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def _branch(op: str, a: str, b: str, output: str) -> GraphProto:
    declared = helper.make_tensor_value_info(output, TensorProto.FLOAT, [2, 4])
    return helper.make_graph([helper.make_node(op, [a, b], [output])], op, [], [declared])
