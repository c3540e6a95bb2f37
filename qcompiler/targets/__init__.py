"""One file a target family: capability rows, each with its source.

Planning, the linter and the documentation read the same rows; a combination that no row names is
*unknown*, which is a verdict of its own, not a permission.

A target is named by its family, a release of it if that matters, and compute capabilities::

    tensorrt-rtx    tensorrt-rtx-1.7:sm89,sm120    tensorrt-11.4:sm90    onnxruntime
"""

from __future__ import annotations

import importlib
import pkgutil
import re

from qcompiler.errors import UsageError
from qcompiler.targets.base import Target

_FORM = re.compile(r"(?P<family>[a-z-]*[a-z])(?:-(?P<version>\d+(?:\.\d+)*))?(?::(?P<where>.*))?")


def names() -> tuple[str, ...]:
    """Names of all target families."""
    found = (m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")
    return tuple(sorted(n.replace("_", "-") for n in found))


def find(name: str) -> Target:
    """The target of this name.

    Raises:
        UsageError: There is no such family, or what follows it is no release and no list of
            compute capabilities.
    """
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
