"""What a lint rule is, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from qcompiler.graph import Graph

Severity = Literal[
    "invalid model",
    "parser rejects",
    "builder rejects",
    "silent numeric change",
    "loses fusion",
    "advice",
]
# There is no engine of such a model.
REFUSED: frozenset[Severity] = frozenset({"parser rejects", "builder rejects"})
# These end ``lint`` with exit code 1: there is no engine, or it computes something else.
ERRORS: frozenset[Severity] = REFUSED | {"invalid model", "silent numeric change"}
TENSORRT, RTX = "tensorrt", "tensorrt-rtx"
# The release that the bad and good examples of a rule were built with.
SEEN = "tensorrt-rtx 1.7.1"
UNSEEN = "unverified here"


@dataclass(frozen=True)
class LintTarget:
    """For whom a model is checked.

    Attributes:
        library: ``tensorrt``, ``tensorrt-rtx`` or ``onnxruntime``.
        capability: The weakest compute capability named, such as 89; None if none was.
        version: Leading numbers of the release, such as ``10.13``; empty for any.
        command: The words of the trtexec command line that builds or times it; empty if there is
            none.
    """

    library: str
    capability: int | None = None
    version: str = ""
    command: tuple[str, ...] = ()

    def has(self, *flags: str) -> str:
        """The first of these flags that the command line gives; empty if it gives none.

        A flag may carry a value: ``--hardwareCompatibilityLevel`` is also given by
        ``--hardwareCompatibilityLevel=ampere+``.
        """
        given = {word.partition("=")[0] for word in self.command}
        return next((flag for flag in flags if flag in given), "")


class Fault(NamedTuple):
    """One place where a rule is broken.

    Attributes:
        where: Node or tensor.
        message: What is wrong there.
    """

    where: str
    message: str


@dataclass(frozen=True)
class Diagnostic:
    """One finding of ``lint``.

    Attributes:
        code: ``TRT...`` for a rule, ``QC001`` for onnx's checker, ``QC010`` for the Q/DQ
            specification.
        severity: What becomes of the model.
        where: Node or tensor.
        message: What is wrong.
        help: What to do about it.
        verified: Whose real builds showed the rule, or ``unverified here``; empty for ``QC...``.
    """

    code: str
    severity: Severity
    where: str
    message: str
    help: str
    verified: str = ""

    @property
    def is_error(self) -> bool:
        """Whether the model cannot be used as it is."""
        return self.severity in ERRORS


@dataclass(frozen=True)
class Rule:
    """One rule; its module's docstring explains it.

    Attributes:
        code: Stable name, ``TRT001``.
        severity: What the library does with a model that breaks it.
        confidence: ``high`` (read in the parser's source or seen in builds), ``medium``
            (documented), ``low`` (reported by users, or inferred).
        source: Rule id and document.
        verified: Library and release whose real builds showed it, or ``unverified here``.
        help: What to do instead, in one sentence.
        check: Every place of a graph, with types inferred, that breaks the rule for a target.
        libraries: Targets it holds for.
    """

    code: str
    severity: Severity
    confidence: Literal["high", "medium", "low"]
    source: str
    verified: str
    help: str
    check: Callable[[Graph, LintTarget], Iterable[Fault]]
    libraries: tuple[str, ...] = (TENSORRT, RTX)

    def run(self, graph: Graph, target: LintTarget) -> list[Diagnostic]:
        """The findings of this rule, in node order; none if it is not about the target."""
        if target.library not in self.libraries:
            return []
        found = dict.fromkeys(self.check(graph, target))
        return [
            Diagnostic(self.code, self.severity, *fault, self.help, self.verified)
            for fault in found
        ]
