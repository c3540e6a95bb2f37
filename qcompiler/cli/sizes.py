"""Sizes of memory as people write them."""

from __future__ import annotations

import re

from qcompiler.errors import UsageError

_UNITS = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 2**10,
    "MIB": 2**20,
    "GIB": 2**30,
    "TIB": 2**40,
}


def size(text: str, option: str) -> int:
    """Bytes of ``4GiB``, ``512 MiB``, ``1.5GB`` or ``0``.

    A bare number is refused, for tools disagree whether it counts bytes or MiB.

    Raises:
        UsageError: It is not of this form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?i?B)?", text.strip(), re.IGNORECASE)
    if match is None or (match[2] is None and float(match[1]) != 0):
        raise UsageError(
            f"{option} {text!r} is not a size", hint="write a number with its unit, such as 4GiB"
        )
    return int(float(match[1]) * _UNITS[(match[2] or "B").upper()])
