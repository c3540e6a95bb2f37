"""One file a target family: capability rows, each with its source.

Planning, the linter and the documentation read the same rows; a combination that no row names is
*unknown*, which is a verdict of its own, not a permission.
"""

from __future__ import annotations

import importlib
import pkgutil

from qcompiler.errors import UsageError
from qcompiler.targets.base import Target


def names() -> tuple[str, ...]:
    """Names of all targets."""
    found = (m.name for m in pkgutil.iter_modules(__path__) if m.name != "base")
    return tuple(sorted(n.replace("_", "-") for n in found))


def find(name: str) -> Target:
    """The target of this name.

    Raises:
        UsageError: There is no such target.
    """
    if name not in names():
        raise UsageError(f"there is no target {name!r}", hint=f"targets are: {', '.join(names())}")
    target: Target = importlib.import_module(f"qcompiler.targets.{name.replace('-', '_')}").TARGET
    return target
