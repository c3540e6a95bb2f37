"""In which precision a product will run, by strong typing and the target's capability rows.

A product of float factors runs in their type. One of two dequantized factors runs in the type of
their codes if nothing stands between (rules D01, D04), the weight's scales run along its output
channels (rule D06), and the row of its operator, kind and format says so; a product inside an
attention may do so in one kernel with the softmax (rules F02, F03).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from qcompiler import ops
from qcompiler.engine import dequantized
from qcompiler.engine.predicted_layer import (
    equal_scales,
    layer_of,
    scale_axis,
    scale_count,
    shape_of,
)
from qcompiler.graph import Graph, Node, label
from qcompiler.lint import fusions
from qcompiler.lint import reading as r
from qcompiler.targets.base import Capability, Layer, Target
from qcompiler.verify import DEQUANTIZE

UNKNOWN, REFUSED = "unknown", "refused"
BASES = {"float16": "fp16", "float32": "fp32", "bfloat16": "bf16", "float64": "fp32"}
LOW = {"int8": "int8", r.FP8: "fp8"}
_FORMATS = {"int8": "int8", r.FP8: "fp8_e4m3"}  # as the rows spell them
_TRIED_RTX = "tensorrt-rtx 1.7.1"
_STAND = frozenset({"Resize", "Upsample"})  # move data, but no DQ moves past them
_FP8_CHANNELS, _FP8_TAPS = 16, 32  # rule D10


@dataclass(frozen=True)
class Product:
    """How one linear node is expected to run.

    Attributes:
        precision: ``int8``, ``fp8``, ``fp16``, ``bf16``, ``fp32``, ``refused`` or ``unknown``.
        source: Rule id or document.
        confidence: ``tried``, ``documented`` or ``reported``.
        verified: Library and release whose builds showed it; empty if none did.
        stored: Type of a weight that is stored narrower than it is multiplied.
        attention: Whether it is expected inside a kernel that is a whole attention.
        reason: Why a quantized node falls back, or why that is unknown.
    """

    precision: str
    source: str
    confidence: str
    verified: str = ""
    stored: str = ""
    attention: bool = False
    reason: str = ""

    @property
    def is_low(self) -> bool:
        """Whether it multiplies in 8 bits."""
        return self.precision in LOW.values()


def products(graph: Graph, target: Target, capability: int | None) -> dict[str, Product]:
    """Linear node of the main graph -> how it is expected to run.

    Args:
        graph: With inferred types and shapes.
        target: Whose rows are read.
        capability: Compute capability, such as 89; None for any new one.
    """
    ask = _Asked(graph, target, capability)
    found = {label(n): ask.product(n) for n in graph.nodes if _is_linear(n)}
    for attention in fusions.attentions(graph):
        fused = ask.attention(attention)
        if fused is not None:
            found |= dict.fromkeys((label(attention.first), label(attention.second)), fused)
    return found


def _is_linear(node: Node) -> bool:
    return node.op in dequantized.LINEAR and ops.is_standard(node)


@dataclass(frozen=True)
class _Asked:
    """One graph and one target."""

    graph: Graph
    target: Target
    capability: int | None

    @property
    def tried(self) -> bool:
        """Whether the rows were read from builds of the target itself."""
        return self.target.family == "tensorrt-rtx"

    def product(self, node: Node) -> Product:
        """How a linear node runs, whatever attention it belongs to."""
        base = BASES.get(str(node.outputs[0].dtype), UNKNOWN)
        typed = Product(base, "strong typing", "documented")
        quantized = dequantized.quantized(self.graph, node)
        if not quantized:
            return typed
        if node.op == "Attention":
            return self._operator(typed)
        if quantized != "both":
            return self._one_sided(node, typed, quantized)
        if any(n.op != DEQUANTIZE for n in self._dequantizers(node)):
            return self._blocks(typed)
        kinds = [r.storage(n) for n in self._dequantizers(node)]
        if len(set(kinds)) > 1:
            return replace(
                typed, precision=UNKNOWN, source="rule D02", confidence="reported",
                reason=f"its factors are {' and '.join(kinds)}",
            )  # fmt: skip
        return self._blocked(node, typed) or self._by_row(node, typed, kinds[0])

    def _dequantizers(self, node: Node) -> list[Node]:
        found = [dequantized.source(self.graph, t).node for t in dequantized.factors(node)]
        return [n for n in found if n is not None]

    def _operator(self, typed: Product) -> Product:
        why = "Attention is a kernel of its own in the float type"
        if self.tried:
            return replace(
                typed, attention=True, reason=why, source="recorded build", confidence="tried",
                verified=_TRIED_RTX,
            )  # fmt: skip
        return replace(
            typed, precision=UNKNOWN, source="recorded build", confidence="reported",
            reason="Attention with quantized inputs: TensorRT for RTX ran it in the float type",
        )  # fmt: skip

    def _blocks(self, typed: Product) -> Product:
        """MXFP8: TensorRT's own operators, whose scales are powers of two for each block."""
        if self.tried:
            return replace(
                typed, source="recorded build", confidence="tried", verified=_TRIED_RTX,
                reason="MXFP8 is widened before every product",
            )  # fmt: skip
        return replace(
            typed, precision=UNKNOWN, source="no capability row", confidence="reported",
            reason="no row is about MXFP8",
        )  # fmt: skip

    def _one_sided(self, node: Node, typed: Product, quantized: str) -> Product:
        """Only one factor comes from DQ: the product runs in the float type (rule D01)."""
        stored = [r.storage(n) for n in self._dequantizers(node)]
        block = any(int(n.attrs.get("block_size", 0) or 0) for n in self._dequantizers(node))
        if quantized == "weight" and block:
            return replace(
                typed, stored=stored[0], source="rules C01, D01", confidence="documented"
            )
        what = "weight" if quantized == "weight" else "activation"
        return replace(
            typed, reason=f"only the {what} is quantized", source="rule D01",
            confidence="documented",
        )  # fmt: skip

    # ------------------------------------------------------------------ what stands in the way

    def _blocked(self, node: Node, typed: Product) -> Product | None:
        """The verdict where something between DQ and the product, or a scale, keeps it in float."""
        for tensor in dequantized.factors(node):
            between = dequantized.source(self.graph, tensor).between
            blocking = [n for n in between if n.op in _STAND or not ops.moves_data(n)]
            firm = next((n for n in blocking if not r.is_transparent(self.graph, n)), None)
            if firm is not None:
                why = f"{firm.op} '{label(firm)}' stands behind DequantizeLinear"
                return replace(typed, reason=why, source="rule D04", confidence="documented")
            if blocking and not self.tried:
                why = f"{blocking[0].op} '{label(blocking[0])}' stands behind DequantizeLinear"
                return replace(
                    typed, precision=UNKNOWN, source="rule D04", confidence="reported",
                    reason=f"{why}; TensorRT for RTX moves it behind the product",
                )  # fmt: skip
            concat = next((n for n in between if n.op == "Concat"), None)
            if concat is not None and not equal_scales(self.graph, concat):
                why = f"the parts of Concat '{label(concat)}' have different scales"
                return replace(typed, reason=why, source="rule E07", confidence="documented")
        return self._by_axis(node, typed)

    def _by_axis(self, node: Node, typed: Product) -> Product | None:
        pair = dequantized.source(self.graph, node.inputs[1]).node
        shape = shape_of(node.inputs[1])
        between = dequantized.source(self.graph, node.inputs[1]).between
        if pair is None or shape is None or between or not r.is_weight(self.graph, pair):
            return None
        if int(pair.attrs.get("block_size", 0) or 0):
            return replace(
                typed, precision=UNKNOWN, source="rule C05", confidence="reported",
                reason="the weight has a scale for each block",
            )  # fmt: skip
        axis, wanted = scale_axis(pair, len(shape)), ops.weight_axis(node, 1, len(shape))
        if scale_count(pair) > 1 and axis != wanted:
            why = f"the weight's scales run along axis {axis}, its output channels along {wanted}"
            return replace(typed, reason=why, source="rule D06", confidence="documented")
        return None

    # ------------------------------------------------------------------ the rows

    def _by_row(self, node: Node, typed: Product, kind: str) -> Product:
        layer = layer_of(self.graph, node)
        row = None if layer is None else self._row(layer.op, layer.kind, kind, node)
        if layer is None or row is None:
            return replace(
                typed, precision=UNKNOWN, source="no capability row", confidence="reported",
                reason=f"no row of {self.target.family} is about {node.op} in {kind} there",
            )  # fmt: skip
        known = replace(typed, source=row.source, confidence=row.confidence, verified=row.verified)
        if row.verdict == "refused":
            return replace(known, precision=REFUSED, reason=row.note)
        if row.verdict == "float":
            return replace(known, reason=row.note)
        return (
            self._by_size(layer, known)
            or self._by_taps(layer, row, known)
            or self._undocumented(layer, row, known)
            or self._by_granularity(node, layer, row, known)
            or replace(known, precision=LOW[kind])
        )

    def _row(self, op: str, kind: str, stored: str, node: Node) -> Capability | None:
        base = str(node.outputs[0].dtype)
        key = (op, kind, _FORMATS.get(stored, stored))
        rows = self.target.rows_for(self.capability)
        return next((c for c in rows if (c.op, c.kind, c.format) == key and base in c.base), None)

    def _by_size(self, layer: Layer, known: Product) -> Product | None:
        """A matrix times a vector is no matrix product."""
        if layer.op not in ("MatMul", "Gemm") or (layer.rows != 1 and layer.outputs != 1):
            return None
        why = "a matrix-vector product: a reduction, no matrix kernel"
        precision = known.precision if self.tried else UNKNOWN
        return replace(
            known, precision=precision, reason=why, source="rule D16", confidence="reported"
        )

    def _by_taps(self, layer: Layer, row: Capability, known: Product) -> Product | None:
        """FP8 convolutions end at 32 taps, in documents and in builds; at 17 channels in those."""
        if layer.op != "Conv" or row.format == "int8":
            return None
        if math.prod(layer.kernel) > _FP8_TAPS:
            why = f"FP8 convolutions have up to {_FP8_TAPS} taps, not {list(layer.kernel)}"
            return replace(known, reason=why, source="rule D10")
        if not self.tried and min(layer.inputs, layer.outputs) <= _FP8_CHANNELS:
            why = (
                f"{layer.inputs} input and {layer.outputs} output channels: FP8 convolutions have "
                f"more than {_FP8_CHANNELS}"
            )
            return replace(known, reason=why, source="rule D10")
        return None

    def _undocumented(self, layer: Layer, row: Capability, known: Product) -> Product | None:
        """What rules leave open where no build was seen."""
        if self.tried:
            return None
        dense = layer.op == "Conv" and layer.kind == "dense"
        if row.verdict == "loses" and not dense:
            return replace(known, precision=UNKNOWN, confidence="reported", reason=row.note)
        odd = layer.outputs % self.target.grouped_channels
        small = bool(layer.kernel) and min(layer.kernel) < self.target.grouped_kernel
        if layer.kind in ("grouped", "depthwise") and (odd or small):
            return replace(
                known, precision=UNKNOWN, source="rules D12, D13", confidence="reported",
                reason=f"a {layer.kind} convolution with kernel {list(layer.kernel)} and "
                f"{layer.outputs} output channels may have no kernel",
            )  # fmt: skip
        return None

    def _by_granularity(
        self, node: Node, layer: Layer, row: Capability, known: Product
    ) -> Product | None:
        """Scales for each channel, where the row knows only one for the tensor."""
        pair = dequantized.source(self.graph, node.inputs[1]).node
        if row.granularity != "tensor" or pair is None or scale_count(pair) <= 1:
            return None
        if layer.kind == "merged":
            return replace(known, reason=row.note)
        if self.tried:  # its rows name the cheaper form, and both were built
            return None
        return replace(
            known, precision=UNKNOWN, confidence="reported",
            reason=f"the weight has a scale for each channel, and the row of {row.format} "
            f"{layer.op} knows one for the tensor",
        )  # fmt: skip

    # ------------------------------------------------------------------ attention

    def attention(self, found: fusions.Attention) -> Product | None:
        """Both products in one kernel with the softmax; None if they run by themselves."""
        base = str(found.second.outputs[0].dtype)
        pairs = [d for d in found.factors.values() if d is not None]
        if not pairs:
            if base not in ("float16", "bfloat16"):
                return None
            return Product(
                BASES[base], "rule F01", "documented", "" if not self.tried else _TRIED_RTX,
                attention=True,
            )  # fmt: skip
        cached = self._cached(found, base)
        if cached is not None:
            return cached
        row = self._row("Attention", "dense", found.storage, found.second)
        if row is None or row.verdict != "runs" or not self._fits(found, row):
            return None
        if found.result is None and not (self.tried and found.storage == r.FP8):
            return None
        return Product(LOW[found.storage], row.source, row.confidence, row.verified, attention=True)

    def _cached(self, found: fusions.Attention, base: str) -> Product | None:
        """One query over keys and values that are stored in 8 bits: one kernel that widens them."""
        if found.query is not None or found.probabilities is not None:
            return None
        if found.key is None or found.value is None:
            return None
        if found.queries != 1 or base not in ("float16", "bfloat16"):
            return None
        return Product(
            BASES[base], "recorded build", "tried", _TRIED_RTX, r.storage(found.key),
            attention=True,
        )  # fmt: skip

    def _fits(self, found: fusions.Attention, row: Capability) -> bool:
        if found.scores or found.queries == 1:
            return False
        if row.heads and found.head not in row.heads:
            return False
        if not row.keys:
            return True
        return row.free_keys if found.keys is None else row.keys[0] <= found.keys <= row.keys[1]
