"""Sizes as trtexec reads them, and as ``build`` writes them.

A bare number of ``--workspace`` and of a memory pool is MiB, of ``tacticSharedMem`` too; ``B``,
``K``, ``M`` and ``G`` behind it are powers of 1024 (``samples/common/sampleOptions.cpp``).
"""

from __future__ import annotations

import re

from qcompiler.errors import UsageError

_UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30}
_POOLS = frozenset(
    {"workspace", "dlaSRAM", "dlaLocalDRAM", "dlaGlobalDRAM", "tacticDram", "tacticSharedMem"}
)
_HINT = "write workspace:4096 (MiB) or workspace:4G"


def pools(text: str) -> dict[str, int]:
    """Bytes of each pool of ``--memPoolSize=workspace:1024,dlaSRAM:0.5``.

    Raises:
        UsageError: It is not of this form, or there is no such pool.
    """
    found: dict[str, int] = {}
    for part in text.split(","):
        name, colon, size = part.partition(":")
        if not colon or name not in _POOLS:
            raise UsageError(f"{part!r} is no memory pool with its size", hint=_HINT)
        found[name] = workspace_mib(size)
    return found


def workspace_mib(text: str) -> int:
    """Bytes of a size whose bare number is MiB.

    Raises:
        UsageError: It is no size.
    """
    match = re.fullmatch(
        r"(\d{1,12}(?:\.\d{1,9})?)\s*([BKMG]?)(?:iB)?", text.strip(), re.IGNORECASE
    )
    if match is None:
        raise UsageError(f"{text!r} is no size", hint=_HINT)
    return int(float(match[1]) * _UNITS[match[2].upper() or "M"])


def spelled(size: int) -> str:
    """A number of bytes with the largest unit that divides it: ``4GiB``, ``1536MiB``, ``0B``."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size and size % (1 << power) == 0:
            return f"{size >> power}{unit}"
    return f"{size}B"
