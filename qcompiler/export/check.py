"""Does a bundle hold on this machine: its bytes, its golden outputs, its engine?

Three kinds of finding: ``ok``, ``failed``, and ``unknown`` for what cannot be told here, such as
whether an engine would run on a machine that has no GPU. Only ``failed`` fails the check.
"""

from __future__ import annotations

import platform
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from qcompiler.backends import cuda_driver
from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.backends.tensorrt import LIBRARIES, RTX, installed
from qcompiler.engine import sidecar
from qcompiler.errors import BackendError, InputError, QCompilerError
from qcompiler.export import golden, manifest
from qcompiler.export.bundle import versions
from qcompiler.export.manifest import Entry, Manifest, Tolerance
from qcompiler.report import EQUAL_DB

VERSION = 1
_CHUNK = 1 << 20


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One answer.

    Attributes:
        check: ``files``, ``golden``, ``versions`` or ``engine``.
        status: ``ok``, ``failed`` or ``unknown``.
        text: What was found, for the reader.
    """

    check: str
    status: Literal["ok", "failed", "unknown"]
    text: str


class Checked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All answers about one bundle."""

    bundle: str
    ok: bool
    findings: tuple[Finding, ...]
    schema_version: int = VERSION


def check(bundle: Path, custom_ops: Sequence[Path] = ()) -> Checked:
    """Check a bundle against this machine.

    Args:
        bundle: A folder, or a ``.zip``, which is unpacked to a temporary folder.
        custom_ops: Libraries with custom operators that the user trusts.

    Raises:
        InputError: This is no bundle.
    """
    with _opened(bundle) as (folder, described, damaged):
        findings = [*_files(folder, described, damaged)]
        findings += _golden(folder, described, damaged, custom_ops)
        findings += [*_versions(described), *_engine(folder, described, damaged)]
    failed = any(f.status == "failed" for f in findings)
    return Checked(str(bundle), not failed, tuple(findings))


# ---------------------------------------------------------------------- files


@contextmanager
def _opened(bundle: Path) -> Iterator[tuple[Path, Manifest, dict[str, str]]]:
    """The bundle as a folder, its manifest, and file -> what is wrong with it."""
    if bundle.is_dir():
        described = _manifest(bundle / manifest.NAME)
        yield bundle, described, _damaged(bundle, described)
        return
    with _archive(bundle) as archive, tempfile.TemporaryDirectory(prefix="qcompiler-") as where:
        try:
            data = archive.read(manifest.NAME)
        except (KeyError, zipfile.BadZipFile, OSError) as error:
            raise _no_bundle(bundle, f"there is no readable {manifest.NAME} in it") from error
        described = manifest.decode(data, str(bundle))
        yield Path(where), described, _unpack(archive, described, Path(where))


def _manifest(path: Path) -> Manifest:
    try:
        return manifest.decode(path.read_bytes(), str(path))
    except OSError as error:
        raise _no_bundle(path.parent, f"{manifest.NAME}: {error.strerror}") from error


@contextmanager
def _archive(bundle: Path) -> Iterator[zipfile.ZipFile]:
    try:
        archive = zipfile.ZipFile(bundle)
    except OSError as error:
        raise _no_bundle(bundle, str(error.strerror)) from error
    except zipfile.BadZipFile as error:
        raise _no_bundle(bundle, "it is no zip file, or is truncated") from error
    with archive:
        yield archive


def _no_bundle(bundle: Path, why: str) -> InputError:
    return InputError(
        f"this is no bundle: {why}",
        where=str(bundle),
        hint="pass what `qcompiler export bundle` wrote, a folder or a .zip",
    )


def _damaged(folder: Path, described: Manifest) -> dict[str, str]:
    found = {}
    for name, entry in described.files.items():
        path = folder / name
        problem = _compare(path, entry) if path.is_file() else "is missing"
        if problem:
            found[name] = problem
    return found


def _compare(path: Path, entry: Entry) -> str:
    """What is wrong with a file; empty if nothing is."""
    size = path.stat().st_size
    if size != entry.bytes:
        return f"has {size} bytes instead of {entry.bytes}"
    same = sidecar.digest(path) == entry.sha256
    return "" if same else "has other bytes (SHA-256 differs)"


def _unpack(archive: zipfile.ZipFile, described: Manifest, folder: Path) -> dict[str, str]:
    """Unpack what the manifest lists, and no byte more than it says."""
    found = {}
    for name, entry in described.files.items():
        try:
            info = archive.getinfo(name)
        except KeyError:
            found[name] = "is missing"
            continue
        if info.file_size != entry.bytes:
            found[name] = f"has {info.file_size} bytes instead of {entry.bytes}"
            continue
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with archive.open(info) as source, path.open("wb") as target:
                shutil.copyfileobj(source, target, _CHUNK)
        except (zipfile.BadZipFile, EOFError) as error:
            found[name] = f"cannot be unpacked: {error}"
            continue
        if problem := _compare(path, entry):
            found[name] = problem
    return found


def _files(folder: Path, described: Manifest, damaged: dict[str, str]) -> Iterator[Finding]:
    for name, problem in damaged.items():
        yield Finding("files", "failed", f"{name} {problem}")
    count = len(described.files)
    if not damaged:
        yield Finding("files", "ok", f"all {count} files have the bytes that the manifest lists")
    known = {*described.files, manifest.NAME}
    present = (p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    for name in sorted(set(present) - known):
        yield Finding("files", "unknown", f"{name} is not in the manifest")


# ---------------------------------------------------------------------- golden outputs


def _golden(
    folder: Path, described: Manifest, damaged: dict[str, str], custom_ops: Sequence[Path]
) -> list[Finding]:
    broken = [n for n in damaged if n.startswith(("model/", "golden/"))]
    if broken:
        return [Finding("golden", "unknown", f"not run, because {broken[0]} is damaged")]
    try:
        sets = [golden.read(folder, number) for number in range(described.samples)]
        with OrtSession(folder / described.model, custom_ops=custom_ops) as session:
            samples, outputs = [s for s, _ in sets], [o for _, o in sets]
            found = golden.measure(outputs, session, samples)
    except QCompilerError as error:
        return [Finding("golden", "failed", error.message)]
    return [_compared(tolerance, found) for tolerance in described.tolerances]


def _compared(tolerance: Tolerance, found: dict[str, tuple[str, float]]) -> Finding:
    if tolerance.output not in found:
        return Finding("golden", "failed", f"no golden values of output '{tolerance.output}'")
    _, value = found[tolerance.output]
    passed = value >= tolerance.floor
    if tolerance.measure == "equal":
        text = f"{value:.2%} of elements equal, asked for {tolerance.floor:.2%}"
    else:
        text = f"{_decibel(value)}, asked for {tolerance.floor:.1f} dB"
    text = f"output '{tolerance.output}': {text} ({tolerance.derived})"
    return Finding("golden", "ok" if passed else "failed", text)


def _decibel(value: float) -> str:
    special = {EQUAL_DB: "equal", -EQUAL_DB: "NaN or another shape"}
    return special.get(value, f"SQNR {value:.1f} dB")


def _versions(described: Manifest) -> Iterator[Finding]:
    """Other versions than the bundle was made with: no fault, but the first thing to look at."""
    here = {**versions(), "machine": platform.machine()}
    there = {**described.versions, "machine": described.machine}
    others = [f"{n} {here[n]} (made with {v})" for n, v in there.items() if here.get(n, v) != v]
    text = f"other than where it was made: {', '.join(others)}" if others else ""
    yield Finding("versions", "ok", text or "those of the machine that made it")


# ---------------------------------------------------------------------- the engine


def _engine(folder: Path, described: Manifest, damaged: dict[str, str]) -> list[Finding]:
    if not described.plan:
        return []
    broken = [n for n in damaged if n.startswith("engine/")]
    if broken:
        return [Finding("engine", "unknown", f"not checked, because {broken[0]} is damaged")]
    try:
        facts = sidecar.read(sidecar.beside(folder / described.plan))
    except InputError as error:
        return [Finding("engine", "failed", error.message)]
    device = cuda_driver.device()
    if device is None:
        return [Finding("engine", "unknown", f"{_built(facts)}; not checkable here: no GPU")]
    flexible = bool(facts.options.get("version-compatible"))
    return [_capability(facts, device), _library(facts.library, flexible=flexible)]


def _built(facts: sidecar.Sidecar) -> str:
    where = f" for {', '.join(facts.capabilities)}" if facts.capabilities else ""
    return f"built by {facts.library}{where}"


def _capability(facts: sidecar.Sidecar, device: cuda_driver.Device) -> Finding:
    here = f"{device.name} ({device.capability}, driver {device.driver})"
    if not facts.capabilities:
        text = f"{here}; the facts do not say which GPU the engine was built on"
        return Finding("engine", "unknown", text)
    wanted = ", ".join(facts.capabilities)
    if device.capability in facts.capabilities:
        return Finding("engine", "ok", f"{here} is what it was built for: {wanted}")
    text = f"{here} is not what it was built for: {wanted}; build it again for this GPU"
    return Finding("engine", "failed", text)


def _library(built: str, *, flexible: bool) -> Finding:
    """The library that built a plan must run it: the same release, or a later one of TensorRT.

    TensorRT for RTX: *Engine Compatibility*, "not compatible between different releases".
    TensorRT: the same, unless the plan was built to be version compatible.
    """
    name, _, version = built.partition(" ")
    library = LIBRARIES.get(name)
    if library is None:
        return Finding("engine", "unknown", f"built by {built}, which this release does not know")
    try:
        found = installed(library)
    except BackendError as error:
        return Finding("engine", "failed", f"{error.message}; {error.hint}")
    ours, theirs = _release(found), _release(version)
    fits = ours == theirs or (flexible and library != RTX and ours >= theirs)
    text = f"{library.title} {found} is installed, built by {version}"
    return Finding(
        "engine", "ok" if fits else "failed", text if fits else f"{text}: build it again"
    )


def _release(version: str) -> tuple[int, ...]:
    """Major, minor and patch; the fourth number counts builds of one release."""
    return tuple(int(n) for n in re.findall(r"\d+", version)[:3])
