"""The engine report: what the compiler made of every quantized and every linear node.

A Q/DQ graph is a request. The builder decides which product runs in low precision, which Q costs a
kernel of its own, and what is copied in between; its layer listing says so without a GPU. The
report joins that listing with the ONNX graph by the node names that each layer carries.

Nodes inside the bodies of ``If``, ``Loop`` and ``Scan`` are in the kernels and bytes, not in the
lists of nodes. Nothing here is a measured time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from onnx import ModelProto

from qcompiler.engine import dequantized, traffic
from qcompiler.engine.listing import Layer, Listing, Memory
from qcompiler.engine.macs import macs
from qcompiler.engine.precision import LOW, Arithmetic, arithmetic, computing, is_attention
from qcompiler.engine.quantizers import Quantizer, quantizers
from qcompiler.graph import Graph, Node, label
from qcompiler.load import load

VERSION = 1
BATCH = 8


class LinearNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One linear ONNX node as it runs in the engine.

    Attributes:
        node: Its name.
        op: ``Conv``, ``ConvTranspose``, ``Gemm``, ``MatMul`` or ``Attention``.
        precision: In which it multiplies: ``int8``, ``fp8``, ``fp4``, ``int4``, ``fp16``,
            ``bf16``, ``fp32``; ``unknown`` if no kernel names the node.
        stored: Type of a factor that is stored narrower than it is multiplied, as in weight-only
            quantization; empty if there is none.
        attention: Whether its kernel is a whole attention.
        quantized: Which factors the graph quantizes: ``both``, ``weight``, ``data`` or none.
        macs: Multiply-accumulates, dynamic dimensions taken as the report's batch; 0 if unknown.
        kernel: Name of its kernel; empty if no kernel names it.
        reason: Why it fell back: quantized in the graph, and not in the engine. Empty if it did
            not, ``unknown`` if the graph shows no reason.
    """

    node: str
    op: str
    precision: str
    stored: str
    attention: bool
    quantized: str
    macs: int
    kernel: str
    reason: str


class EngineReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The builder's verdict on one model.

    Attributes:
        batch: What dynamic dimensions were counted as.
        kernels: Number of kernels.
        kinds: Kind -> number of kernels, most frequent first.
        bookkeeping: Kind -> number of layers that only order streams, jump or compute shapes;
            these are no kernels.
        linear: Every linear node of the main graph, in its order.
        quantizers: Every QuantizeLinear of a computed tensor, in the order of the graph.
        movement: Names of the kernels that only copy, reorder or convert.
        bytes_read: Of inputs and constants, over all kernels.
        bytes_written: Of outputs, over all kernels.
        memory: What the engine needs on the device.
        macs: Of all linear nodes.
        low_macs: Share of them multiplied in INT8, FP8, FP4 or INT4, 0 to 1.
    """

    batch: int
    kernels: int
    kinds: dict[str, int]
    bookkeeping: dict[str, int]
    linear: tuple[LinearNode, ...]
    quantizers: tuple[Quantizer, ...]
    movement: tuple[str, ...]
    bytes_read: int
    bytes_written: int
    memory: Memory
    macs: int
    low_macs: float
    schema_version: int = VERSION

    @property
    def bytes_moved(self) -> int:
        """Bytes read and written."""
        return self.bytes_read + self.bytes_written

    @property
    def fallen(self) -> tuple[LinearNode, ...]:
        """Linear nodes that the graph quantizes and the engine does not."""
        return tuple(n for n in self.linear if n.reason)


def engine_report(
    listing: Listing, model: ModelProto | Graph | Path | None, batch: int = BATCH
) -> EngineReport:
    """Join a layer listing with the model that it was built from.

    Args:
        listing: Of the engine.
        model: The very model that was built, Q/DQ nodes included. Types of a ``Graph`` are
            inferred in place; a proto is copied; a file is read without its external data. None if
            it is not at hand: nothing is said of its nodes then.
        batch: What a dynamic dimension counts as, in bytes and in multiply-accumulates.

    Raises:
        InputError: The file or proto is no valid model.
        BackendError: A tensor has a type of unknown width.
    """
    kernels = [n for n in listing.layers if not traffic.is_bookkeeping(n)]
    linear, found = _nodes(kernels, model, batch)
    total = sum(n.macs for n in linear)
    low = sum(n.macs for n in linear if n.precision in LOW.values())
    return EngineReport(
        batch=batch,
        kernels=len(kernels),
        kinds=_counts(kernels),
        bookkeeping=_counts([n for n in listing.layers if traffic.is_bookkeeping(n)]),
        linear=linear,
        quantizers=found,
        movement=tuple(n.name for n in kernels if traffic.is_movement(n)),
        bytes_read=sum(traffic.read(n, batch) for n in kernels),
        bytes_written=sum(traffic.written(n, batch) for n in kernels),
        memory=listing.memory,
        macs=total,
        low_macs=low / total if total else 0.0,
    )


def _nodes(
    kernels: Sequence[Layer], model: ModelProto | Graph | Path | None, batch: int
) -> tuple[tuple[LinearNode, ...], tuple[Quantizer, ...]]:
    """What became of the linear nodes and of the quantizers of a model."""
    if model is None:
        return (), ()
    graph = model if isinstance(model, Graph) else load(model, strict=False)
    graph.infer()
    layers = _by_node(kernels)
    linear = tuple(
        _linear(graph, n, layers.get(label(n), ()), batch)
        for n in graph.nodes
        if n.op in dequantized.LINEAR and n.domain in (None, "", "ai.onnx")
    )
    return linear, quantizers(graph, layers, {n.node: n.kernel for n in linear})


def _by_node(kernels: Sequence[Layer]) -> Mapping[str, Sequence[Layer]]:
    """ONNX node -> the kernels that name it, in execution order."""
    found: dict[str, list[Layer]] = defaultdict(list)
    for layer in kernels:
        for name in layer.onnx_nodes:
            found[name].append(layer)
    return found


def _counts(layers: Sequence[Layer]) -> dict[str, int]:
    counts = Counter(n.kind for n in layers)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _linear(graph: Graph, node: Node, layers: Sequence[Layer], batch: int) -> LinearNode:
    kernel = computing(layers, node.op)
    quantized = dequantized.quantized(graph, node)
    how = Arithmetic(dequantized.UNKNOWN)
    if kernel is not None:
        weight = dequantized.constant_elements(graph, node)
        how = arithmetic(kernel, weight_elements=weight, quantized=quantized == "both")
    kept = how.precision in LOW.values() or (quantized == "weight" and bool(how.stored))
    wanted = quantized in ("both", "weight")
    return LinearNode(
        node=label(node),
        op=node.op,
        precision=how.precision,
        stored=how.stored,
        attention=kernel is not None and is_attention(kernel),
        quantized=quantized,
        macs=macs(graph, node, batch),
        kernel="" if kernel is None else kernel.name,
        reason=dequantized.reason(graph, node, kernel) if wanted and not kept else "",
    )
