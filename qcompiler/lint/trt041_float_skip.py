"""The skip branch of a residual Add is float.

What
    Add of a quantized convolution's result and a float skip branch, whose sum is quantized again.

Why
    Convolution, Add and activation become one kernel, and the type of the skip branch decides the
    type that it writes. With a float skip it writes float, and the next QuantizeLinear is a
    kernel of its own. TensorRT for RTX does not need it (the skip is read as it comes), so there
    this rule is silent.

Example::

    y = QuantizeLinear(Relu(Add(Conv(x8, w8), skip_float)))

Instead
    Put a Q/DQ pair on the skip branch, the same that the convolution beside it reads. With
    convolutions on both branches, on the shorter one.

Source
    Rule E04, E05; TensorRT documentation, explicit quantization; ModelOpt,
    build_non_residual_input_map
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.lint import reading as r
from qcompiler.lint.base import TENSORRT, UNSEEN, Fault, LintTarget, Rule
from qcompiler.verify import QUANTIZE


def check(graph: Graph, _: LintTarget) -> Iterable[Fault]:
    """Adds whose sum is quantized, of a convolution that nobody else reads and a float tensor."""
    for node in graph.nodes:
        if node.op != "Add" or not _is_quantized(graph, node.outputs[0]):
            continue
        computed = [t for t in node.inputs if r.constant(graph, t) is None]
        branches = [graph.producer(t) for t in computed]
        if len(computed) == 2 and not any(r.dequantizer(graph, t) for t in computed):
            made = next((n for n in branches if n is not None and _is_branch(graph, n)), None)
            if made is not None:
                yield Fault(label(node), f"adds a float tensor to {label(made)}")


def _is_branch(graph: Graph, node: Node) -> bool:
    alone = len(graph.users(node.outputs[0])) == 1
    return node.op == "Conv" and alone and r.is_quantized(graph, node)


def _is_quantized(graph: Graph, tensor: Tensor) -> bool:
    users = [n for n, _ in graph.users(tensor)]
    if len(users) == 1 and users[0].op in ("Relu", "Clip"):
        users = r.readers(graph, users[0])
    return any(u.op == QUANTIZE for u in users)


RULE = Rule(
    code="TRT041",
    severity="loses fusion",
    confidence="medium",
    source="rule E04, E05; TensorRT documentation, explicit quantization; "
    "ModelOpt, build_non_residual_input_map",
    verified=UNSEEN,
    help="put a Q/DQ pair on the skip branch",
    check=check,
    libraries=(TENSORRT,),
)
