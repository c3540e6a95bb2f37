"""Static checks of any Q/DQ model, whoever made it: one file a rule, found by its name.

``trt004_wrong_zero_point.py`` holds ``RULE`` with the code ``TRT004``; its docstring, under the
headings What, Why, Example, Instead and Source, is what ``qcompiler explain TRT004`` prints.  Codes
are never reused.  Bodies of ``If`` and ``Loop`` are not looked into.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from functools import cache
from types import ModuleType

from qcompiler.errors import UsageError
from qcompiler.graph import Graph
from qcompiler.lint.base import Diagnostic, LintTarget, Rule
from qcompiler.verify import findings

_NAME = re.compile(r"(trt\d{3})_\w+")
_HELP = {
    "QC001": "run onnx.checker.check_model on it; the exporter wrote an invalid model",
    "QC010": "correct the node, or quantize the float model again",
}


@cache
def _modules() -> dict[str, str]:
    names = (m.name for m in pkgutil.iter_modules(__path__))
    return {match[1].upper(): match[0] for n in sorted(names) if (match := _NAME.fullmatch(n))}


def codes() -> tuple[str, ...]:
    """Codes of all rules, sorted."""
    return tuple(_modules())


def module(code: str) -> ModuleType:
    """The module of a rule.

    Raises:
        UsageError: There is no such rule.
    """
    name = _modules().get(code)
    if name is None:
        raise UsageError(f"there is no rule {code!r}", hint=f"rules are: {', '.join(codes())}")
    return importlib.import_module(f"{__name__}.{name}")


def find(code: str) -> Rule:
    """The rule of this code.

    Raises:
        UsageError: There is no such rule.
    """
    rule: Rule = module(code).RULE
    return rule


def rules() -> tuple[Rule, ...]:
    """All rules, by code."""
    return tuple(find(code) for code in codes())


def lint(graph: Graph, target: LintTarget) -> list[Diagnostic]:
    """Everything that is wrong with a model for a target; infers types and shapes.

    A node that breaks a rule of the target is not reported a second time for the same fault
    against the general Q/DQ specification (``QC010``).

    Args:
        graph: A loaded model (``load(..., strict=False)``).
        target: For whom.
    """
    graph.infer()
    found = [d for rule in rules() for d in rule.run(graph, target)]
    known = {d.where for d in found if d.is_error}
    general = [
        Diagnostic(f.code, "invalid model", f.where, f.message, _HELP[f.code])
        for f in findings(graph)
        if f.code != "QC010" or f.where not in known
    ]
    return [*general, *found]
