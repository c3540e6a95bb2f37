"""The verb ``explain``."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

if TYPE_CHECKING:
    from qcompiler.targets.base import Capability


def explain(
    name: Annotated[
        str,
        Parameter(help="A pass, a range method, a target, a recipe, a format or a lint rule."),
    ],
    /,
) -> int:
    """Explain a pass, a range method, a target, a recipe, a format or a lint rule.

    The text is the thing's own documentation.
    """
    from rich.console import Console

    from qcompiler import formats, lint, pipeline, recipe, targets
    from qcompiler.errors import UsageError
    from qcompiler.numerics.ranges import METHODS

    console = Console(highlight=False, soft_wrap=True, markup=False)
    found: list[str] = []
    if name in pipeline.pass_names():
        cls = pipeline.find_pass(name)
        module = importlib.import_module(cls.__module__)
        found.append(
            f"pass {name} ({cls.phase}, {cls.effect.name}: {cls.effect.value})\n\n{module.__doc__}"
        )
    if name in METHODS:
        found.append(f"range method {name}\n\n{inspect.getdoc(METHODS[name])}")
    if name in targets.names():
        found.append(_target(name))
    if name in recipe.names():
        found.append(f"recipe {name}\n\n{recipe.text(name)}")
    if name in formats.names():
        found.append(_format(name))
    if name.upper() in lint.codes():
        found.append(_rule(name.upper()))
    if not found:
        known = (
            *pipeline.pass_names(),
            *METHODS,
            *targets.names(),
            *recipe.names(),
            *formats.names(),
            *lint.codes(),
        )
        raise UsageError(
            f"nothing is called {name!r}", hint=f"try one of: {', '.join(sorted(set(known)))}"
        )
    console.print("\n\n".join(text.strip() for text in found))
    return 0


def _format(name: str) -> str:
    from qcompiler import formats

    module = importlib.import_module(f"qcompiler.formats.{name}")
    element = formats.get(name)
    kind = "float" if element.is_float else "integer"
    facts = f"{element.bits}-bit {kind}, codes {element.min} to {element.max}"
    return f"format {name}\n\n{(module.__doc__ or '').strip()}\n\n{facts}"


def _rule(code: str) -> str:
    from qcompiler import lint

    rule = lint.find(code)
    facts = (
        f"severity: {rule.severity}; confidence: {rule.confidence}; "
        f"verified: {rule.verified}; for {' and '.join(rule.libraries)}"
    )
    return f"lint rule {code}\n\n{(lint.module(code).__doc__ or '').strip()}\n\n{facts}"


def _target(name: str) -> str:
    from qcompiler import targets

    target = targets.find(name)
    module = importlib.import_module(f"qcompiler.targets.{target.family.replace('-', '_')}")
    rows = [
        f"  {r.op:<14}{r.kind:<10}{r.format:<10}{_scales(r):<24}{r.verdict:<9}"
        f"{_where(r):<30}{r.note}  [{r.source}; {r.verified or r.confidence}]"
        for r in target.rows
    ]
    rows.append("  anything else is unknown, and stays in float")
    head = f"target {name}; recipe without --recipe: {target.recipe}"
    return "\n".join([head, "", (module.__doc__ or "").strip(), "", *rows])


def _where(row: Capability) -> str:
    """Base types, releases and compute capabilities that a row is limited to."""
    base = "" if len(row.base) > 1 else f"{row.base[0]} base"
    releases = " to ".join(row.versions)
    return ", ".join(part for part in (base, releases, _cards(row)) if part)


def _cards(row: Capability) -> str:
    from qcompiler.targets.base import NEWEST

    if not row.capabilities:
        return ""
    least, most = row.capabilities
    if most == NEWEST:
        return f"sm{least} and newer"
    return f"sm{most}" if least == most else f"up to sm{most}"


def _scales(row: Capability) -> str:
    """Granularity of the weight's scales, and of the activation's if it is not the tensor."""
    run_time = "" if row.scales == "tensor" else f", per {row.scales} at run time"
    return f"per {row.granularity}{run_time}"
