"""Element encodings, one file a format.

A format is found by the name of its file: ``get("int8")`` imports ``qcompiler/formats/int8.py`` and
returns its ``FORMAT``. There is no table to extend; to add a format, write the file.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import cast

from qcompiler.errors import InputError
from qcompiler.formats.base import F32, Codes, FloatFormat, Format, IntFormat

__all__ = ["F32", "Codes", "FloatFormat", "Format", "IntFormat", "get", "names"]


def names() -> tuple[str, ...]:
    """Names of all formats, sorted: the files of this package, except ``base``."""
    return tuple(sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name != "base"))


@cache
def get(name: str) -> Format:
    """The format called ``name``.

    Raises:
        InputError: No file of that name exists; the message lists those that do.
    """
    known = names()
    if name not in known:
        raise InputError(f"unknown format {name!r}", hint=f"use one of: {', '.join(known)}")
    return cast(Format, importlib.import_module(f"{__name__}.{name}").FORMAT)
