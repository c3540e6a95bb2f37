"""Which members of TensorRT a source file uses, read from its syntax.

A file that drives the library annotates every parameter that holds an object of it with the name
of its class (``config: IBuilderConfig``; ``trt: Trt`` is the module). From there this module
follows assignments, attributes and calls and writes each use as a *chain*::

    trt.Builder(log)                         Builder()
    trt.ProfilingVerbosity.DETAILED          ProfilingVerbosity.DETAILED
    config.get_timing_cache().serialize()    IBuilderConfig().get_timing_cache().serialize()

A name followed by ``()`` stands for what calling it returns. Which class that is only the library
can say, so chains are resolved by :mod:`tests.backends.library_members` in each release.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

MODULE = "Trt"
"""Annotation of the module itself."""


@dataclass(frozen=True)
class Use:
    """One use of one member.

    Attributes:
        chain: What is used.
        kind: ``get``, ``set``, ``call`` or ``named`` (a member of an enum, its name computed).
        positional: Number of positional arguments of a call.
        keywords: Names of its keyword arguments.
        where: ``file:line``.
        guards: Chains for which ``hasattr`` must hold where this use is reached.
    """

    chain: str
    kind: str
    positional: int = 0
    keywords: tuple[str, ...] = ()
    where: str = ""
    guards: tuple[str, ...] = ()


@dataclass
class _Scope:
    """One function: what its names hold, and what it was found to use."""

    file: str
    classes: frozenset[str]
    names: dict[str, str]
    results: dict[str, str]
    uses: list[Use] = field(default_factory=list)
    guards: tuple[str, ...] = ()

    def note(self, node: ast.AST, use: Use) -> None:
        where = f"{self.file}:{getattr(node, 'lineno', 0)}"
        self.uses.append(replace(use, where=where, guards=self.guards))


def read(path: Path) -> list[Use]:
    """Every use in a file, in its order.

    Raises:
        AssertionError: A parameter is annotated ``Any`` and an attribute of it is used: whether it
            is the library's could not be told.
    """
    return read_text(path.read_text(encoding="utf-8"), path.name)


def read_text(text: str, name: str) -> list[Use]:
    """The same for source text."""
    tree = ast.parse(text)
    classes = frozenset(
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Name)
        for target in node.targets
        if isinstance(target, ast.Name) and node.value.id == "Any"
    )
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    results = {
        n.name: f"{n.returns.id}()"
        for n in functions
        if isinstance(n.returns, ast.Name) and n.returns.id in classes
    }
    found: list[Use] = []
    for function in functions:
        scope = _Scope(name, classes, _parameters(function, classes), results)
        _block(function.body, scope)
        found += scope.uses
    return list(dict.fromkeys(found))


def _parameters(function: ast.FunctionDef, classes: frozenset[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    loose: set[str] = set()
    for parameter in (*function.args.args, *function.args.kwonlyargs):
        if not isinstance(parameter.annotation, ast.Name):
            continue
        kind = parameter.annotation.id
        if kind in classes:
            names[parameter.arg] = "" if kind == MODULE else f"{kind}()"
        elif kind == "Any":
            loose.add(parameter.arg)
    for node in ast.walk(function):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            assert node.value.id not in loose, f"line {node.lineno}: say what class this is of"
    return names


def _block(body: list[ast.stmt], scope: _Scope) -> None:
    before = scope.guards
    for statement in body:
        if isinstance(statement, ast.If):
            _if(statement, scope)
            if guard := _refusal(statement, scope):
                scope.guards = (*scope.guards, guard)
        elif isinstance(statement, ast.FunctionDef):
            continue  # a function of its own
        elif isinstance(statement, ast.Assign):
            _assign(statement, scope)
        else:
            for base in statement.bases if isinstance(statement, ast.ClassDef) else []:
                _value(base, scope)
            for inner in _blocks(statement):
                _block(inner, scope)
            for expression in _expressions(statement):
                _value(expression, scope)
    scope.guards = before


def _refusal(statement: ast.If, scope: _Scope) -> str:
    """What is known behind ``if not hasattr(x, "name"): raise``; empty for any other ``if``."""
    test, ends = statement.test, isinstance(statement.body[-1], (ast.Raise, ast.Return))
    if ends and isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return _guard(test.operand, scope)
    return ""


def _if(statement: ast.If, scope: _Scope) -> None:
    guard = _guard(statement.test, scope)
    _value(statement.test, scope)
    before = scope.guards
    scope.guards = (*before, guard) if guard else before
    _block(statement.body, scope)
    scope.guards = before
    _block(statement.orelse, scope)


def _guard(test: ast.expr, scope: _Scope) -> str:
    """The chain of ``hasattr(x, "name")``; empty for any other test."""
    if not (isinstance(test, ast.Call) and isinstance(test.func, ast.Name)):
        return ""
    if test.func.id != "hasattr" or not isinstance(test.args[1], ast.Constant):
        return ""
    owner = _value(test.args[0], scope)
    return "" if owner is None else _join(owner, str(test.args[1].value))


def _assign(statement: ast.Assign, scope: _Scope) -> None:
    value = _value(statement.value, scope)
    for target in statement.targets:
        if isinstance(target, ast.Attribute):
            owner = _value(target.value, scope)
            if owner is not None:
                scope.note(target, Use(_join(owner, target.attr), "set"))
        elif isinstance(target, ast.Name):
            if value is None:
                scope.names.pop(target.id, None)
            else:
                scope.names[target.id] = value


def _blocks(node: ast.AST) -> Iterator[list[ast.stmt]]:
    for name in ("body", "orelse", "finalbody"):
        found = getattr(node, name, None)
        if isinstance(found, list):
            yield found
    for handler in getattr(node, "handlers", []):
        yield handler.body


def _expressions(statement: ast.stmt) -> Iterator[ast.expr]:
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.expr):
            yield child
        elif isinstance(child, ast.withitem):
            yield child.context_expr


def _value(node: ast.expr, scope: _Scope) -> str | None:
    """Note what an expression uses; its chain if it is of the library, else None."""
    if isinstance(node, ast.Name):
        return scope.names.get(node.id)
    if isinstance(node, ast.Attribute):
        owner = _value(node.value, scope)
        if owner is None:
            return None
        chain = _join(owner, node.attr)
        scope.note(node, Use(chain, "get"))
        return chain
    if isinstance(node, ast.Call):
        return _call(node, scope)
    if isinstance(node, ast.IfExp):
        _value(node.test, scope)
        body, orelse = _value(node.body, scope), _value(node.orelse, scope)
        return body or orelse
    _children(node, scope)
    return None


def _children(node: ast.AST, scope: _Scope) -> None:
    """Note what the parts of an expression use; a loop's clauses are no expressions."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.expr):
            _value(child, scope)
        else:
            _children(child, scope)


def _call(node: ast.Call, scope: _Scope) -> str | None:
    for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
        _value(argument, scope)
    if isinstance(node.func, ast.Name):
        return _plain_call(node, node.func.id, scope)
    function = _value(node.func, scope)
    if function is None:
        return None
    dunder = function.rpartition(".")[2].startswith("__")
    keywords = tuple(keyword.arg for keyword in node.keywords if keyword.arg)
    starred = any(isinstance(a, ast.Starred) for a in node.args)
    assert not starred, f"line {node.lineno}: spell the arguments, so that they can be counted"
    if not dunder:
        scope.note(node, Use(f"{function}()", "call", len(node.args), keywords))
    return f"{function}()"


def _plain_call(node: ast.Call, name: str, scope: _Scope) -> str | None:
    """A call of a function of the file, or ``member(enum, name)`` and ``getattr(x, name)``."""
    if name in {"member", "getattr"} and len(node.args) == 2:
        owner = _value(node.args[0], scope)
        if owner is not None:
            scope.note(node, Use(owner, "named"))
    return scope.results.get(name)


def _join(owner: str, name: str) -> str:
    return f"{owner}.{name}" if owner else name
