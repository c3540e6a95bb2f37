"""A Q/DQ pair serves no kernel of low precision.

What
    A pair that only operators without a weight read (pooling, Resize, Add, Mul, an activation, a
    norm), none of whose results is quantized; for TensorRT for RTX also an AveragePool that is
    quantized on both sides.

Why
    Such operators compute in float. TensorRT can keep one of them in INT8 if its input and its
    output are; TensorRT for RTX never does. The pair is then a kernel, or at least a rounding,
    for nothing. (Behind an INT8 product TensorRT for RTX quantizes in the kernel that it needs
    there anyway; only AveragePool is reported then.)

Example::

    y = AveragePool(DequantizeLinear(QuantizeLinear(x)))

Instead
    Remove the pair. Quantize at the input of the next linear operator, behind the pooling.

Source
    Rule E02, E03, E08, D21; TensorRT documentation, explicit quantization; recorded build,
    tensorrt-rtx 1.7.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler import ops
from qcompiler.graph import Graph, Node, label
from qcompiler.lint import fusions
from qcompiler.lint import reading as r
from qcompiler.lint.base import RTX, SEEN, Fault, LintTarget, Rule
from qcompiler.verify import DEQUANTIZE, QUANTIZE

_FLOAT = frozenset(
    {
        "AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Upsample", "Add", "Sub",
        "Mul", "Div", "Relu", "Clip", "LeakyRelu", "PRelu", "Elu", "Sigmoid", "Tanh",
        "HardSigmoid", "HardSwish", "Softplus", "Gelu", "Softmax", "LayerNormalization",
        "RMSNormalization", "InstanceNormalization", "GroupNormalization",
    }
)  # fmt: skip
_LATER = frozenset({"Add", "Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "BatchNormalization"})


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Pairs of computed tensors whose every reader computes in float for float."""
    scores = {id(d) for found in fusions.attentions(graph) for d in found.scores}
    for node in r.quantizers(graph, QUANTIZE):
        pairs = r.readers(graph, node)
        found = [u for d in pairs for u in r.users(graph, d)]
        told = any(id(d) in scores for d in pairs) or fusions.composite(graph, node)
        if found and not told and all(_is_float(graph, node, u, target) for u in found):
            yield Fault(label(node), f"only {found[0].op} {label(found[0])} reads what it rounds")


def _is_float(graph: Graph, node: Node, user: Node, target: LintTarget) -> bool:
    """Whether an operator makes nothing of its quantized input, and no other rule says so."""
    if not ops.is_standard(user) or user.op not in _FLOAT:
        return False
    after = r.users(graph, user)
    if any(ops.is_weighted(u) and r.operands(graph, u)[1] is not None for u in after):
        return False  # TRT026
    if target.library == RTX and user.op == "AveragePool":
        return True
    if target.library == RTX and any(r.is_quantized(graph, n) for n in _layers(graph, node)):
        return False
    made = graph.producer(node.inputs[0])
    if user.op in _LATER and (_is_linear(made) or _is_residual(graph, user)):
        return False  # TRT027, TRT029, TRT041
    after += [w for u in after if u.op in _LATER for w in r.users(graph, u)]
    return not any(u.op == QUANTIZE for u in after)


def _layers(graph: Graph, node: Node) -> list[Node]:
    return r.nearest(graph, node, ahead=False)


def _is_linear(node: Node | None) -> bool:
    return node is not None and (ops.is_weighted(node) or node.op == "BatchNormalization")


def _is_residual(graph: Graph, node: Node) -> bool:
    """Whether one operand of an Add is the result of a linear operator."""
    made = [graph.producer(t) for t in node.inputs if t.name]
    carried = [r.source(graph, d) for d in made if d is not None and d.op == DEQUANTIZE]
    return node.op == "Add" and any(_is_linear(n) for n in (*made, *carried))


RULE = Rule(
    code="TRT054",
    severity="loses fusion",
    confidence="medium",
    source="rule E02, E03, E08, D21; TensorRT documentation, explicit quantization; "
    "recorded build, tensorrt-rtx 1.7.1",
    verified=SEEN,
    help="remove the Q/DQ pair",
    check=check,
)
