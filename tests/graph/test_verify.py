"""Each rule of the Q/DQ specification has a model that it alone catches.

onnx's checker with strict shape inference and ONNX Runtime's session accept all but one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnxruntime
import pytest
from onnx import ModelProto, parser

from qcompiler.errors import VerifyError
from qcompiler.graph import Graph
from qcompiler.verify import check_onnx, check_qdq

HEAD = '<ir_version: 10, opset_import: ["" : 21]>\n'


@dataclass(frozen=True)
class Bad:
    """A malformed model: its text, the message of the rule, and who else notices."""

    text: str
    message: str
    onnx_notices: bool = False
    runtime_notices: bool = False


def _pair(constants: str, q: str = "(x, s, z)", dq: str = "(q, s, z)", body: str = "") -> str:
    return f"""g (float[4,6] x) => (float[4,6] y) <{constants}> {{
  q = QuantizeLinear {q}
  {body}
  y = DequantizeLinear {dq}
}}"""


def _weight(constants: str, dq: str = "<axis = 1> (W, s)") -> str:
    codes = ", ".join(["1"] * 24)
    return f"""g (float[N,4] x) => (float[N,6] y) <int8[4,6] W = {{{codes}}}, {constants}> {{
  d = DequantizeLinear {dq}
  y = MatMul (x, d)
}}"""


ONES = ", ".join(["1"] * 6)
BLOCKS = "axis = 0, block_size = 2"
CASES = {
    "scale_zero": Bad(_pair("float s = {0}, int8 z = {0}"), "not positive and finite"),
    "scale_negative": Bad(_pair("float s = {-1}, int8 z = {0}"), "not positive and finite"),
    "scale_length": Bad(_weight("float[5] s = {1, 1, 1, 1, 1}"), "has 5 scales for 6 channels"),
    "axis_out_of_range": Bad(
        _weight(f"float[6] s = {{{ONES}}}", "<axis = 2> (W, s)"),
        "has axis 2 for a tensor of rank 2",
    ),
    "block_shape": Bad(
        _weight(f"float[3,6] s = {{{', '.join(['1'] * 18)}}}", f"<{BLOCKS}> (W, s)"),
        r"scale of shape \[3, 6\] for a tensor of shape \[4, 6\] and blocks of 2",
    ),
    "scale_rank": Bad(
        _weight("float[1,1,1] s = {1}"), "has a scale of rank 3 for a tensor of rank 2"
    ),
    "zero_point_shape": Bad(
        _weight(f"float[6] s = {{{ONES}}}, int8[2] z = {{0, 0}}", "<axis = 1> (W, s, z)"),
        r"zero point of shape \[2\] for a scale of shape \[6\]",
    ),
    "pair_scale": Bad(
        _pair("float s = {1}, float t = {2}, int8 z = {0}", dq="(q, t, z)"), "its scale is not that"
    ),
    "pair_zero_point": Bad(
        _pair("float s = {1}, int8 z = {0}, int8 w = {1}", dq="(q, s, w)"), "its zero point is not"
    ),
    "pair_type": Bad(
        _pair("float s = {1}, int8 z = {0}, uint8 w = {1}", dq="(q, s, w)"),
        "its zero point is not",
        onnx_notices=True,
        runtime_notices=True,
    ),
    "pair_axis": Bad(
        _pair(
            "float[4] s = {1, 1, 1, 1}, int8[4] z = {0, 0, 0, 0}",
            q="<axis = 0> (x, s, z)",
            dq="<axis = 1> (q, s, z)",
        ),
        "its axis is not that",
    ),
    "pair_block": Bad(
        _pair(
            "float[2,6] s = {" + ", ".join(["1"] * 12) + "}",
            q="<axis = 0, block_size = 2> (x, s)",
            dq="<axis = 0, block_size = 3> (q, s)",
        ),
        "its block size is not that",
    ),
}  # fmt: skip


def _model(bad: Bad) -> ModelProto:
    return parser.parse_model(HEAD + bad.text)


@pytest.mark.parametrize("name", CASES)
def test_our_rule_catches_it(name: str) -> None:
    graph = Graph.of(_model(CASES[name]))
    graph.infer()
    with pytest.raises(VerifyError, match=CASES[name].message):
        check_qdq(graph)


@pytest.mark.parametrize("name", CASES)
def test_who_else_would_have_noticed(name: str) -> None:
    """If this fails because a tool learned a rule: good; note it here."""
    bad = CASES[name]
    assert bool(check_onnx(Graph.of(_model(bad)))) is bad.onnx_notices
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        onnxruntime.InferenceSession(
            _model(bad).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        noticed = False
    except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
        noticed = True
    assert noticed is bad.runtime_notices


@pytest.mark.parametrize(
    "text",
    [
        _pair("float s = {0.5}, int8 z = {3}"),
        _pair("float s = {0.5}, uint8 z = {0}", dq="(q, s)"),
        _pair("float s = {0.5}, float t = {0.5}, int8 z = {0}", dq="(q, t, z)"),
        _pair("float s = {1}, int8 z = {0}", q="<axis = 0> (x, s, z)"),
        _pair(
            f"float[6] s = {{{ONES}}}, int8[6] z = {{0, 0, 0, 0, 0, 0}}",
            q="<axis = 1> (x, s, z)",
            dq="<axis = -1> (q, s, z)",
        ),
        _weight(f"float[6] s = {{{ONES}}}"),
        _weight(f"float[2,6] s = {{{', '.join(['1'] * 12)}}}", f"<{BLOCKS}> (W, s)"),
        _weight("float[1] s = {1}"),
    ],
)  # fmt: skip
def test_what_is_right_passes(text: str) -> None:
    graph = Graph.of(parser.parse_model(HEAD + text))
    graph.infer()
    check_qdq(graph)
    onnx.checker.check_model(graph.proto())


def test_a_computed_scale_is_left_alone() -> None:
    graph = Graph.of(
        parser.parse_model(
            HEAD
            + """g (float[4] x) => (float[4] y) {
  q, s, z = DynamicQuantizeLinear (x)
  y = DequantizeLinear (q, s, z)
}"""
        )
    )
    graph.infer()
    check_qdq(graph)
