"""Shapes of dynamic inputs as people write them, and the optimization profile they make.

Two spellings are in use, and both are read:

* trtexec: ``input:1x3x224x224,mask:1x128``
* Polygraphy: ``input:[1,3,224,224]``, several of them as several words or with commas between

A name ends at the *last* colon before its shape, so names with colons (``serving_default:0``) need
no quotes. A scalar is ``name:[]``; trtexec's ``name:scalar`` means the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from qcompiler.backends.tensorrt_profile import Input, Profile, Shape, complete
from qcompiler.errors import UsageError

# One `name:shape` and the comma behind it. The name takes every colon but the last.
_ENTRY = re.compile(r"(?P<name>[^,]+|.+?):(?P<shape>\[[^\]]*\]|\d+(?:x\d+)*|scalar)(?:,|$)")
_HINT = "write input:1x3x224x224,mask:1x128 or input:[1,3,224,224]"


@dataclass(frozen=True)
class Shapes:
    """What the user said about the shapes of inputs; each maps a name to a shape."""

    low: Mapping[str, Shape] = field(default_factory=dict)
    opt: Mapping[str, Shape] = field(default_factory=dict)
    high: Mapping[str, Shape] = field(default_factory=dict)

    def given(self) -> Profile:
        """Bounds of the inputs that were named.

        What is left out is filled in: *opt* is *max*, or else *min*; then both others are *opt*.
        """
        names = sorted({*self.low, *self.opt, *self.high})
        found: dict[str, tuple[Shape, Shape, Shape]] = {}
        for name in names:
            said = (self.opt.get(name), self.high.get(name), self.low.get(name))
            opt = next(shape for shape in said if shape is not None)
            found[name] = (self.low.get(name, opt), opt, self.high.get(name, opt))
        return found

    def profile(self, inputs: Sequence[Input]) -> Profile:
        """Bounds of every input with a free axis; see :func:`complete`.

        Raises:
            InputError: A name is unknown, a shape does not fit, or bounds contradict each other.
        """
        return complete(inputs, self.given())


def parse(words: Iterable[str]) -> dict[str, Shape]:
    """Read shapes in either spelling.

    Args:
        words: As on a command line.

    Returns:
        Input name -> shape.

    Raises:
        UsageError: Not of either form, or a name is given twice.
    """
    found: dict[str, Shape] = {}
    for word in words:
        for name, shape in _entries(word.strip()):
            if name in found:
                raise UsageError(f"the shape of input '{name}' is given twice", where=word)
            found[name] = shape
    return found


def _entries(word: str) -> Iterable[tuple[str, Shape]]:
    position = 0
    while position < len(word):
        match = _ENTRY.match(word, position)
        if match is None:
            raise UsageError("this is no list of shapes", where=word, hint=_HINT)
        yield match["name"].strip().strip("'\""), _sizes(match["shape"], word)
        position = match.end()
    if not word or word.endswith(","):
        raise UsageError("this is no list of shapes", where=repr(word), hint=_HINT)


def _sizes(text: str, word: str) -> Shape:
    inside = "" if text == "scalar" else text.strip("[]").replace("x", ",").strip()
    try:
        sizes = tuple(int(size) for size in inside.split(",")) if inside else ()
    except ValueError:
        raise UsageError(f"{text!r} is no shape", where=word, hint=_HINT) from None
    if any(size < 0 for size in sizes):
        raise UsageError(f"{text!r} has a negative size", where=word, hint=_HINT)
    return sizes


def write(shapes: Mapping[str, Shape]) -> str:
    """Shapes in trtexec's spelling; a scalar is ``name:scalar``."""
    return ",".join(
        f"{name}:{'x'.join(map(str, shape)) or 'scalar'}" for name, shape in sorted(shapes.items())
    )
