"""``manifest.json`` of a bundle: what is in it, and what must come out of it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

import msgspec

from qcompiler.errors import InputError

VERSION = 1
NAME = "manifest.json"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file.

    Attributes:
        sha256: Of its bytes, in hex.
        bytes: Its size.
    """

    sha256: str
    bytes: int


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How near an output must come to the golden one.

    Attributes:
        output: Its name.
        measure: ``sqnr_db`` (signal-to-noise ratio in dB, of floats and 8-bit codes) or ``equal``
            (share of equal elements, of all else).
        floor: Least value of the measure that passes.
        seen: Experiment -> value of the measure where the bundle was made; the floor is derived
            from the lowest. 999 dB stands for equal outputs.
        derived: How, in words.
        accuracy: The measure against the float source; null if none was given.
    """

    output: str
    measure: Literal["sqnr_db", "equal"]
    floor: float
    seen: dict[str, float]
    derived: str
    accuracy: float | None = None


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The float model that the model was made from; it is not in the bundle."""

    name: str
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything about a bundle; paths are relative to it, with ``/``.

    Attributes:
        model: The ONNX model.
        plan: The engine; empty if there is none. The facts are beside it.
        quantization: The quantization plan with every scale; empty if there is none.
        target: What the model was made for, as far as anything in the bundle says so.
        library: What built the engine, such as ``tensorrt-rtx 1.7.1.116``; empty without one.
        capabilities: Compute capabilities of the engine, such as ``SM89``.
        source: The float model.
        data: Where the golden inputs come from.
        synthetic: Whether they were made up.
        samples: How many there are.
        tolerances: One for each output that is a tensor.
        versions: Of what made the bundle.
        machine: Kind of CPU that the golden outputs were computed on.
        files: Every file but this one.
    """

    schema_version: int = VERSION
    model: str
    plan: str
    quantization: str
    target: str
    library: str
    capabilities: tuple[str, ...]
    source: Source | None
    data: str
    synthetic: bool
    samples: int
    tolerances: tuple[Tolerance, ...]
    versions: dict[str, str]
    machine: str
    files: dict[str, Entry]


def decode(data: bytes, where: str) -> Manifest:
    """Read a manifest.

    Args:
        data: Its bytes.
        where: The bundle, for messages.

    Raises:
        InputError: It is none, is of another version, or names a file outside the bundle.
    """
    try:
        version = msgspec.json.decode(data, type=dict[str, Any]).get("schema_version")
        if version != VERSION:
            raise InputError(
                f"schema version {version!r} of a bundle, expected {VERSION}",
                where=where,
                hint="check it with the release that wrote it, or export it again with this one",
            )
        found = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InputError(
            f"not the manifest of a bundle: {error}",
            where=where,
            hint="it was edited or truncated; export the bundle again",
        ) from error
    named = {n for n in (found.model, found.plan, found.quantization) if n}
    for name in (*found.files, *named):
        path = PurePosixPath(name)
        inside = not path.is_absolute() and ".." not in path.parts and "\\" not in name
        if not inside or ":" in path.parts[0] or name not in found.files:
            raise InputError(
                f"the manifest names a file that is none of the bundle: {name!r}",
                where=where,
                hint="it was edited; export the bundle again",
            )
    return found
