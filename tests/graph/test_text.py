"""The listing is faithful, deterministic and readable."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import parser

from qcompiler.load import load
from qcompiler.text import constant_text, listing
from tests.golden import constant


@pytest.mark.parametrize(
    ("declared", "shown"),
    [
        ("float [0.1, 1, 1e-7, 3e38]", "float[4] = 0.1, 1, 1e-07, 3e+38"),
        ("float 0.2", "float = 0.2"),
        ("float16 [[0.1], [2]]", "float16[2, 1] = 0.1, 2"),
        ("bfloat16 [0.1]", "bfloat16[1] = 0.100098"),
        ("int4 [[1, -2], [3, -8]]", "int4[2, 2] = 1, -2, 3, -8"),
        ("uint4 [15]", "uint4[1] = 15"),
        ("float8e4m3fn [448, 0.5]", "float8e4m3fn[2] = 448, 0.5"),
        ("float4e2m1 [6, -0.5]", "float4e2m1[2] = 6, -0.5"),
        ("bool [1, 0]", "bool[2] = 1, 0"),
        ("int64 []", "int64[0] ="),
        ("full(value=2, shape=[9])", "float[9] = 2 .. 2, sha256 1056a135e0c6"),
    ],
)
def test_constants(declared: str, shown: str) -> None:
    assert constant_text(constant(declared)) == shown


def test_every_float32_reads_back() -> None:
    """Shortest round trip: the text of each value names that value and no other."""
    bits = np.random.default_rng(0).integers(0, 2**32, 2000, np.uint32)
    for value in bits.view(np.float32)[np.isfinite(bits.view(np.float32))]:
        text = constant_text(np.array(value)).removeprefix("float = ")
        assert np.float32(text) == value


def test_names_are_shown_when_asked() -> None:
    model = parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
g (float[2] x) => (float[2] "out/y") { ["/relu"] "out/y" = Relu (x) }""")
    graph = load(model)
    assert '  "out/y" = Relu (x)\n' in listing(graph)
    assert '  ["/relu"] "out/y" = Relu (x)\n' in listing(graph, names=True)


def test_the_listing_of_nodes_is_onnx_text() -> None:
    """It parses, and gives the same listing again."""
    text = """<ir_version: 8, opset_import: ["" : 17, "com.example" : 1]>
g (float[N,?] x, bool c, seq(float[2]) s) => (float[] y) {
  a = com.example.Op <alpha = 1.0, beta = [0.5, 2.0], name = "a \\"b\\"", e: ints = []> (x, , x)
  y = If (c) <
    then_branch = t () => (float[2] p) { p = Relu (a) },
    else_branch = e () => (float[2] q) { q = Constant <value = float[2] {1, 2}> () }
  >
}"""
    once = listing(load(parser.parse_model(text)))
    again = parser.parse_model(once.replace("<opset_import", "<ir_version: 8, opset_import"))
    assert listing(load(again)) == once
