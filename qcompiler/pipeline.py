"""Passes, and how a list of them runs.

A pass is one file, one frozen dataclass, one idea.  Its fields are its options, its ``effect`` is a
promise that the contract tests hold it to, and its name is its file name: ``fold-batch-norm`` is
``passes/fold_batch_norm.py`` and the class ``FoldBatchNorm`` in it.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from typing import ClassVar

from qcompiler.errors import UsageError, VerifyError
from qcompiler.graph import Graph
from qcompiler.verify import check_qdq, check_structure


class Effect(Enum):
    """What a pass promises about the function that the graph computes."""

    EXACT = "computes the same function (up to float rounding)"
    LOSSY = "changes the function on purpose"
    READS = "does not change the graph"


@dataclass(frozen=True)
class Pass(ABC):
    """One transformation.

    Attributes:
        effect: What it promises.
        phase: Which part of the pipeline it belongs to: ``prepare``, ``apply`` or ``tidy``.
        after: Passes that must have run before, if they run at all.
    """

    effect: ClassVar[Effect]
    phase: ClassVar[str]
    after: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def name(cls) -> str:
        """The kebab-case name, which is also the file name."""
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "-", cls.__name__).lower()

    @abstractmethod
    def run(self, graph: Graph) -> int:
        """Edit the graph in place.

        Returns:
            How many rewrites were made; 0 means there was nothing to do.
        """


@dataclass(frozen=True)
class Step:
    """What one pass did: its name, number of rewrites, node counts and seconds."""

    name: str
    rewrites: int
    nodes_before: int
    nodes_after: int
    seconds: float


@dataclass(frozen=True)
class Pipeline:
    """Passes in order; after each the graph is sorted, swept and verified.

    Attributes:
        passes: What to run.
        on_step: Called after each pass with the graph and what happened (progress, dumps).
    """

    passes: tuple[Pass, ...]
    on_step: Callable[[Graph, Step], None] | None = None

    def __post_init__(self) -> None:
        seen: list[str] = []
        names = {type(p).name() for p in self.passes}
        for entry in self.passes:
            missing = [a for a in entry.after if a in names and a not in seen]
            if missing:
                raise UsageError(
                    f"{type(entry).name()} must run after {', '.join(missing)}",
                    hint="change the order of the passes",
                )
            seen.append(type(entry).name())

    def run(self, graph: Graph) -> tuple[Step, ...]:
        """Run every pass once.

        Raises:
            VerifyError: A pass broke the graph; the message names it and the passes before it.
        """
        steps: list[Step] = []
        for entry in self.passes:
            step = self._run_one(entry, graph, steps)
            steps.append(step)
            if self.on_step is not None:
                self.on_step(graph, step)
        return tuple(steps)

    def _run_one(self, entry: Pass, graph: Graph, before: Sequence[Step]) -> Step:
        name = type(entry).name()
        start, nodes = time.perf_counter(), len(graph.nodes)
        graph.provenance = name
        try:
            rewrites = entry.run(graph)
            graph.sweep()
            if rewrites:
                graph.infer()
                check_structure(graph.proto(skeleton=True))
                check_qdq(graph)
        except VerifyError as error:
            history = ", ".join(s.name for s in before) or "none"
            raise VerifyError(
                f"pass {name} broke the graph: {error.message}",
                where=error.where,
                hint=f"this is a bug of qcompiler; passes before it: {history}",
            ) from error
        finally:
            graph.provenance = ""
        return Step(name, rewrites, nodes, len(graph.nodes), time.perf_counter() - start)


def pass_names() -> tuple[str, ...]:
    """Names of all passes, found by file."""
    package = importlib.import_module("qcompiler.passes")
    return tuple(sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(package.__path__)))


def find_pass(name: str) -> type[Pass]:
    """The class of a pass, imported when asked for.

    Raises:
        UsageError: There is no such pass.
    """
    if name not in pass_names():
        raise UsageError(
            f"there is no pass {name!r}",
            hint=f"`qcompiler passes` lists them: {', '.join(pass_names())}",
        )
    module = importlib.import_module("qcompiler.passes." + name.replace("-", "_"))
    found = [
        c
        for c in vars(module).values()
        if isinstance(c, type) and issubclass(c, Pass) and c.__module__ == module.__name__
    ]
    if len(found) != 1 or found[0].name() != name:
        raise UsageError(f"passes/{name.replace('-', '_')}.py must define one pass named {name}")
    return found[0]


def parse_pass(text: str) -> Pass:
    """A pass from ``name{option=value …}``; fields that need objects cannot be given this way.

    Raises:
        UsageError: Unknown pass or option, or a value of the wrong type.
    """
    match = re.fullmatch(r"\s*([a-z0-9-]+)\s*(?:\{(.*)\})?\s*", text)
    if match is None:
        raise UsageError(f"cannot read the pass {text!r}", hint="write name{option=value}")
    cls = find_pass(match[1])
    options: dict[str, int | float | bool | str] = {}
    known = {f.name: f for f in fields(cls)}
    for pair in (match[2] or "").split():
        key, _, value = pair.partition("=")
        if key not in known:
            raise UsageError(
                f"{match[1]} has no option {key!r}", hint=f"it has: {', '.join(known) or 'none'}"
            )
        options[key] = _value(value)
    return cls(**options)


def _value(text: str) -> int | float | bool | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
