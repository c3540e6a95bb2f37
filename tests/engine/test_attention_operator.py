"""Attention as the operator, or behind a guard, runs as one kernel, in 8 bits if quantized."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from qcompiler import driver, targets
from qcompiler.driver import Options
from qcompiler.engine.report import EngineReport
from qcompiler.targets.base import MERGES, Target
from tests.engine.engines import report_of
from tests.hand_made import model

RTX = targets.find("tensorrt-rtx:sm89")
QUERIES, PAST, HEADS, SIZE = 48, 16, 4, 16
WIDTH = HEADS * SIZE
MASK = f"bool[2,1,{QUERIES},{QUERIES}] mask"
CACHE = f"float[2,2,{PAST},{SIZE}] pk, float[2,2,{PAST},{SIZE}] pv"


def _block(
    attention: str, *inputs: str, groups: int = HEADS, flat: bool = False, **more: Any
) -> ModelProto:
    """Projections, an attention from ``q``, ``k`` and ``v`` to ``r``, and a projection."""
    narrow = groups * SIZE
    constants: dict[str, Any] = {
        **more,
        "wq": (WIDTH, WIDTH), "wk": (WIDTH, narrow), "wv": (WIDTH, narrow), "wo": (WIDTH, WIDTH),
        "bq": (WIDTH,), "bk": (narrow,), "bv": (narrow,),
    }  # fmt: skip
    text = "".join(f"{n}0 = MatMul (x, w{n})  {n}1 = Add ({n}0, b{n})  " for n in "qkv")
    if flat:
        text += attention.replace("(q, k, v", "(q1, k1, v1") + "  [out] y = MatMul (r, wo)"
    else:
        for name, shape in (("q", "wide"), ("k", "narrow"), ("v", "narrow")):
            text += f"{name}2 = Reshape ({name}1, {shape})  "
            text += f"{name} = Transpose <perm = [0, 2, 1, 3]> ({name}2)  "
        text += attention + "  t = Transpose <perm = [0, 2, 1, 3]> (r)  "
        text += "c = Reshape (t, whole)  [out] y = MatMul (c, wo)"
        constants["wide"] = np.array([2, QUERIES, HEADS, SIZE])
        constants["narrow"] = np.array([2, QUERIES, groups, SIZE])
        constants["whole"] = np.array([2, QUERIES, WIDTH])
    given = ", ".join((f"float[2,{QUERIES},{WIDTH}] x", *inputs))
    return model(
        f"g ({given}) => (float[2,{QUERIES},{WIDTH}] y) {{ {text} }}", opset=23, **constants
    )


FORMS = {
    "plain": _block("[attention] r = Attention (q, k, v)"),
    "causal": _block("[attention] r = Attention <is_causal = 1> (q, k, v)"),
    "masked": _block("[attention] r = Attention (q, k, v, mask)", MASK),
    "added mask": _block(
        "[attention] r = Attention (q, k, v, mask)", MASK.replace("bool", "float")
    ),
    "grouped": _block("[attention] r = Attention <is_causal = 1> (q, k, v)", groups=2),
    "grouped and masked": _block("[attention] r = Attention (q, k, v, mask)", MASK, groups=2),
    "side by side": _block(
        "[attention] r = Attention <q_num_heads = 4, kv_num_heads = 4> (q, k, v)", flat=True
    ),
}
"""What TensorRT imports as the operator."""

LATER = {
    "masked and causal": _block("[attention] r = Attention <is_causal = 1> (q, k, v, mask)", MASK),
    "with a past": _block(
        "[attention] r, nk, nv = Attention <is_causal = 1> (q, k, v, , pk, pv)", CACHE, groups=2
    ),
}
"""What it builds only if it is written out."""

GUARDED = _block(
    "kt = Transpose <perm = [0, 1, 3, 2]> (k)  [attention_scores] s = MatMul (q, kt)  "
    "zero = Constant <value_float = 0.0> ()  four = Constant <value_float = 4.0> ()  "
    "low = Neg (far)  bias = Where (mask, zero, low)  u = Div (s, four)  m = Add (u, bias)  "
    "p = Softmax <axis = -1> (m)  n = IsNaN (p)  g = Where (n, zero, p)  "
    "[attention] r = MatMul (g, v)",
    MASK,
    far=np.array(np.inf, np.float32),
)
"""What TorchScript makes of a Boolean mask."""


def _report(proto: ModelProto, recipe: str, target: Target = RTX) -> EngineReport:
    made = driver.compile(proto, target=target, recipe=recipe, options=Options(force=True))
    return report_of(made.model())


ALL = {**FORMS, **LATER, "guarded": GUARDED}


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize(("recipe", "low"), [("int8+fp16", "int8"), ("fp8+fp16", "fp8")])
def test_quantized_it_is_one_kernel_that_multiplies_in_8_bits(
    form: str, recipe: str, low: str
) -> None:
    found = _report(ALL[form], recipe)
    products = [n for n in found.linear if n.attention]
    assert [n.node for n in products] == ["attention_scores", "attention"]
    assert {n.precision for n in products} == {low}
    assert len({n.kernel for n in products}) == 1
    assert found.low_macs == 1


@pytest.mark.parametrize("form", FORMS)
def test_in_fp16_it_is_no_worse_than_the_operator(form: str) -> None:
    """Nothing is quantized, so nothing is gained but a kernel or two of layout."""
    left = dataclasses.replace(RTX, prepares=MERGES)
    written, operator = (_report(FORMS[form], "fp16", t) for t in (RTX, left))
    assert sum(n.attention for n in operator.linear) == 1
    assert written.kernels <= operator.kernels
    assert written.bytes_moved <= operator.bytes_moved
