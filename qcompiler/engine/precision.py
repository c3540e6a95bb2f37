"""The kernel that computes a linear ONNX node, and the arithmetic it uses.

A product runs in INT8, FP8 or FP4 only if *both* factors arrive in that type. If one does, the
kernel widens it first: it is stored narrow (``weight-only``) and multiplied wide. A fused kernel
may widen even two narrow factors; its name then has a cast before the product.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from qcompiler.engine.listing import Layer, Tensor
from qcompiler.engine.traffic import elements, steps

LOW = {"Int8": "int8", "FP8": "fp8", "FP4E2M1": "fp4", "Int4": "int4"}
WIDE = {"Half": "fp16", "BFloat16": "bf16", "Float": "fp32"}
PRODUCTS = frozenset({"correlation", "convolution", "deconv", "gemm", "runtime_fusion"})
UNKNOWN = "unknown"
_ATTENTION = re.compile(r"_gem[mv]_mha")


@dataclass(frozen=True)
class Arithmetic:
    """How a kernel multiplies.

    Attributes:
        precision: ``int8``, ``fp8``, ``fp4``, ``int4``, ``fp16``, ``bf16``, ``fp32``, ``unknown``.
        stored: Type of a factor that is stored narrower than it is multiplied; empty if none is.
    """

    precision: str
    stored: str = ""


def is_attention(layer: Layer) -> bool:
    """Whether a kernel is a whole attention: both products and the softmax between them."""
    return layer.kind == "kgen" and _ATTENTION.match(layer.name) is not None


def writes_low(layer: Layer) -> bool:
    """Whether a kernel stores a tensor in 8 or 4 bits."""
    return any(t.dtype in LOW for t in layer.outputs)


def computing(layers: Sequence[Layer], op: str) -> Layer | None:
    """Which of the layers that name a linear node computes its product.

    Generated kernels before and behind a product (padding, bias, quantization) name it too. Where
    no product kernel does, the generated kernel that sums (or only the last one) does the work.
    """
    products = [n for n in layers if n.kind in PRODUCTS or is_attention(n)]
    if products:
        return products[0]
    sums = [n for n in layers if "Sum" in n.name or op in n.name]
    return next(iter(sums or layers[-1:]), None)


def arithmetic(layer: Layer, *, weight_elements: int, quantized: bool) -> Arithmetic:
    """How a kernel multiplies.

    Args:
        layer: The kernel.
        weight_elements: Of the constant factor of the ONNX node; 0 if both are computed.
        quantized: Whether both factors of the ONNX node come from DequantizeLinear.
    """
    if is_attention(layer):
        return _of_attention(layer, quantized=quantized)
    if layer.kind not in PRODUCTS:
        return Arithmetic(_wide(layer), _narrow(layer.constants))
    left, right = _factors(layer, weight_elements)
    low = [LOW[t.dtype] for t in (left, right) if t is not None and t.dtype in LOW]
    if len(low) == 2 and low[0] == low[1] and not _widens(layer):
        return Arithmetic(low[0])
    for factor in (left, right):
        if low and factor is not None and factor.dtype in WIDE:
            return Arithmetic(WIDE[factor.dtype], low[0])
    return Arithmetic(_wide(layer), low[0] if low else "")


def products(layers: Sequence[Layer]) -> dict[str, int]:
    """Precision -> number of kernels that multiply in it, as their operands alone tell.

    Without the graph a padded weight cannot be told from a further constant, so this is for
    engines whose model is not at hand.
    """
    counts: dict[str, int] = {}
    for layer in layers:
        if layer.kind not in PRODUCTS and not is_attention(layer):
            continue
        constant = any(len(t.dims) > 1 for t in layer.constants)
        how = arithmetic(layer, weight_elements=int(constant), quantized=True)
        counts[how.precision] = counts.get(how.precision, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _widens(layer: Layer) -> bool:
    """Whether a fused kernel dequantizes before it multiplies, as ``CastMulFc`` says."""
    if layer.kind != "runtime_fusion":
        return False
    found = steps(layer)
    return "Fc" in found and "Cast" in found[: found.index("Fc")]


def _factors(layer: Layer, weight_elements: int) -> tuple[Tensor | None, Tensor | None]:
    """The two tensors that are multiplied; further ones are scales, biases and residuals.

    A constant weight may be padded or merged with others, so it has at least the node's elements;
    the compiler may also have prepared it in a kernel of its own, and then it is an input.
    """
    inputs = _matrices(layer.inputs)
    constants = [t for t in _matrices(layer.constants) if elements(t, 1) >= weight_elements]
    if weight_elements and constants:
        return next(iter(inputs), None), max(constants, key=_extent)
    first, second = (*inputs, None, None)[:2]
    return first, second


def _extent(tensor: Tensor) -> tuple[int, bool]:
    """Elements; of two equally large constants, the one in low precision is the weight."""
    return elements(tensor, 1), tensor.dtype in LOW


def _matrices(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Tensors of rank 2 and more, those of the narrowest block format (FP4) before their scales."""
    return sorted((t for t in tensors if len(t.dims) > 1), key=lambda t: t.dtype != "FP4E2M1")


def _of_attention(layer: Layer, *, quantized: bool) -> Arithmetic:
    low = _narrow(layer.inputs)
    return Arithmetic(low) if low and quantized else Arithmetic(_wide(layer), low)


def _narrow(tensors: Sequence[Tensor]) -> str:
    return next((LOW[t.dtype] for t in tensors if len(t.dims) > 1 and t.dtype in LOW), "")


def _wide(layer: Layer) -> str:
    """The float type of a kernel: that of its first float matrix, results before scales."""
    tensors = (*layer.inputs, *layer.outputs, *layer.constants)
    return next((WIDE[t.dtype] for t in tensors if len(t.dims) > 1 and t.dtype in WIDE), UNKNOWN)
