"""What a compilation did, as one value: for the summary, for ``--report`` and for scripts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import msgspec

from qcompiler import ops
from qcompiler.compare import Distance
from qcompiler.graph import Graph, Node, Tensor, label
from qcompiler.plan import QuantPlan

VERSION = 1
# SQNR in dB of equal outputs; JSON has no infinity, and no measured ratio comes near.
EQUAL_DB = 999.0


class OutputError(msgspec.Struct, frozen=True):
    """How far one output is from the float model's, over the held-out samples.

    Attributes:
        output: Name.
        sqnr_db: Signal-to-quantization-noise ratio in dB; higher is better. 999 if the outputs
            are equal, -999 if one has a NaN or an infinity that the other has not.
        cosine: Cosine similarity.
        sqnr_db_optimized: The same with ONNX Runtime's graph optimizations on; None if the
            optimizer cannot load the model.
        divergence: Of the logits of a language model: Kullback-Leibler divergence in nats a
            token, so about ``exp(divergence)`` times the perplexity; 999 if one is not finite.
    """

    output: str
    sqnr_db: float
    cosine: float
    sqnr_db_optimized: float | None = None
    divergence: float | None = None

    @classmethod
    def of(cls, output: str, plain: Distance, optimized: Distance | None) -> OutputError:
        """From distances, whose numbers may be infinite.

        Args:
            output: Name.
            plain: Without graph optimizations.
            optimized: With them, if they could be measured.
        """
        rest = None if optimized is None else _finite(optimized.sqnr_db)
        nats = None if plain.divergence is None else _finite(plain.divergence)
        return cls(output, _finite(plain.sqnr_db), plain.cosine, rest, nats)

    @property
    def breaks_when_optimized(self) -> bool:
        """Whether graph optimizations cost more than 10 dB and leave less than 40."""
        optimized = self.sqnr_db_optimized
        return optimized is not None and optimized < min(self.sqnr_db - 10, 40)


class Metric(msgspec.Struct, frozen=True):
    """A task metric of the float and the quantized model.

    Attributes:
        name: ``top1``, ``perplexity`` or the name that the user's scorer gives.
        before: Of the original model.
        after: Of the compiled one.
        samples: How many samples it was measured on.
    """

    name: str
    before: float
    after: float
    samples: int


class Coverage(msgspec.Struct, frozen=True):
    """Shares of the work that run on quantized operands.

    Attributes:
        macs: Of multiply-accumulates of linear operators (counted for batch 1, and 1 for every
            unknown axis), 0 to 1.
        weight_bytes: Of the bytes of weights of linear operators in the original, 0 to 1.
        nodes: Quantized linear operators.
        linear_nodes: All linear operators.
    """

    macs: float
    weight_bytes: float
    nodes: int
    linear_nodes: int


class Report(msgspec.Struct, frozen=True):
    """One compilation.

    ``skipped`` says for each node why it is not quantized, ``kept`` why it stays in float32 in a
    16-bit graph.
    """

    model: str
    output: str
    target: str
    recipe: str
    data: str
    synthetic: bool
    samples: int
    held_out: int
    bytes_before: int
    bytes_after: int
    ops_before: dict[str, int]
    ops_after: dict[str, int]
    coverage: Coverage
    outputs: tuple[OutputError, ...]
    metric: Metric | None
    skipped: dict[str, str]
    kept: dict[str, str]
    warnings: tuple[str, ...]
    timings: dict[str, float]
    passes: dict[str, int]
    plan_digest: str
    versions: dict[str, str]
    schema_version: int = VERSION


def _finite(value: float) -> float:
    return min(max(value, -EQUAL_DB), EQUAL_DB)


def op_counts(graph: Graph) -> dict[str, int]:
    """Operator -> number of nodes, most frequent first."""
    names = (n.op if ops.is_standard(n) else f"{n.domain}::{n.op}" for n in graph.nodes)
    return dict(sorted(Counter(names).items(), key=lambda item: (-item[1], item[0])))


def coverage(graph: Graph, plan: QuantPlan) -> Coverage:
    """Shares of a prepared graph's work that a plan quantizes."""
    quantized = plan.quantized_nodes()
    macs = {True: 0, False: 0}
    size = {True: 0, False: 0}
    seen: set[int] = set()
    nodes = 0
    for node in graph.nodes:
        if not ops.is_weighted(node):
            continue
        nodes += 1
        chosen = label(node) in quantized
        macs[chosen] += macs_of(graph, node)
        slot = ops.weight_slot(graph, node)
        if slot is not None and id(node.inputs[slot]) not in seen:
            seen.add(id(node.inputs[slot]))
            size[chosen] += graph.constant_bytes(node.inputs[slot])
    return Coverage(
        _share(macs), _share(size), len(quantized & {label(n) for n in graph.nodes}), nodes
    )


def _share(parts: Mapping[bool, int]) -> float:
    total = parts[True] + parts[False]
    return parts[True] / total if total else 0.0


def _elements(tensor: Tensor) -> int:
    """Elements of a tensor; unknown axes count as 1."""
    return math.prod(d if isinstance(d, int) else 1 for d in tensor.shape or ())


def macs_of(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of a linear operator; an unknown axis counts as 1."""
    size = _elements(node.outputs[0])
    slot = ops.weight_slot(graph, node)
    if node.op == "ConvTranspose" and slot is not None:
        # Every input element meets every tap of every output channel of its group.
        taps = ops.constant_shape(node.inputs[slot])[1:]
        return _elements(node.inputs[0]) * math.prod(taps)
    if slot is not None:
        return size * ops.reduction_length(node, slot, ops.constant_shape(node.inputs[slot]))
    inner = (node.inputs[0].shape or [1])[-1]
    return size * (inner if isinstance(inner, int) else 1)
