"""A convolution with few channels is quantized.

What
    INT8: fewer than 16 channels on one side at least, and no multiple of 8 on any side or a
    kernel that is not square. FP8: at most 16 input or output channels, such as a first layer
    that reads an image.

Why
    Kernels of 8 bit work on groups of channels and pad what is missing, up to 32. The padded
    tensors are stored, so the gain in arithmetic is lost to traffic. TensorRT for RTX pads to a
    multiple of 4, in the kernel that quantizes; a first layer of three channels moves fewer bytes
    in INT8 there, so the rule is silent.

Example::

    y = Conv(x8[1, 3, 32, 32], w8[12, 3, 3, 3])

Instead
    Leave the layer float, or choose multiples of 16 (best 32) when the network is designed.

Source
    Rule D10, D12, D14, J04; ModelOpt, graph_utils.py; TensorRT best practices
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, Node, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import TENSORRT, UNSEEN, Fault, LintTarget, Rule


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Quantized convolutions of one group that NVIDIA's own quantizer would leave out."""
    for node in r.linears(graph):
        if node.op != "Conv" or ops.groups(node) > 1 or not r.is_quantized(graph, node):
            continue
        shape = ops.static(node.inputs[1].shape)
        if shape is None:
            continue
        made, read = shape[:2]
        weight = r.operands(graph, node)[1]
        few = min(made, read) <= 16 if _is_fp8(weight) else _is_few(made, read, shape[2:])
        if few:
            yield Fault(label(node), f"is quantized with {read} input and {made} output channels")


def _is_fp8(weight: Node | None) -> bool:
    return weight is not None and r.storage(weight) == r.FP8


def _is_few(made: int, read: int, kernel: tuple[int, ...]) -> bool:
    if min(made, read) >= 16:
        return False
    return (made % 8 != 0 and read % 8 != 0) or len(set(kernel)) > 1


RULE = Rule(
    code="TRT051",
    severity="advice",
    confidence="medium",
    source="rule D10, D12, D14, J04; ModelOpt, graph_utils.py; TensorRT best practices",
    verified=UNSEEN,
    help="leave the convolution float",
    check=check,
    libraries=(TENSORRT,),
)
