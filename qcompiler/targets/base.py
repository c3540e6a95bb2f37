"""What a target can do, as rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from qcompiler.granularity import Scales

What = Literal["runs", "loses", "float", "refused"]
"""``runs`` in the row's format; ``loses``: runs, but costs more than it saves; ``float``: falls
back; ``refused``: there is no engine."""

Confidence = Literal["tried", "documented", "reported"]
"""``tried`` in a real build, ``documented`` by the vendor, or ``reported`` by users."""


LAYERS = (
    ("Conv", "dense"),
    ("Conv", "grouped"),
    ("Conv", "depthwise"),
    ("ConvTranspose", "dense"),
    ("ConvTranspose", "grouped"),
    ("ConvTranspose", "depthwise"),
    ("Gemm", "dense"),
    ("Gemm", "merged"),
    ("MatMul", "dense"),
    ("MatMul", "merged"),
    ("Attention", "dense"),
    ("Add", "residual"),
)
"""Everything that is asked about: operator and kind."""

ROWS_AND_BLOCKS: tuple[tuple[str, Scales], ...] = (("axis", "token"), ("tile", "block"))
"""Granularity of the weight beside scales of the activation that are computed at run time."""

NEWEST = 999
"""Upper end of ``capabilities`` that is open."""


@dataclass(frozen=True)
class Layer:
    """The facts about one operator that a row may ask for.

    Attributes:
        op: ``Conv``, ``ConvTranspose``, ``Gemm`` or ``MatMul``; ``Attention`` for the two products
            around a softmax; ``Add`` for a residual.
        kind: Of a convolution ``dense``, ``grouped`` or ``depthwise``; a matrix product is
            ``dense``, or ``merged`` if its result is split into equal parts; an Add ``residual``.
        inputs: Input channels a group, or K of a matrix product; elements of an attention's head.
        outputs: Output channels, or N; keys of an attention, 0 if their number is not fixed.
        kernel: Spatial kernel size, ``()`` for matrix products.
        rows: M of a matrix product, or queries of an attention, if it is known, else None.
    """

    op: str
    kind: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    rows: int | None = None


@dataclass(frozen=True, kw_only=True)
class Capability:
    """One row: what becomes of an operator whose operands are quantized.

    Attributes:
        op: Operator, as in ``Layer``.
        kind: As in ``Layer``.
        format: Storage format of both operands.
        granularity: Of the weight's scales: ``axis``, ``tensor``, ``tile`` (128 x 128) or ``ratio``
            (one scalar scale in the graph, and the ratios of the channels as a ``Mul`` behind the
            operator).
        verdict: What the library does.
        note: Why, in a few words; it becomes the reason in the plan unless the layer ``runs``.
        source: Rule id, or document.
        confidence: How it is known.
        verified: Library and release whose builds showed it; empty if it was not tried.
        base: Element types of the float graph that it holds for.
        scales: Of the activation, as in a recipe: ``tensor``, or ``token`` or ``block`` (computed
            at run time).
        heads: Elements of a head that attention may have; ``()`` for any.
        keys: Least and most keys of attention; ``()`` for any number.
        free_keys: Whether their number may be unknown.
        versions: Releases that it holds for: the least, and the first that it does not; ``()`` for
            all.
        capabilities: Compute capabilities that it holds for, such as 89: least and most; ``()``
            for all.
    """

    op: str
    kind: str
    format: str = "int8"
    granularity: str
    verdict: What
    note: str
    source: str
    confidence: Confidence
    verified: str = ""
    base: tuple[str, ...] = ("float32", "float16")
    scales: Scales = "tensor"
    heads: tuple[int, ...] = ()
    keys: tuple[int, int] | tuple[()] = ()
    free_keys: bool = False
    versions: tuple[str, str] | tuple[()] = ()
    capabilities: tuple[int, int] | tuple[()] = ()

    def holds(self, version: str, capability: int | None) -> bool:
        """Whether the row is about a release (empty: any) and a compute capability.

        Where no capability is named, a card is meant that has what newer ones have.
        """
        if self.versions and version:
            low, high = (_numbers(v) for v in self.versions)
            if not low <= _numbers(version) < high:
                return False
        if not self.capabilities:
            return True
        if capability is None:
            return self.capabilities[1] == NEWEST
        return self.capabilities[0] <= capability <= self.capabilities[1]


@dataclass(frozen=True)
class Verdict:
    """Whether a layer may be quantized, and why not."""

    ok: bool
    why: str
    row: Capability | None


# Projections that read one tensor become one product, and their heads are split where the compiler
# leaves the Split in place: 12 to 40 % fewer kernels (recorded builds, tensorrt-rtx 1.7.1).  A
# scale in front of them has one reader now, into which it folds.
MERGES = ("merge-siblings", "split-heads", "fold-scales")
# Attention is quantized only if it is written out, with nothing between the softmax and its Q; the
# scale folds into the projections or their norms, as long as these are not merged.
_WRITTEN_OUT = ("expand-attention", "drop-nan-guards", "fold-scales", "fold-norm-scales")
EXPANDS = (*_WRITTEN_OUT, *MERGES, "fold-requantization")


@dataclass(frozen=True, kw_only=True)
class Target:
    """A machine, as far as planning needs to know it.

    Attributes:
        name: As on the command line, release and compute capabilities included.
        family: Library that the rows are about: the name without these.
        recipe: The recipe that is taken if none is named.
        activation_format: Storage format of activations.
        symmetric: Whether zero points must be zero.
        opset: Operator set the output is written in, unless the model already has a newer one.
        max_opset: Newest operator set the target reads.
        least_reduction: K under which a matrix product is left in float.
        least_outputs: N under which a matrix product is left in float.
        grouped_kernel: Side of the kernel under which a grouped convolution is left in float.
        grouped_channels: A grouped convolution is left in float unless its output channels are a
            multiple of this.
        prepares: Exact passes that its compiler gains by, run last in prepare.
        weighs: Whether quantizing must pay against FP16, and whoever compiles must ask.
        rows: The capability rows; the first that fits is the answer.
        version: Release, such as ``1.7``; empty for any.
        cards: Whether compute capabilities mean anything to it.
        capabilities: Compute capabilities, such as 89; a layer must run on all of them. Empty if
            none was named and there is no default.
    """

    name: str
    family: str
    recipe: str = "int8"
    activation_format: str
    symmetric: bool
    opset: int
    max_opset: int
    least_reduction: int = 16
    least_outputs: int = 16
    grouped_kernel: int = 1
    grouped_channels: int = 1
    prepares: tuple[str, ...] = ()
    weighs: bool = False
    rows: tuple[Capability, ...]
    version: str = ""
    cards: bool = False
    capabilities: tuple[int, ...] = ()

    def at(self, name: str, version: str, capabilities: tuple[int, ...]) -> Target:
        """The same family, for one release and some compute capabilities; empty for its own."""
        return replace(
            self, name=name, version=version, capabilities=capabilities or self.capabilities
        )

    def rows_for(self, capability: int | None) -> Iterator[Capability]:
        """Rows that hold for this release and a compute capability."""
        return (r for r in self.rows if r.holds(self.version, capability))

    def allows(
        self,
        layer: Layer,
        base: str = "float32",
        format: str = "int8",  # noqa: A002
        scales: Scales = "tensor",
    ) -> Verdict:
        """Look a layer up, for the compute capability that says no first.

        Args:
            layer: The layer.
            base: Element type of the float graph around it.
            format: Storage format of its operands.
            scales: Of its activation.
        """
        stored = (format, scales)
        verdicts = [self._allows(layer, base, stored, c) for c in self.capabilities or (None,)]
        return next((v for v in verdicts if not v.ok), verdicts[0])

    def _allows(
        self, layer: Layer, base: str, stored: tuple[str, Scales], capability: int | None
    ) -> Verdict:
        key = (layer.op, layer.kind, *stored)
        rows = (r for r in self.rows_for(capability) if base in r.base)
        row = next((r for r in rows if (r.op, r.kind, r.format, r.scales) == key), None)
        if row is None:
            return Verdict(
                False,
                f"unknown on {self.name}: no row for {layer.op} {layer.kind} {stored[0]}",
                None,
            )
        if row.verdict != "runs":
            return Verdict(False, f"{row.note} [{row.source}]", row)
        if layer.op == "Attention":
            why = _attention_reason(layer, row)
        else:
            why = self._reason(layer, "INT8" if stored[0] == "int8" else "low precision")
        return Verdict(why == "", why, row)

    def _reason(self, layer: Layer, word: str) -> str:
        if layer.op in ("MatMul", "Gemm"):
            if layer.rows == 1 or layer.outputs == 1:
                return f"a matrix-vector product gains nothing from {word} [rule D16]"
            if layer.inputs < self.least_reduction or layer.outputs < self.least_outputs:
                return (
                    f"K={layer.inputs}, N={layer.outputs}: under "
                    f"{self.least_reduction} {word} does not pay [rule D16]"
                )
        if layer.kind in ("grouped", "depthwise") and (
            min(layer.kernel) < self.grouped_kernel or layer.outputs % self.grouped_channels
        ):
            return (
                f"a {layer.kind} convolution with kernel {list(layer.kernel)} and {layer.outputs} "
                "output channels may have no kernel [rules D12, D13]"
            )
        return ""


def _attention_reason(layer: Layer, row: Capability) -> str:
    if row.heads and layer.inputs not in row.heads:
        first, *_, last = row.heads
        sizes = f"{first} to {last}" if len(row.heads) > 4 else ", ".join(map(str, row.heads))
        return f"{row.format} attention takes heads of {sizes}, not {layer.inputs} [{row.source}]"
    if layer.rows == 1:
        return "attention of one query gains nothing from low precision [rule D16]"
    if not row.keys:
        return ""
    bounds = f"{row.format} attention takes {row.keys[0]} to {row.keys[1]} keys"
    if layer.outputs and not row.keys[0] <= layer.outputs <= row.keys[1]:
        return f"{bounds}, not {layer.outputs} [{row.source}]"
    if not layer.outputs and not row.free_keys:
        return f"{bounds}; their number is free here [{row.source}]"
    return ""


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))
