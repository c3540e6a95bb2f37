"""The folded weights, against the algebra in double precision."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from qcompiler.graph import Graph
from qcompiler.load import load
from qcompiler.pipeline import find_pass
from tests.contract.running import run

GROUPS, IN, OUT = 3, 6, 12


def _model(group: int, seed: int) -> ModelProto:
    model = parser.parse_model(f"""<ir_version: 8, opset_import: ["" : 17]>
g (float[2,{IN},5,4] x) => (float[2,{OUT},6,5] y) {{
  z = ConvTranspose <group = {group}> (x, W, b)
  y = BatchNormalization <epsilon = 0.001> (z, gamma, beta, mean, var)
}}""")
    generator = np.random.default_rng(seed)
    arrays = {"W": generator.standard_normal((IN, OUT // group, 2, 2))}
    arrays |= {n: generator.standard_normal(OUT) for n in ("b", "gamma", "beta", "mean")}
    arrays["var"] = generator.uniform(0.01, 4, OUT)
    for name, array in arrays.items():
        tensor = numpy_helper.from_array(array.astype(np.float32), name)
        model.graph.initializer.append(tensor)
    return model


def _folded(model: ModelProto) -> Graph:
    graph = load(model)
    graph.infer()
    assert find_pass("fold-batch-norm")().run(graph) == 1
    graph.sweep()
    return graph


@pytest.mark.parametrize("group", [1, GROUPS])
def test_transposed_convolution(group: int) -> None:
    """Each output sums at most ``n`` products and a bias: rounding stays below ``n + 4`` ulps.

    Before and after may differ by twice the bound ``(n + 4) eps sum |f w x| + |b'|`` (Higham,
    Accuracy and Stability of Numerical Algorithms, section 3.1).
    """
    model = _model(group, seed=group)
    graph = _folded(model)
    x = np.random.default_rng(9).standard_normal((2, IN, 5, 4)).astype(np.float32)
    old, new = run(model, {"x": x})[0], run(graph.proto(), {"x": x})[0]
    absolute = graph.proto()
    for tensor in absolute.graph.initializer:
        magnitude = np.abs(numpy_helper.to_array(tensor))
        tensor.CopyFrom(numpy_helper.from_array(magnitude, tensor.name))
    size = run(absolute, {"x": np.abs(x)})[0]
    given = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    factor = np.abs(given["gamma"]) / np.sqrt(given["var"] + 1e-3)
    size += ((np.abs(given["mean"]) + np.abs(given["b"])) * factor)[:, None, None]
    products = IN // group * 4
    bound = 2 * (products + 4) * np.finfo(np.float32).eps * size
    assert (np.abs(old - new) <= bound).all()


def test_zero_variance_and_negative_scale() -> None:
    """Only epsilon keeps a dead channel finite; the fold divides by the same number."""
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
g (float[1,1,1] x) => (float[1,2,1] y) <float[2,1,1] W = {1, 1}, float[2] gamma = {-2, 3},
 float[2] beta = {1, 1}, float[2] mean = {0.5, 0.5}, float[2] var = {0, 0}> {
  z = Conv (x, W)
  y = BatchNormalization <epsilon = 0.25> (z, gamma, beta, mean, var)
}""")
    graph = _folded(model)
    weight, bias = (graph.values(t) for t in graph.constants())
    assert weight.reshape(-1).tolist() == [-4.0, 6.0]
    assert bias.tolist() == [3.0, -2.0]
