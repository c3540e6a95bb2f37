"""Reading a command line of trtexec.

``trtexec`` knows one form, ``--name=value`` or ``--name``; ``--name value`` is read too, for people
write it.  What stands before the program (``sudo``, ``CUDA_VISIBLE_DEVICES=1``) and behind it
(``| tee build.log``) belongs to the shell and is left aside.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Iterable, Iterator
from itertools import takewhile

from qcompiler.errors import UsageError
from qcompiler.migrate.flags import Flag
from qcompiler.migrate.meaning import FIXED

# Names of the program: that of TensorRT, and that of TensorRT for RTX.
_PROGRAMS = frozenset({"trtexec", "tensorrt_rtx"})
_SYNONYMS = {
    "vc": "versionCompatible",
    "weightless": "stripWeights",
    "v": "verbose",
    "h": "help",
    "pi": "pluginInstanceNorm",
    "engine": "saveEngine",
}
_VALUED = frozenset(
    {
        "onnx", "saveEngine", "loadEngine", "calib", "minShapes", "optShapes", "maxShapes",
        "shapes", "workspace", "memPoolSize", "builderOptimizationLevel", "precisionConstraints",
        "layerPrecisions", "layerOutputTypes", "layerDeviceTypes", "sparsity", "inputIOFormats",
        "outputIOFormats", "timingCacheFile", "hardwareCompatibilityLevel", "profilingVerbosity",
        "useDLACore", "device", "iterations", "duration", "warmUp", "avgRuns", "plugins",
        "staticPlugins", "dynamicPlugins", "tacticSources", "exportLayerInfo", "exportTimes",
        "exportProfile", "exportOutput", "loadInputs", "batch", "maxBatch", "profile", "threads",
        "infStreams", "streams", "weightStreamingBudget", "avgTiming", "minTiming",
        "maxAuxStreams", "preview", "runtimePlatform", "maxTactics", "useProfile", "percentile",
    }
)  # fmt: skip
_SWITCHES = frozenset(
    {
        "fp16", "int8", "bf16", "best", "stronglyTyped", "refit", "stripWeights",
        "stripAllWeights", "versionCompatible", "allowWeightStreaming", "errorOnTimingCacheMiss",
    }
)  # fmt: skip
KNOWN = frozenset({*FIXED, *_VALUED, *_SWITCHES})
"""Every flag that has a meaning here."""

_OPERATORS = "|&;<>"


def split(text: str) -> list[str]:
    """The words of a command line, as a POSIX shell splits them; nothing is expanded.

    Raises:
        UsageError: A quote is not closed.
    """
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars=_OPERATORS)
    lexer.whitespace_split = True
    lexer.commenters = ""
    try:
        return list(lexer)
    except ValueError as error:
        raise UsageError(
            f"this is no command line: {error}", where=text, hint="put quotes in pairs"
        ) from error


def read(words: Iterable[str]) -> tuple[Flag, ...]:
    """The flags of a command line.

    Args:
        words: With or without the program and what stands before it.

    Returns:
        In order; a word that is no known flag has an empty name.
    """
    listed = list(words)
    start = next((i + 1 for i, word in enumerate(listed) if _is_program(word)), 0)
    own = list(takewhile(lambda word: not _is_shell(word), listed[start:]))
    if own and own[-1].isdigit() and len(own) < len(listed) - start:
        own.pop()  # of `2>&1`
    return tuple(_flags(own))


def _is_program(word: str) -> bool:
    name = word.replace("\\", "/").rpartition("/")[2]
    return name.removesuffix(".exe") in _PROGRAMS


def _is_shell(word: str) -> bool:
    return word != "" and set(word) <= set(_OPERATORS)


def _flags(words: list[str]) -> Iterator[Flag]:
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        name, equals, value = word.partition("=")
        name = name.lstrip("-")
        name = _SYNONYMS.get(name, name)
        if not word.startswith("-") or name not in KNOWN:
            yield Flag(word, "", problem=_problem(word, name))
            continue
        follows = position < len(words) and not words[position].startswith("-")
        if not equals and name in _VALUED and follows:
            value = words[position]
            word = f"{word} {value}"
            position += 1
        if name in _VALUED and not value:
            yield Flag(word, "", problem="it needs a value")
        else:
            yield Flag(word, name, (value,) if value else ())


def _problem(word: str, name: str) -> str:
    if not word.startswith("-"):
        return "no flag, and no value of one"
    close = difflib.get_close_matches(name, sorted(KNOWN), n=1, cutoff=0.75)
    return (
        f"no flag of trtexec; --{close[0]}?" if close else "no flag of trtexec that is known here"
    )
