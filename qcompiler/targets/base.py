"""What a target can do, as rows."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """The facts about one linear operator that a row may ask for.

    Attributes:
        op: ``Conv``, ``ConvTranspose``, ``Gemm`` or ``MatMul``.
        kind: ``dense``, ``grouped`` or ``depthwise``; a matrix product is ``dense``, or ``merged``
            if its result is split into equal parts.
        inputs: Input channels a group, or K of a matrix product.
        outputs: Output channels, or N.
        kernel: Spatial kernel size, ``()`` for matrix products.
        rows: M of a matrix product if it is known, else None.
    """

    op: str
    kind: str
    inputs: int
    outputs: int
    kernel: tuple[int, ...] = ()
    rows: int | None = None


@dataclass(frozen=True)
class Capability:
    """One row: what becomes of an operator whose operands are quantized.

    Attributes:
        op: Operator.
        kind: ``dense``, ``grouped``, ``depthwise`` or ``merged``.
        allowed: Whether planning may quantize it.
        weight_granularity: ``axis`` or ``tensor``.
        note: Why, in a few words; it becomes the reason in the plan when the row forbids.
        source: Where the row comes from: a rule id, or a recorded build.
    """

    op: str
    kind: str
    allowed: bool
    weight_granularity: str
    note: str
    source: str


@dataclass(frozen=True)
class Verdict:
    """Whether a layer may be quantized, and why not."""

    ok: bool
    why: str
    row: Capability | None


@dataclass(frozen=True)
class Target:
    """A machine, as far as planning needs to know it.

    Attributes:
        name: Name on the command line.
        activation_format: Storage format of activations.
        symmetric: Whether zero points must be zero.
        opset: Operator set the output is written in, unless the model already has a newer one.
        max_opset: Newest operator set the target reads.
        residual: Which operands of a convolutional residual Add are quantized: ``skip`` or
            ``none``.
        least_reduction: K under which a matrix product is left in float.
        least_outputs: N under which a matrix product is left in float.
        grouped_kernel: Side of the kernel under which a grouped convolution is left in float.
        grouped_channels: A grouped convolution is left in float unless its output channels are a
            multiple of this.
        capabilities: The rows.
    """

    name: str
    activation_format: str
    symmetric: bool
    opset: int
    max_opset: int
    residual: str
    least_reduction: int
    least_outputs: int
    grouped_kernel: int
    grouped_channels: int
    capabilities: tuple[Capability, ...]

    def allows(self, layer: Layer) -> Verdict:
        """Look a layer up."""
        row = next((r for r in self.capabilities if (r.op, r.kind) == (layer.op, layer.kind)), None)
        if row is None:
            return Verdict(
                False, f"unknown on {self.name}: no row for {layer.op} {layer.kind}", None
            )
        if not row.allowed:
            return Verdict(False, f"{row.note} [{row.source}]", row)
        shape = self._shape_reason(layer)
        return Verdict(shape == "", shape, row)

    def _shape_reason(self, layer: Layer) -> str:
        if layer.op in ("MatMul", "Gemm"):
            if layer.rows == 1 or layer.outputs == 1:
                return "a matrix-vector product gains nothing from INT8 [rule D16]"
            if layer.inputs < self.least_reduction or layer.outputs < self.least_outputs:
                return (
                    f"K={layer.inputs}, N={layer.outputs}: under "
                    f"{self.least_reduction} INT8 does not pay [rule D16]"
                )
        if layer.kind in ("grouped", "depthwise") and (
            min(layer.kernel) < self.grouped_kernel or layer.outputs % self.grouped_channels
        ):
            return (
                f"a {layer.kind} convolution with kernel {list(layer.kernel)} and {layer.outputs} "
                "output channels may have no INT8 kernel [rules D12, D13]"
            )
        return ""
