"""The products between analysis and rewriting: points, decisions and the plan.

All are frozen, written as JSON, read back strictly, and meant to be read by people: change a scale
or move a node to ``skipped`` and ``apply`` does exactly that.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
import numpy as np

from qcompiler import formats
from qcompiler.errors import InputError
from qcompiler.granularity import Granularity, PerAxis, PerBlock, PerTensor, PerTile
from qcompiler.spec import QParams, Spec
from qcompiler.weights import atomic

Base = Literal["float32", "float16", "bfloat16"]
Io = Literal["keep", "float16", "float32"]
VERSION = 1
_T = TypeVar("_T", bound=msgspec.Struct)


class Slot(msgspec.Struct, frozen=True, forbid_unknown_fields=True, order=True):
    """One input of one node.

    Attributes:
        node: The node's name, or ``node_of_<output>`` if it has none.
        index: Input index.
        role: ``activation``, ``weight`` or ``skip`` (the skip branch of a residual Add).
    """

    node: str
    index: int
    role: str


class Storage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A ``Spec`` as it stands in a file.

    Attributes:
        format: Name of the format.
        axis: Null: one scale for the tensor. Without ``block``: one for each index of this axis.
        symmetric: Whether zero points are 0.
        block: Elements along ``axis`` that share a scale. Of a weight, which is never ``dynamic``,
            the side of a square in the last two axes; ``axis`` is that of K.
        dynamic: Whether scales are computed at run time.
        behind: Whether the scales stand behind the product, as a factor of its result, so that Q
            and DQ hold a constant scalar: those of rows, or of output channels.
    """

    format: str
    axis: int | None = None
    symmetric: bool = True
    block: int | None = None
    dynamic: bool = False
    behind: bool = False

    def spec(self) -> Spec:
        """The specification that the numerics understand."""
        granularity: Granularity = PerTensor() if self.axis is None else PerAxis(self.axis)
        if self.axis is not None and self.block is not None:
            granularity = PerBlock(self.axis, self.block) if self.dynamic else PerTile(self.block)
        return Spec(self.format, granularity, self.symmetric)


class Point(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor that may be quantized.

    Attributes:
        tensor: Its name.
        slots: Where it is read quantized; other readers keep the float tensor.
        storage: How it is to be quantized.
        group: Tensors of one group share their parameters; the name is that of its first tensor.
        dtype: Element type of the float tensor, which the scale must have (rule B24).
        fixed: Largest magnitude that is known without calibration, as 1 of a softmax (rule F03).
    """

    tensor: str
    slots: tuple[Slot, ...]
    storage: Storage
    group: str
    dtype: str
    fixed: float | None = None

    @property
    def measured(self) -> bool:
        """Whether its range comes from calibration."""
        return self.fixed is None and not self.storage.dynamic


class Points(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What scan proposes.

    Attributes:
        model_digest: Of the prepared graph.
        target: Name of the target.
        recipe: Name of the recipe.
        activations: Computed tensors.
        weights: Constants.
        skipped: Node -> why it stays in float.
        needs: Node -> nodes without which quantizing it is worse than leaving it in float.
    """

    model_digest: str
    target: str
    recipe: str
    activations: tuple[Point, ...]
    weights: tuple[Point, ...]
    skipped: dict[str, str]
    needs: dict[str, tuple[str, ...]] = {}
    version: int = VERSION


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of one tensor, and why.

    Attributes:
        tensor: Its name.
        slots: Where it is read quantized.
        storage: Format, axis, symmetry.
        dtype: Element type of the scale.
        scale: One number per tensor, one a channel, or one a tile, row by row; of a dynamic one,
            the least that is used.
        zero_point: Integer, or one a channel; 0 if symmetric.
        source: ``calibrated``, ``fixed``, ``dynamic``, ``shared:<tensor>``, ``searched`` or
            ``largest value``.
        why: How the range was chosen, for the reader.
    """

    tensor: str
    slots: tuple[Slot, ...]
    storage: Storage
    dtype: str
    scale: float | tuple[float, ...]
    zero_point: int | tuple[int, ...]
    source: str
    why: str

    def qparams(self) -> QParams:
        """The numbers as arrays of ONNX's shape and type.

        Raises:
            InputError: A scale is not positive and finite (rule B02), or a zero point is no code
                of the format, is not 0 in a symmetric one (rule B04), or has no scale.
        """
        element = formats.get(self.storage.format)
        scale, zero = np.array(self.scale, np.float32), np.array(self.zero_point)
        least, most = (0, 0) if self.storage.symmetric else (element.min, element.max)
        if zero.shape not in ((), scale.shape) or (zero < least).any() or (zero > most).any():
            raise InputError(
                f"the plan has the zero point {self.zero_point}",
                where=self.tensor,
                hint=f"one integer of {least} to {most} for each scale",
            )
        try:
            return QParams(scale, np.broadcast_to(zero, scale.shape).astype(element.dtype))
        except InputError as error:
            raise InputError(error.message, where=self.tensor, hint=error.hint) from error


class QuantPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What will be done to the graph, tensor by tensor.

    Every node that scan proposed is in a slot of ``activations`` and ``weights``, or in
    ``skipped`` with its reason.

    Attributes:
        model_digest: Of the prepared graph that the plan was made for.
        target: Name of the target.
        recipe: Name of the recipe.
        synthetic: Whether the ranges come from synthetic data, and so say nothing about accuracy.
        base: Element type of the float tensors of the result: ``float32``, ``float16`` or
            ``bfloat16``.
        keep: Node -> why it stays in float32 although the base is narrower.
        io: Element type of the float inputs and outputs of the graph; ``keep`` for those it has.
        activations: In graph order.
        weights: In graph order.
        skipped: Node -> why it stays in float; a node named here does, whatever slots it has.
    """

    model_digest: str
    target: str
    recipe: str
    synthetic: bool
    activations: tuple[Decision, ...]
    weights: tuple[Decision, ...]
    skipped: dict[str, str]
    base: Base = "float32"
    keep: dict[str, str] = {}
    io: Io = "keep"
    version: int = VERSION

    def digest(self) -> str:
        """SHA-256 of the plan's bytes, in hex."""
        return hashlib.sha256(encode(self)).hexdigest()

    def quantized_nodes(self) -> frozenset[str]:
        """Names of the nodes that multiply two quantized operands, weights or not."""
        weighted = {s.node for d in self.weights for s in self.slots(d)}
        operands = Counter(
            s.node for d in self.activations for s in self.slots(d) if s.role == "activation"
        )
        return frozenset(weighted | {node for node, count in operands.items() if count > 1})

    def slots(self, decision: Decision) -> tuple[Slot, ...]:
        """Slots of a decision whose nodes are not skipped."""
        return tuple(s for s in decision.slots if s.node not in self.skipped)


def encode(product: msgspec.Struct) -> bytes:
    """A product as indented JSON, dictionaries sorted; the same product gives the same bytes."""
    raw = msgspec.json.encode(product, order="deterministic")
    return msgspec.json.format(raw, indent=1) + b"\n"


def save(product: msgspec.Struct, path: Path) -> None:
    """Write a product atomically.

    Raises:
        InputError: The folder cannot be written.
    """
    with atomic(path) as temporary:
        temporary.write_bytes(encode(product))


def read(path: Path, kind: type[_T]) -> _T:
    """Read a product back.

    Raises:
        InputError: No such file, not this kind of product, or of another version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the {kind.__name__}: {error.strerror}",
            where=str(path),
            hint="check the path",
        ) from error
    try:
        found: dict[str, Any] = msgspec.json.decode(data, type=dict[str, Any])
        if found.get("version") != VERSION:
            raise InputError(
                f"version {found.get('version')!r} of a {kind.__name__}, expected {VERSION}",
                where=str(path),
                hint="make it again with this release",
            )
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise InputError(
            f"not a valid {kind.__name__}: {error}",
            where=str(path),
            hint="it was edited or truncated; make it again",
        ) from error


def require_digest(found: str, expected: str, what: str) -> None:
    """Refuse a product that belongs to another model.

    Raises:
        InputError: The digests differ.
    """
    if found != expected:
        raise InputError(
            f"the {what} belongs to another model (digest {found[:12]}, this one {expected[:12]})",
            hint="make it again for this model, or pass the model it was made for",
        )
