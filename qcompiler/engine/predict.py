"""An engine report without an engine: what the capability rows and the graph say will happen.

Full TensorRT lists its kernels only where it runs, on a machine with its GPU. Elsewhere the report
is *predicted*: strong typing fixes the type of every float product, the rows of the target say what
becomes of a quantized one, and documented rules say which Q its producer takes along. Every line
carries the rule it rests on and how that is known; where the rules are silent or contradict each
other the answer is ``unknown``, and so are the number of kernels, the copies and the memory, which
no rule gives.

Bytes are counted by the same rules: each group of nodes that one kernel is expected to compute
reads every tensor from outside, and writes every tensor that is read outside, once.

The rows of TensorRT for RTX are in the same table, so the prediction can be checked against what
its compiler lists; for the rows of full TensorRT there is no such check here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec
from onnx import ModelProto

from qcompiler import lint, targets
from qcompiler.engine import dequantized, predicted_bytes, predicted_products
from qcompiler.engine.fixed import fixed
from qcompiler.engine.macs import macs
from qcompiler.engine.precision import LOW
from qcompiler.engine.predicted_products import Product
from qcompiler.engine.predicted_quantizers import Fate, fates
from qcompiler.engine.shapes import Shapes
from qcompiler.engine.target_string import EngineTarget
from qcompiler.graph import Graph, Node, label
from qcompiler.lint.base import REFUSED, LintTarget
from qcompiler.load import load

VERSION = 1
BATCH = 8
UNKNOWN = ("kernels", "kinds", "bookkeeping", "movement", "memory")
"""What an engine report has and a prediction has not."""

STATEMENT = (
    "predicted from capability rows and documented rules; nothing was built, and no compiler was "
    "asked"
)


class PredictedNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One linear ONNX node as it is expected to run.

    Attributes:
        node: Its name.
        op: ``Conv``, ``ConvTranspose``, ``Gemm``, ``MatMul`` or ``Attention``.
        precision: ``int8``, ``fp8``, ``fp16``, ``bf16``, ``fp32``; ``refused`` if there will be no
            engine because of it; ``unknown`` if no rule tells.
        stored: Type of a weight that is stored narrower than it is multiplied; else empty.
        attention: Whether it is expected inside a kernel that is a whole attention.
        quantized: Which factors the graph quantizes: ``both``, ``weight``, ``data`` or none.
        macs: Multiply-accumulates at the report's shapes; 0 if unknown.
        reason: Why it falls back, or why that is unknown; empty if it does not.
        source: Rule id or document.
        confidence: ``tried``, ``documented`` or ``reported``.
        verified: Library and release whose builds showed it; empty if none did.
    """

    node: str
    op: str
    precision: str
    stored: str
    attention: bool
    quantized: str
    macs: int
    reason: str
    source: str
    confidence: str
    verified: str


class PredictedQuantizer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One QuantizeLinear of a computed tensor.

    Attributes:
        node: Its name.
        fate: ``folded`` into the kernel that computes its input, ``own`` kernel, ``emulated`` (no
            product in low precision reads the codes), or ``unknown``.
        producer: The node that computes its input, past data movement; empty for a graph input.
        reason: What decides it.
        source: Rule id or document.
        confidence: As of a node.
        verified: As of a node.
    """

    node: str
    fate: str
    producer: str
    reason: str
    source: str
    confidence: str
    verified: str


class Prediction(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The part of an engine report that rules can give.

    Attributes:
        predicted: True; an engine report has no such field.
        statement: That nothing was built, in a sentence.
        target: For which the rows hold.
        batch: What dynamic dimensions were counted as.
        shapes: Those that dynamic inputs were fixed at; empty if they were not.
        refused: What the parser or builder is known to reject; there is no engine then.
        linear: Every linear node of the main graph, in its order.
        quantizers: Every QuantizeLinear of a computed tensor, in the order of the graph.
        groups: Groups of nodes that bytes were counted for; by rule, not a number of kernels.
        bytes_read: By rule, over all groups.
        bytes_written: By rule, over all groups.
        unsized: Tensors between groups whose shape is not known; they count nothing.
        macs: Of all linear nodes.
        low_macs: Share of them expected in INT8, FP8, FP4 or INT4, 0 to 1.
        unknown_macs: Share of them that no rule tells of.
        unknown: Fields of an engine report that are missing here.
    """

    schema_version: int = VERSION
    predicted: Literal[True] = True
    statement: str = STATEMENT
    target: str
    batch: int
    shapes: str
    refused: tuple[str, ...]
    linear: tuple[PredictedNode, ...]
    quantizers: tuple[PredictedQuantizer, ...]
    groups: int
    bytes_read: int
    bytes_written: int
    unsized: int
    macs: int
    low_macs: float
    unknown_macs: float
    unknown: tuple[str, ...] = UNKNOWN

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written

    @property
    def fallen(self) -> tuple[PredictedNode, ...]:
        """Quantized linear nodes that are expected in float, refused, or unknown."""
        return tuple(n for n in self.linear if n.reason)


def predict(
    model: ModelProto | Graph | Path,
    target: EngineTarget,
    *,
    shapes: Shapes | None = None,
    batch: int = BATCH,
) -> Prediction:
    """Predict the engine report of a model for a target.

    Args:
        model: The very model that would be built, Q/DQ nodes included. A ``Graph`` is inferred in
            place, a file read without its external data.
        target: Library, release and compute capability; of several the weakest counts.
        shapes: Fixes dynamic inputs at *opt*; None leaves them dynamic.
        batch: What a dynamic dimension counts as.

    Raises:
        InputError: The file or proto is no valid model, or the shapes do not fit its inputs.
    """
    graph = model if isinstance(model, Graph) else load(model, strict=False)
    graph.infer()
    if shapes is not None:
        graph = fixed(graph, shapes)
    rows = targets.find(str(target))
    weakest = min((int(c.removeprefix("SM")) for c in target.capabilities), default=None)
    products = predicted_products.products(graph, rows, weakest)
    found = fates(graph, products, rows)
    moved = predicted_bytes.traffic(graph, products, found, batch)
    linear = tuple(
        _node(graph, n, products[label(n)], batch)
        for n in graph.nodes
        if label(n) in products and n.op in dequantized.LINEAR
    )
    total = sum(n.macs for n in linear)
    low = sum(n.macs for n in linear if n.precision in LOW.values())
    unknown = sum(n.macs for n in linear if n.precision == "unknown")
    return Prediction(
        target=str(target),
        batch=batch,
        shapes=_spelled(graph, fixed_at=shapes is not None),
        refused=_refused(graph, target, weakest),
        linear=linear,
        quantizers=tuple(_quantizer(n, fate) for n, fate in found.items()),
        groups=moved.groups,
        bytes_read=moved.read,
        bytes_written=moved.written,
        unsized=moved.unsized,
        macs=total,
        low_macs=low / total if total else 0.0,
        unknown_macs=unknown / total if total else 0.0,
    )


def _node(graph: Graph, node: Node, product: Product, batch: int) -> PredictedNode:
    return PredictedNode(
        node=label(node),
        op=node.op,
        precision=product.precision,
        stored=product.stored,
        attention=product.attention,
        quantized=dequantized.quantized(graph, node),
        macs=macs(graph, node, batch),
        reason=product.reason,
        source=product.source,
        confidence=product.confidence,
        verified=product.verified,
    )


def _quantizer(node: str, fate: Fate) -> PredictedQuantizer:
    return PredictedQuantizer(
        node=node,
        fate=fate.fate,
        producer=fate.producer,
        reason=fate.reason,
        source=fate.source,
        confidence=fate.confidence,
        verified=fate.verified,
    )


def _refused(graph: Graph, target: EngineTarget, weakest: int | None) -> tuple[str, ...]:
    """Findings of lint that leave no engine."""
    asked = LintTarget(target.library.name, weakest, target.version)
    refused = (d for d in lint.lint(graph, asked) if d.severity in REFUSED)
    return tuple(f"{d.code} {d.where}: {d.message}" for d in refused)


def _spelled(graph: Graph, *, fixed_at: bool) -> str:
    if not fixed_at:
        return ""
    dims = {t.name: "x".join(str(d) for d in t.shape or ()) for t in graph.inputs}
    return ",".join(f"{name}:{shape or 'scalar'}" for name, shape in sorted(dims.items()))
