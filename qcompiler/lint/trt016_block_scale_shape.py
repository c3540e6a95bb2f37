"""A scale per block does not fit the data.

What
    A scale of more than one element and the rank of the data (or another rank above 1) that
    differs from the data's shape in other places than axis, does not divide it there, or blocks
    another dimension than the last two.

Why
    Exactly one dimension may be blocked, the one that axis names, into whole blocks:
    shape[axis] = blocks * size.

Example::

    w = DequantizeLinear<axis = 0, block_size = 4>(w_int4[10, 8], scale[3, 8])

Instead
    Pad K to whole blocks, and block the reduction axis of a matrix: [K / b, N].

Source
    Rule B15, B16; TensorRT 11.0 ONNX parser and network validation
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Shapes of block scales."""
    for node in r.quantizers(graph):
        scale, shape = r.scales(graph, node), node.inputs[0].shape
        if scale is None or scale.ndim < 2 or scale.size < 2 or shape is None:
            continue
        if scale.ndim != len(shape):
            yield Fault(label(node), f"has a scale of rank {scale.ndim} for rank {len(shape)}")
            continue
        sizes = {i: d for i, d in enumerate(shape) if isinstance(d, int)}
        blocked = [i for i, d in sizes.items() if d != scale.shape[i]]
        axis = int(node.attrs.get("axis", 1)) % len(shape)
        fits = all(
            i == axis and i >= len(shape) - 2 and sizes[i] % scale.shape[i] == 0 for i in blocked
        )
        if not fits:
            yield Fault(
                label(node),
                f"has a scale of shape {list(scale.shape)} for a tensor of shape {list(shape)} "
                f"with axis {axis}",
            )


RULE = Rule(
    code="TRT016",
    severity="parser rejects",
    confidence="high",
    source="rule B15, B16; TensorRT 11.0 ONNX parser and network validation",
    verified=SEEN,
    help="use whole blocks on the axis named by axis, one of the last two",
    check=check,
)
