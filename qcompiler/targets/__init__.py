"""One file a target family: capability rows, each with its source.

Planning, the linter and the documentation read the same rows; a combination that no row names is
*unknown*, which is a verdict of its own, not a permission.

A target is named by its family, a release of it if that matters, and compute capabilities::

    tensorrt-rtx    tensorrt-rtx-1.7:sm89,sm120    tensorrt-11.4:sm90    onnxruntime

or by a file that ``qcompiler probe`` wrote (:mod:`qcompiler.targets.file`): its path ends in
``.json``, and its rows come first.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import replace
from pathlib import Path

from qcompiler.errors import InputError, UsageError
from qcompiler.targets import file
from qcompiler.targets.base import Target

_NO_TARGETS = ("base", "file")
_FORM = re.compile(r"(?P<family>[a-z-]*[a-z])(?:-(?P<version>\d+(?:\.\d+)*))?(?::(?P<where>.*))?")


def names() -> tuple[str, ...]:
    """Names of all target families."""
    found = (m.name for m in pkgutil.iter_modules(__path__) if m.name not in _NO_TARGETS)
    return tuple(sorted(n.replace("_", "-") for n in found))


def find(name: str) -> Target:
    """The target of this name, or of this target file.

    Raises:
        UsageError: There is no such family, or what follows it is no release and no list of
            compute capabilities.
        InputError: The file cannot be read, or is no target file.
    """
    if not is_file(name):
        return _named(name)
    found = file.read(Path(name.strip()))
    try:
        family = _named(found.target)
    except UsageError as error:
        raise InputError(
            f"the target file is about {found.target!r}: {error.message}",
            where=name,
            hint=error.hint,
        ) from error
    return replace(family, rows=(*(row.capability() for row in found.rows), *family.rows))


def is_file(name: str) -> bool:
    """Whether a target is named by a file."""
    return name.strip().endswith(file.SUFFIX)


def _named(name: str) -> Target:
    match = _FORM.fullmatch(name.strip())
    if match is None or match["family"] not in names():
        raise UsageError(f"there is no target {name!r}", hint=f"targets are: {', '.join(names())}")
    module = importlib.import_module(f"qcompiler.targets.{match['family'].replace('-', '_')}")
    family: Target = module.TARGET
    where = match["where"]
    found = () if where is None else tuple(_capability(word) for word in where.split(","))
    if where is not None and not family.cards:
        raise UsageError(f"{family.name} has no compute capabilities", where=name)
    return family.at(name.strip(), match["version"] or "", found)


def _capability(word: str) -> int:
    match = re.fullmatch(r"sm(\d{2,3})", word.strip().lower())
    if match is None:
        raise UsageError(
            f"{word!r} is no compute capability", hint="write for example tensorrt-rtx:sm89"
        )
    return int(match[1])
