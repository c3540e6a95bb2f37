"""A target file: rows that were found out by trying, on the machine of whoever wrote it.

``qcompiler probe -o FILE.json`` writes one, and wherever a target is named its path may stand. It
names a target, and its rows come before those of that target's family; everything else stays the
family's. Rows are about the one compute capability that was tried. What was seen of each row is
kept beside the verdict, for the reader; planning looks at the verdict only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from qcompiler import formats
from qcompiler.errors import InputError
from qcompiler.granularity import Scales
from qcompiler.plan import encode
from qcompiler.targets.base import LAYERS, Capability, What
from qcompiler.weights import atomic

VERSION = 1
SUFFIX = ".json"
_BASES = ("float32", "float16")
_GRANULARITIES = ("axis", "tensor", "tile", "ratio")
_HINT = "`qcompiler probe -o FILE.json` writes such a file; correct it, or write it again"


class Network(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One engine of a probe.

    Attributes:
        kernels: How many it has.
        bytes_moved: Read and written, over all kernels.
        estimate: Seconds by the roofline; None if there are no figures for such a card.
        median: Seconds of one execution, measured; None if it was not run.
        low: Lower end of the 95 % interval of the median.
        high: Upper end.
    """

    kernels: int
    bytes_moved: int
    estimate: float | None = None
    median: float | None = None
    low: float | None = None
    high: float | None = None


class Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One combination that was tried: most fields as in :class:`Capability`.

    Attributes:
        op: Operator.
        kind: Of its kinds.
        format: Storage format of both operands.
        granularity: Of the weight's scales.
        scales: Of the activation.
        base: Element type of the float graph that was tried.
        verdict: What became of it.
        note: Why.
        source: ``probe``.
        verified: Library, release and card.
        capabilities: Least and most compute capability, such as 89.
        heads: As in the row that was tried.
        keys: Likewise.
        free_keys: Likewise.
        quantized: The engine of the quantized network; None if there is none.
        plain: That of the same network in float.
    """

    op: str
    kind: str
    format: str
    granularity: str
    scales: Scales = "tensor"
    base: str
    verdict: What
    note: str
    source: str = "probe"
    verified: str
    capabilities: tuple[int, ...] = ()
    heads: tuple[int, ...] = ()
    keys: tuple[int, ...] = ()
    free_keys: bool = False
    quantized: Network | None = None
    plain: Network | None = None

    def capability(self) -> Capability:
        """The row as planning reads it."""
        return Capability(
            op=self.op,
            kind=self.kind,
            format=self.format,
            granularity=self.granularity,
            verdict=self.verdict,
            note=self.note,
            source=self.source,
            confidence="tried",
            verified=self.verified,
            base=(self.base,),
            scales=self.scales,
            heads=self.heads,
            keys=(self.keys[0], self.keys[1]) if self.keys else (),
            free_keys=self.free_keys,
            capabilities=(
                (self.capabilities[0], self.capabilities[1]) if self.capabilities else ()
            ),
        )

    @property
    def key(self) -> tuple[str, ...]:
        """What the row is about."""
        return self.op, self.kind, self.format, self.scales, self.base

    def problem(self) -> str:
        """What no row can say; empty if there is nothing."""
        wrong = {
            f"op and kind {self.op} {self.kind}": (self.op, self.kind) not in LAYERS,
            f"format {self.format}": self.format not in formats.names(),
            f"granularity {self.granularity}": self.granularity not in _GRANULARITIES,
            f"base {self.base}": self.base not in _BASES,
            f"keys {list(self.keys)}": len(self.keys) not in (0, 2),
            f"capabilities {list(self.capabilities)}": len(self.capabilities) not in (0, 2),
        }
        return next((text for text, is_wrong in wrong.items() if is_wrong), "")


class TargetFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A target, and rows that were tried for it.

    Attributes:
        target: Name of the target: family, release if that matters, compute capability.
        library: Library and release that was asked.
        card: GPU that the engines ran on; empty if none ran.
        driver: Its driver; empty without a card.
        rows: In the order of the family's.
    """

    schema_version: int = VERSION
    target: str
    library: str
    card: str
    driver: str
    rows: tuple[Row, ...]

    def save(self, path: Path) -> None:
        """Write as indented JSON, atomically.

        Raises:
            InputError: The folder cannot be written.
        """
        with atomic(path) as temporary:
            temporary.write_bytes(encode(self))


def read(path: Path) -> TargetFile:
    """Read a target file.

    Raises:
        InputError: No such file, not a target file, one of another version, or a row that says
            what no row can.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the target file: {error.strerror}", where=str(path), hint=_HINT
        ) from error
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("schema_version")
        if version != VERSION:
            raise InputError(
                f"schema version {version!r} of a target file, expected {VERSION}",
                where=str(path),
                hint="probe again with this release",
            )
        found = msgspec.json.decode(data, type=TargetFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not a target file: {error}", where=str(path), hint=_HINT) from error
    for number, row in enumerate(found.rows):
        if problem := row.problem():
            raise InputError(
                f"row {number} of the target file has {problem}, which no target knows",
                where=str(path),
                hint=_HINT,
            )
    return found
