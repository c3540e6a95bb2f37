"""Values that are written out in Python source: literals, arithmetic, names assigned once."""

from __future__ import annotations

import ast
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

Value: TypeAlias = "int | float | str | bool | tuple[Value, ...] | None"
"""What a value can be; None if it is not written out."""

_ARITHMETIC: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
}
_WHOLE: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.LShift: operator.lshift,
    ast.Pow: operator.pow,
}
_LIMIT = 1 << 64  # beyond what a size can be
_DEPTH = 32


@dataclass(frozen=True)
class Constants:
    """Names of a module that are assigned exactly once, wherever.

    Attributes:
        names: Name -> the expression it is assigned.
    """

    names: dict[str, ast.expr] = field(default_factory=dict)

    @classmethod
    def of(cls, tree: ast.AST) -> Constants:
        """Those of a module."""
        stored: Counter[str] = Counter()
        values: dict[str, ast.expr] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                stored[node.id] += 1
            elif isinstance(node, ast.arg):
                stored[node.arg] += 1
            elif isinstance(node, ast.Assign) and len(node.targets) == 1:
                target = node.targets[0]
                if isinstance(target, ast.Name):
                    values[target.id] = node.value
        return cls({name: value for name, value in values.items() if stored[name] == 1})

    def value(self, node: ast.expr, depth: int = 0) -> Value:
        """What an expression is, if that is written out."""
        found: Value = None
        if depth > _DEPTH:
            return None
        if isinstance(node, ast.Constant):
            found = node.value if isinstance(node.value, int | float | str) else None
        elif isinstance(node, ast.Name) and node.id in self.names:
            found = self.value(self.names[node.id], depth + 1)
        elif isinstance(node, ast.Tuple | ast.List):
            found = self._tuple(node, depth)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            inner = self.value(node.operand, depth + 1)
            found = -inner if isinstance(inner, int | float) else None
        elif isinstance(node, ast.BinOp):
            found = self._binary(node, depth)
        elif isinstance(node, ast.Call) and _is_int(node):
            inner = self.value(node.args[0], depth + 1)
            found = int(inner) if isinstance(inner, int | float) else None
        return found

    def _tuple(self, node: ast.Tuple | ast.List, depth: int) -> Value:
        parts = tuple(self.value(part, depth + 1) for part in node.elts)
        return None if any(part is None for part in parts) else parts

    def _binary(self, node: ast.BinOp, depth: int) -> Value:
        left, right = self.value(node.left, depth + 1), self.value(node.right, depth + 1)
        if isinstance(left, tuple) and isinstance(right, tuple) and isinstance(node.op, ast.Add):
            return left + right
        if not isinstance(left, int | float) or not isinstance(right, int | float):
            return None
        kind = type(node.op)
        try:
            found: float | None
            if kind in _ARITHMETIC:
                found = _ARITHMETIC[kind](left, right)
            elif kind in _WHOLE and isinstance(left, int) and isinstance(right, int):
                found = _WHOLE[kind](left, right) if 0 <= right < 64 and abs(left) < 2**16 else None
            else:
                return None
        except (ArithmeticError, ValueError):
            return None
        return found if found is not None and abs(found) < _LIMIT else None


def _is_int(node: ast.Call) -> bool:
    if len(node.args) != 1 or node.keywords:
        return False
    return isinstance(node.func, ast.Name) and node.func.id == "int"
