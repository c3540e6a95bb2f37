"""The file ``MODEL.plan.json`` beside a plan: where the plan comes from and what is in it.

The plan's bytes are the library's and are never touched, so every fact about them goes here: the
library and options that built it, digests that tie it to its model and its plan, the kernels, and
the :class:`~qcompiler.engine.report.EngineReport`. Reading it needs neither a GPU nor the library.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import msgspec

from qcompiler.engine.gate import Gate
from qcompiler.engine.listing import Layer, Memory
from qcompiler.engine.ports import Port
from qcompiler.engine.report import EngineReport
from qcompiler.errors import InputError
from qcompiler.plan import encode
from qcompiler.weights import atomic

VERSION = 1
SUFFIX = ".json"


class CacheFact(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A cache that a build used.

    Attributes:
        kind: ``timing`` or ``runtime``.
        file: Its file name, which says the release, the GPU and the driver.
        before: SHA-256 of what the build read, in hex; empty if there was none.
        after: SHA-256 of what it left.
    """

    kind: str
    file: str
    before: str
    after: str


class Repeat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A second build of the same model with the same options.

    Attributes:
        plan_digest: SHA-256 of its plan, in hex.
        equal_bytes: Whether both plans have the same bytes.
        equal_layers: Whether both engines have the same kernels.
    """

    plan_digest: str
    equal_bytes: bool
    equal_layers: bool


class Sidecar(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything known about one plan.

    Attributes:
        library: Name and version of the builder, such as ``tensorrt-rtx 1.7.1.116``.
        capabilities: Compute capabilities that the plan was built for, such as ``SM89``.
        model: File name of the model.
        model_digest: SHA-256 of the model's file, in hex.
        plan_digest: SHA-256 of the plan, in hex.
        plan_bytes: Size of the plan.
        seconds: Wall time of the build.
        options: What else the build was asked for.
        layers: The kernels, in execution order.
        memory: Bytes that the engine needs on the device.
        report: The verdict on the kernels.
        inputs: Of the model; empty in facts that were written before they had a place here.
        outputs: Likewise.
        caches: What the library could reuse, and what it left there.
        repeat: What a second build gave; None if there was none.
        gate: The verdict against the FP16 form of the source; None if they were not compared.
    """

    schema_version: int = VERSION
    library: str
    capabilities: tuple[str, ...]
    model: str
    model_digest: str
    plan_digest: str
    plan_bytes: int
    seconds: float
    options: dict[str, str | int | float | bool]
    layers: tuple[Layer, ...]
    memory: Memory
    report: EngineReport
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()
    caches: tuple[CacheFact, ...] = ()
    repeat: Repeat | None = None
    gate: Gate | None = None

    def save(self, path: Path) -> None:
        """Write as indented JSON, atomically; the same facts give the same bytes.

        Raises:
            InputError: The folder cannot be written.
        """
        with atomic(path) as temporary:
            temporary.write_bytes(encode(self))


def beside(plan: Path) -> Path:
    """Path of the sidecar of a plan; of a sidecar, itself."""
    return plan if plan.suffix == SUFFIX else plan.with_name(plan.name + SUFFIX)


def digest(path: Path) -> str:
    """SHA-256 of a file, in hex, read in pieces.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"cannot read the file: {error.strerror}", where=str(path), hint="check the path"
        ) from error


def read(path: Path) -> Sidecar:
    """Read a sidecar back.

    Raises:
        InputError: No such file, not a sidecar, or one of another version.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read the facts about the plan: {error.strerror}",
            where=str(path),
            hint="qcompiler build writes this file beside the plan",
        ) from error
    try:
        found = msgspec.json.decode(data, type=dict[str, Any])
        version = found.get("schema_version")
        if version != VERSION:
            raise InputError(
                f"schema version {version!r} of the facts about a plan, expected {VERSION}",
                where=str(path),
                hint="build the plan again with this release",
            )
        return msgspec.json.decode(data, type=Sidecar)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"not the facts about a plan: {error}",
            where=str(path),
            hint="it was edited or truncated; build the plan again",
        ) from error


def require_plan(facts: Sidecar, plan: Path) -> None:
    """Refuse facts that belong to another plan than the one beside them.

    Args:
        facts: From ``beside(plan)``.
        plan: A plan, or a sidecar, which is taken as it is.

    Raises:
        InputError: The plan cannot be read, or its bytes are not those that were built.
    """
    if plan.suffix == SUFFIX:
        return
    if digest(plan) != facts.plan_digest:
        raise InputError(
            "the plan is not the one that these facts describe",
            where=str(beside(plan)),
            hint="build the plan again, or pass the facts alone",
        )
