"""A tiny network for each capability row: the operator in question twice, as it stands in models.

Large enough that arithmetic, not launches, takes the time: where low precision does not pay here,
it pays nowhere. Bias and activation follow each operator, as their fusion is what quantizing may
cost.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx.parser
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from qcompiler.targets.base import Capability

BATCH, CHANNELS, SIDE, GROUPS = 8, 256, 28, 8
ROWS, WIDTH = 512, 2048
TOKENS, HEADS = 128, 8
_HEAD = 64


@dataclass(frozen=True)
class Network:
    """A network and what is asked about it.

    Attributes:
        model: float32, inputs and outputs of fixed shapes.
        nodes: Names of the nodes that the row is about.
        helpers: Operator and kind of what must be quantized with them.
    """

    model: ModelProto
    nodes: tuple[str, ...]
    helpers: tuple[tuple[str, str], ...] = ()


def network(row: Capability) -> Network:
    """The network for a row.

    Args:
        row: One of the operators and kinds that targets are asked about.
    """
    if row.op in ("Conv", "ConvTranspose"):
        return _convolutions(row.op, row.kind)
    if row.op == "Attention":
        return _attention(_HEAD if not row.heads or _HEAD in row.heads else row.heads[0])
    if row.op == "Add":
        return _residual()
    return _merged(row.op) if row.kind == "merged" else _products(row.op)


def _model(text: str, **constants: NDArray[np.float32] | NDArray[np.int64]) -> ModelProto:
    made = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    made.graph.initializer.extend(
        numpy_helper.from_array(values, name) for name, values in constants.items()
    )
    return made


def _normal(name: str, *shape: int, fan_in: int) -> NDArray[np.float32]:
    """Normal numbers that depend on the name only; products keep the size of their inputs."""
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    values = generator.standard_normal(shape) / np.sqrt(fan_in)
    return np.asarray(values.astype(np.float32))


def _bias(name: str, size: int) -> NDArray[np.float32]:
    return _normal(name, size, fan_in=100)


def _convolutions(op: str, kind: str) -> Network:
    groups = {"dense": 1, "grouped": GROUPS, "depthwise": CHANNELS}[kind]
    shape = f"float[{BATCH},{CHANNELS},{SIDE},{SIDE}]"
    said = f"<pads = [1, 1, 1, 1], group = {groups}>"
    fan_in = 9 * CHANNELS // groups
    # Conv and ConvTranspose of as many channels out as in have weights of the same shape.
    weights = {
        name: _normal(name, CHANNELS, CHANNELS // groups, 3, 3, fan_in=fan_in) for name in "AB"
    }
    return Network(
        _model(
            f"""g ({shape} x) => ({shape} y) {{
              h = Relu (x)
              [first] a = {op} {said} (h, A, P)  b = Relu (a)
              [second] c = {op} {said} (b, B, Q)  y = Relu (c)
            }}""",
            P=_bias("P", CHANNELS),
            Q=_bias("Q", CHANNELS),
            **weights,
        ),
        ("first", "second"),
    )


def _products(op: str) -> Network:
    shape = f"float[{ROWS},{WIDTH}]"

    def product(name: str, given: str, weight: str, bias: str, result: str) -> str:
        if op == "Gemm":
            return f"[{name}] {result} = Gemm ({given}, {weight}, {bias})"
        return (
            f"[{name}] {result}0 = MatMul ({given}, {weight})  {result} = Add ({result}0, {bias})"
        )

    return Network(
        _model(
            f"""g ({shape} x) => ({shape} y) {{
              h = Relu (x)
              {product("first", "h", "A", "P", "a")}  b = Relu (a)
              {product("second", "b", "B", "Q", "c")}  y = Relu (c)
            }}""",
            A=_normal("A", WIDTH, WIDTH, fan_in=WIDTH),
            B=_normal("B", WIDTH, WIDTH, fan_in=WIDTH),
            P=_bias("P", WIDTH),
            Q=_bias("Q", WIDTH),
        ),
        ("first", "second"),
    )


def _merged(op: str) -> Network:
    """Query, key and value of one projection: what it is split into is reshaped into heads."""
    width = HEADS * _HEAD
    shape = f"float[{BATCH * TOKENS},{width}]"
    product = (
        "[first] a = Gemm (h, A, P)"
        if op == "Gemm"
        else "[first] a0 = MatMul (h, A)  a = Add (a0, P)"
    )
    return Network(
        _model(
            f"""g ({shape} x) => ({shape} y) {{
              h = Relu (x)
              {product}
              q1, k1, v1 = Split <axis = -1, num_outputs = 3> (a)
              {_heads("q1", "k1", "v1")}
              y = Reshape (c1, flat)
            }}""",
            heads=np.array([BATCH, TOKENS, HEADS, _HEAD]),
            flat=np.array([BATCH * TOKENS, width]),
            scale=np.asarray(_HEAD**-0.5, np.float32),
            A=_normal("A", width, 3 * width, fan_in=width),
            P=_bias("P", 3 * width),
        ),
        ("first",),
    )


def _heads(query: str, key: str, value: str) -> str:
    """Attention over ``heads``, from three projections to ``c1``."""
    return f"""
        q2 = Reshape ({query}, heads)  q = Transpose <perm = [0, 2, 1, 3]> (q2)
        k2 = Reshape ({key}, heads)  k = Transpose <perm = [0, 2, 3, 1]> (k2)
        v2 = Reshape ({value}, heads)  v = Transpose <perm = [0, 2, 1, 3]> (v2)
        [scores] s = MatMul (q, k)  t = Mul (s, scale)  p = Softmax <axis = -1> (t)
        [result] r = MatMul (p, v)
        c1 = Transpose <perm = [0, 2, 1, 3]> (r)
    """


def _attention(head: int) -> Network:
    width = HEADS * head
    shape = f"float[{BATCH},{TOKENS},{width}]"
    weights = {name: _normal(name, width, width, fan_in=width) for name in "QKVO"}
    return Network(
        _model(
            f"""g ({shape} x) => ({shape} y) {{
              h = Relu (x)
              q1 = MatMul (h, Q)  k1 = MatMul (h, K)  v1 = MatMul (h, V)
              {_heads("q1", "k1", "v1")}
              c = Reshape (c1, flat)
              y = MatMul (c, O)
            }}""",
            heads=np.array([BATCH, TOKENS, HEADS, head]),
            flat=np.array([BATCH, TOKENS, width]),
            scale=np.asarray(head**-0.5, np.float32),
            **weights,
        ),
        ("scores", "result"),
        (("MatMul", "dense"),),
    )


def _residual() -> Network:
    shape = f"float[{BATCH},{CHANNELS},{SIDE},{SIDE}]"
    said = "<pads = [1, 1, 1, 1]>"
    weights: Mapping[str, NDArray[np.float32]] = {
        name: _normal(name, CHANNELS, CHANNELS, 3, 3, fan_in=9 * CHANNELS) for name in "ABC"
    }
    return Network(
        _model(
            f"""g ({shape} x) => ({shape} y) {{
              h = Relu (x)
              [first] a = Conv {said} (h, A)  r = Relu (a)
              [second] b = Conv {said} (r, B)
              [join] s = Add (b, h)  t = Relu (s)
              [last] y = Conv {said} (t, C)
            }}""",
            **weights,
        ),
        ("join",),
        (("Conv", "dense"),),
    )
