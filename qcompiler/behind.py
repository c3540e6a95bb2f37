"""Scales behind a matrix product: what does not depend on k can be taken out of the sum.

::

    sum_k (u_m a[m, k]) (b[k, n] r_n)  =  u_m r_n  sum_k a[m, k] b[k, n]

So a scale for each row of the data, and one for each column of the weight, can be one ``Mul`` each
on the result, and the operands keep a constant scalar.
"""

from __future__ import annotations

from qcompiler.graph import Graph, Node, Tensor, label

OUTSIDE = 256.0
"""What is taken out of a scale, so that the pair keeps ``2^-8``: a power of two rounds nothing, and
448 / 256 = 1.75 keeps products of many elements clear of float16's end."""


def scale_result(graph: Graph, node: Node, factor: Tensor) -> None:
    """``Gemm(x, W, c) -> Gemm(x, W) * factor + c``; the node keeps its name, as does its result.

    Args:
        graph: The graph.
        node: A MatMul, or a Gemm with ``beta = 1``.
        factor: Broadcasts to the result.
    """
    result = node.outputs[0]
    proto = graph.node_proto(node)
    bias = node.inputs[2] if len(node.inputs) > 2 and node.inputs[2].name else None
    del proto.input[2:]
    proto.name, proto.output[0] = label(node), graph.fresh(f"{result.name}_normalized")
    graph.drop(node)
    graph.add_proto(proto)
    steps: list[tuple[str, Tensor]] = [("Mul", factor)]
    if bias is not None:
        steps.append(("Add", bias))
    value = graph.nodes[-1].outputs[0]
    value.dtype, value.shape = result.dtype, result.shape
    for op, operand in steps:
        value = graph.add(
            op,
            [value, operand],
            output=f"{result.name}_{op.lower()}",
            dtype=result.dtype,
            shape=result.shape,
        )
    graph.replace(result, value)
