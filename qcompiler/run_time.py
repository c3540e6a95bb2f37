"""Recipes whose activations are scaled at run time: which products can be, and how they are stored.

=========  ============================  ==============================  ========================
scales     activation ``[..., K]``       weight                          known as
=========  ============================  ==============================  ========================
token      1 for each row of K           1 for each output channel       FP8 row-wise
block      1 for each 128 of a row       1 for each 128 x 128            FP8 of DeepSeek-V3
=========  ============================  ==============================  ========================

Only products of rows with a constant weight: of a convolution, one window is no row of its input,
and the operands of attention are both computed.  In blocks, K must be a multiple of 128: a short
last block is allowed by ONNX, but the kernels that such weights are made for take whole blocks.
"""

from __future__ import annotations

from qcompiler import ops
from qcompiler.graph import Graph, Node
from qcompiler.numerics.run_time import LEAST_SCALE
from qcompiler.plan import Decision, Point, Storage
from qcompiler.recipe import Recipe
from qcompiler.targets.base import Layer, Target

BLOCK = 128
"""Elements of a token, and side of a square of weights, with one scale (DeepSeek-V3)."""

# QuantizeLinear to FP8; in blocks.
_OPSETS = {"token": 19, "block": 21}


def objection(graph: Graph, node: Node, slot: int, recipe: Recipe) -> str:
    """Why the data of a linear operator cannot be scaled at run time; empty if they can.

    Args:
        graph: The prepared graph.
        node: A linear operator.
        slot: Input index of its constant weight.
        recipe: The recipe; one of calibrated scales never objects.
    """
    if recipe.scales == "tensor":
        return ""
    if graph.opset < _OPSETS[recipe.scales]:
        return f"FP8 with scales of a {recipe.scales} needs opset {_OPSETS[recipe.scales]}"
    if node.op not in ("MatMul", "Gemm"):
        return f"a {node.op} has no tokens: row-wise and block scales are for matrix products"
    if slot == 0:
        return "its weight stands on the left: a token is no row of its data"
    if node.op == "Gemm" and node.attrs.get("transA", 0):
        return "its data are transposed (transA): a token is no row of them"
    if node.op == "Gemm" and float(node.attrs.get("beta", 1.0)) != 1.0:
        return "its bias is scaled (beta), and would have to be outside the product"
    if recipe.scales == "token":
        return ""
    if node.inputs[0].shape is None:
        return "the rank of its data is unknown"
    length = ops.reduction_length(node, slot, ops.constant_shape(node.inputs[slot]))
    if length % BLOCK:
        return f"K={length} is no multiple of {BLOCK}: kernels for blocks take whole ones"
    return ""


def activation_storage(node: Node, slot: int, recipe: Recipe) -> Storage | None:
    """How the data of a product are stored; None if calibration scales them."""
    if recipe.scales == "tensor":
        return None
    length = ops.reduction_length(node, slot, ops.constant_shape(node.inputs[slot]))
    block = length if recipe.scales == "token" else BLOCK
    return Storage(recipe.format, -1, block=block, dynamic=True, behind=recipe.scales == "token")


def weight_storage(node: Node, slot: int, recipe: Recipe, granularity: str) -> Storage:
    """How the weight of a linear operator is stored.

    Args:
        node: The operator.
        slot: Input index of the weight.
        recipe: The recipe.
        granularity: Of the capability row.
    """
    rank = len(ops.constant_shape(node.inputs[slot]))
    axis = ops.weight_axis(node, slot, rank)
    if granularity == "tile":
        reduced = rank - 2 if axis == rank - 1 else rank - 1
        return Storage(recipe.format, reduced, block=BLOCK)
    behind = granularity == "ratio"
    return Storage(recipe.format, axis if behind or granularity == "axis" else None, behind=behind)


def decision(point: Point) -> Decision:
    """The decision of a point that needs none: the graph computes its scales."""
    block = point.storage.block
    return Decision(
        point.tensor,
        point.slots,
        point.storage,
        point.dtype,
        LEAST_SCALE,
        0,
        "dynamic",
        f"largest value of each {block} elements / 448, computed at run time",
    )


def notice(recipe: Recipe, target: Target) -> str:
    """What is known to prevent a recipe on a target as a whole; empty if nothing is."""
    if recipe.scales == "tensor" or not recipe.quantize:
        return ""
    verdict = target.allows(
        Layer("MatMul", "dense", BLOCK, BLOCK), recipe.base, recipe.format, recipe.scales
    )
    if verdict.ok:
        return ""
    others = "target onnxruntime simulates it, and the recipe fp8-rowwise has a kernel"
    tail = f"; {others}" if recipe.scales == "block" else ""
    return f"{recipe.name} on {target.name}: {verdict.why}{tail}"
