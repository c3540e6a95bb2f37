"""A BatchNormalization cannot be folded.

What
    BatchNormalization behind a convolution with a scale, bias, mean or variance that is computed
    or has another type than the data.

Why
    The convolution can absorb the batch norm only as constant factors of its weight. Otherwise it
    stays arithmetic of its own, and takes the activation with it. Parameters of another type,
    which full TensorRT does not fold, TensorRT for RTX folds.

Example::

    y = BatchNormalization(conv_fp16, scale, bias, mean, var_fp32)

Instead
    Make the four parameters initializers of the type of the data, or fold the batch norm before
    quantizing (qcompiler does).

Source
    Rule D19; TensorRT 11.0 ONNX parser; recorded build, tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import SEEN, TENSORRT, Fault, LintTarget, Rule


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Types and constness of the parameters of batch norms behind convolutions."""
    for node in graph.nodes:
        if node.op != "BatchNormalization" or not ops.is_standard(node):
            continue
        made = graph.producer(node.inputs[0])
        if made is None or made.op not in ("Conv", "ConvTranspose"):
            continue
        given = node.inputs[1:5]
        kinds = {r.type_name(t) for t in given} - {r.type_name(node.inputs[0])}
        if any(r.constant(graph, t) is None for t in given):
            yield Fault(label(node), "has parameters that are computed")
        elif kinds and target.library == TENSORRT:
            yield Fault(label(node), f"has parameters of type {' and '.join(sorted(kinds))}")


RULE = Rule(
    code="TRT055",
    severity="loses fusion",
    confidence="medium",
    source="rule D19; TensorRT 11.0 ONNX parser; recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="fold the batch norm into the convolution",
    check=check,
)
