"""Looks chains of :mod:`tests.backends.library_uses` up in the bindings of one release.

Run as a file in a process of its own, for two releases cannot live in one::

    python library_members.py MODULE < uses.json > found.json

It needs nothing but the bindings. Without native libraries nothing can be constructed, so what a
call returns is read from the signature that pybind11 keeps in the docstring.
"""

from __future__ import annotations

import builtins
import importlib
import json
import re
import sys
from typing import Any

_PYTHON = {"IParserError": "ParserError", "IEngineInspector": "EngineInspector"}
_OPEN, _CLOSE = "([{<", ")]}>"


class Missing(Exception):  # noqa: N818 - a finding, not an error
    """A member that the release does not have."""


def signatures(function: object) -> list[tuple[list[str], list[str], str]]:
    """Of a bound method or a class: (required, optional) parameter names and the result type."""
    owner = getattr(function, "__init__", None) if isinstance(function, type) else function
    name = getattr(owner, "__name__", "")
    found = []
    for line in (getattr(owner, "__doc__", "") or "").splitlines():
        match = re.match(rf"\s*(?:\d+\. )?{re.escape(name)}\((.*)\) -> (.*)$", line)
        if match and match[1] != "*args, **kwargs":
            parts = [part for part in split(match[1]) if part.split(":")[0].strip() != "self"]
            names = [part.split(":")[0].split("=")[0].strip() for part in parts]
            optional = [n for n, part in zip(names, parts, strict=True) if "=" in _bare(part)]
            found.append(([n for n in names if n not in optional], optional, match[2].strip()))
    return found


def split(text: str) -> list[str]:
    """Parts between the commas that no bracket holds."""
    parts, depth, start = [], 0, 0
    for index, letter in enumerate(text.replace("->", "  ")):
        depth += (letter in _OPEN) - (letter in _CLOSE)
        if letter == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [part for part in [*parts, text[start:]] if part.strip()]


def _bare(part: str) -> str:
    return part.replace("==", "").replace("<=", "").replace(">=", "")


def result(module: Any, function: object) -> Any:
    """The class that a call returns."""
    if isinstance(function, type):
        return function
    for _, _, kind in signatures(function):
        # `tensorrt_bindings.tensorrt.ITensor`, or `nvinfer1::ITensor` where not yet registered.
        name = re.split(r"\.|::", kind.removesuffix(" | None"))[-1].strip("*& ")
        name = _PYTHON.get(name, name)
        if hasattr(module, name) or hasattr(builtins, name):
            return getattr(module, name, None) or getattr(builtins, name)
    return None


def look_up(module: Any, chain: str) -> tuple[Any, Any]:
    """Owner and object at the end of a chain; an instance stands as its class.

    Raises:
        Missing: At the first name that is not there.
    """
    owner, here = None, module
    done = ""
    for name, calls in re.findall(r"(\w+)((?:\(\))*)", chain):
        done = f"{done}.{name}" if done else name
        if here is None:
            raise Missing(f"{done}: what {done.rpartition('.')[0]} returns is not known")
        start = here is module and not hasattr(module, name)  # nested, as ILogger.Severity
        scope = module.ILogger if start and hasattr(module.ILogger, name) else here
        if not hasattr(scope, name):
            raise Missing(done)
        owner, here = scope, getattr(scope, name)
        for _ in calls[::2]:
            owner, here = here, result(module, here)
            done += "()"
    return owner, here


def check(module: Any, use: dict[str, Any]) -> str:
    """What is wrong with one use; empty if nothing."""
    try:
        owner, found = look_up(module, use["chain"])
    except Missing as missing:
        return str(missing)
    if use["kind"] == "set":
        setter = getattr(found, "fset", None)
        return "" if setter is not None else f"{use['chain']} cannot be set"
    if use["kind"] == "call":
        return check_call(owner, use)
    return ""


def check_call(function: Any, use: dict[str, Any]) -> str:
    """Whether some overload takes these arguments."""
    if getattr(getattr(function, "__objclass__", None), "__module__", "") == "builtins":
        return ""  # str.splitlines and the like
    known = signatures(function)
    for required, optional, _ in known:
        names = required + optional
        given = set(names[: use["positional"]]) | set(use["keywords"])
        fits = use["positional"] <= len(names) and set(use["keywords"]) <= set(names)
        if fits and given >= set(required):
            return ""
    forms = "; ".join(f"({', '.join(r + [f'{n}=' for n in o])})" for r, o, _ in known)
    return f"{use['chain']} takes {forms or 'no known arguments'}"


def absent(module: Any, use: dict[str, Any]) -> list[str]:
    """Members of an enum that are taken by name and that the release lacks."""
    names = use["names"] if use["kind"] == "named" else ()
    return [f"{use['chain']}.{name}" for name in names if lacks(module, f"{use['chain']}.{name}")]


def lacks(module: Any, chain: str) -> bool:
    """Whether a chain leads nowhere."""
    try:
        look_up(module, chain)
    except Missing:
        return True
    return False


def guarded(module: Any, use: dict[str, Any]) -> bool:
    """Whether the release reaches this use."""
    return not any(lacks(module, chain) for chain in use["guards"])


def members(module: Any, uses: list[dict[str, Any]]) -> dict[str, list[str]]:
    """Class -> those of its members that are used and that the release has."""
    found: dict[str, set[str]] = {}
    for use in uses:
        chain = use["chain"].removesuffix("()")
        try:
            owner, value = look_up(module, chain)
        except Missing:
            continue
        if owner is module and isinstance(value, type):
            names = found.setdefault(value.__name__, set())
            names.update(n for n in use["names"] if hasattr(value, n))
        elif getattr(owner, "__module__", "") != "builtins":
            found.setdefault(owner.__name__, set()).add(chain.rpartition(".")[2])
    return {name: sorted(found[name]) for name in sorted(found)}


def main() -> None:
    """Check the uses on standard input against the module named."""
    module = importlib.import_module(sys.argv[1])
    uses = json.load(sys.stdin)
    reached = [use for use in uses if guarded(module, use)]
    problems = {f"{use['where']}: {text}" for use in reached if (text := check(module, use))}
    found = {
        "version": module.__version__,
        "checked": sorted({use["chain"] for use in reached}),
        "unreached": sorted({use["chain"] for use in uses if use not in reached}),
        "problems": sorted(problems),
        "absent": sorted({name for use in reached for name in absent(module, use)}),
        "members": members(module, uses),
    }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
