"""``--layerPrecisions`` as globs for ``--exclude``.

``--layerPrecisions=name:type,…`` pinned layers while the builder chose the rest.  With INT8 asked
for, a layer pinned to a float type is one that must not be quantized: that is an exclusion.  In a
layer's name ``*`` stood for any text, as in a glob; ``[`` and ``?`` stood for themselves.
"""

from __future__ import annotations

import re

from qcompiler.errors import UsageError

_FLOAT = ("fp32", "fp16", "bf16")


def excluded(text: str) -> tuple[list[str], list[str]]:
    """Globs of the layers that stay in float, and the entries that have no equivalent.

    A layer pinned to INT8 needs nothing; ``*`` alone is what a recipe says.

    Args:
        text: ``name:type,name:type``; a network with several types a layer has ``type+type``.

    Raises:
        UsageError: An entry has no type.
    """
    globs: list[str] = []
    left: list[str] = []
    for entry in filter(None, (part.strip() for part in text.split(","))):
        name, colon, kind = entry.rpartition(":")
        name = name.strip("'\"")
        if not colon or not name:
            raise UsageError(f"{entry!r} is no layer with its type", hint="write /conv1/Conv:fp32")
        if kind == "int8":
            continue
        if kind not in _FLOAT or not name.strip("*"):
            left.append(entry)
        else:
            globs.append(re.sub(r"[\[?]", lambda match: f"[{match[0]}]", name))
    return globs, left
