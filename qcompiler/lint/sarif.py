"""Findings as SARIF 2.1.0 (OASIS), which code hosts and editors read."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from qcompiler import lint
from qcompiler.lint.base import Diagnostic

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"


def document(model: str, found: Iterable[Diagnostic], version: str) -> dict[str, Any]:
    """One SARIF log with one run.

    A model has no lines, so a finding's place is the model's file and, as logical location, the
    node or tensor.

    Args:
        model: Path of the model.
        found: What was found.
        version: Version of qcompiler.
    """
    return {
        "$schema": _SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "qcompiler lint",
                        "version": version,
                        "rules": [_rule(code) for code in lint.codes()],
                    }
                },
                "results": [_result(model, d) for d in found],
            }
        ],
    }


def level(diagnostic: Diagnostic) -> str:
    """``error``, ``warning`` (a fusion is lost) or ``note`` (advice)."""
    if diagnostic.is_error:
        return "error"
    return "note" if diagnostic.severity == "advice" else "warning"


def _rule(code: str) -> dict[str, Any]:
    text = inspect.getdoc(lint.module(code)) or ""
    rule = lint.find(code)
    return {
        "id": code,
        "shortDescription": {"text": text.splitlines()[0]},
        "fullDescription": {"text": text},
        "help": {"text": rule.help},
        "properties": {
            "severity": rule.severity,
            "confidence": rule.confidence,
            "verified": rule.verified,
        },
    }


def _result(model: str, found: Diagnostic) -> dict[str, Any]:
    return {
        "ruleId": found.code,
        "level": level(found),
        "message": {"text": f"{found.message}. {found.help[:1].upper()}{found.help[1:]}."},
        "locations": [
            {
                "physicalLocation": {"artifactLocation": {"uri": model}},
                "logicalLocations": [{"fullyQualifiedName": found.where}],
            }
        ],
    }
