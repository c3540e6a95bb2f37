"""Which INT8 convolutions pay, by the roofline alone, where no compiler can be asked.

What TensorRT for RTX makes of an INT8 convolution is known (see
:mod:`qcompiler.targets.tensorrt_rtx`): a kernel that rounds its input, and one that multiplies and
writes 16 bits.  With x, w and y elements of input, weight and result, M multiply-accumulates, B
bytes a second and rates R::

    FP16:  max((2 x + 2 w + 2 y) / B, 2 M / R16)
    INT8:  3 x / B  +  max((x + w + 2 y) / B, 2 M / R8)

A convolution with K = k k C products a sum gains if K is above about 3 R16 / B.  Neighbours that
share the rounding, or absorb it, are not seen; the compiler sees them.
"""

from __future__ import annotations

import math

from qcompiler.engine.gpus import Gpu
from qcompiler.engine.macs import macs
from qcompiler.graph import Graph, Node, Tensor


def pays(graph: Graph, node: Node, gpu: Gpu) -> bool:
    """Whether a convolution is faster in INT8.

    Args:
        graph: With fixed shapes, inferred.
        node: A ``Conv``.
        gpu: Peaks.
    """
    x, w, y = (_elements(t) for t in (*node.inputs[:2], node.outputs[0]))
    flops, rate = 2 * macs(graph, node, 1), gpu.bandwidth * 1e9
    wide = max(2 * (x + w + y) / rate, flops / gpu.rate("fp16"))
    low = 3 * x / rate + max((x + w + 2 * y) / rate, flops / gpu.rate("int8"))
    return low < wide


def _elements(tensor: Tensor) -> int:
    return math.prod(d if isinstance(d, int) else 1 for d in tensor.shape or ())
