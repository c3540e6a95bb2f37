"""Patterns as values: what a piece of graph must look like to be rewritten.

A pattern is written from its last node upwards, in the shape of the formula it stands for::

    x = var("x")
    silu = op("Mul")(x, op("Sigmoid")(x))

* the same name twice means the same tensor;
* two-input commutative ops try both orders, ``any_of`` tries its choices from left to right, and
  all combinations are searched (backtracking), so a pattern states a set of graphs, not a walk;
* every tensor inside the match, except the result, must be read by nothing outside it and must not
  be pinned: else the nodes could not go away.

``match`` gives a ``Match`` or a ``Miss``; a ``Miss`` is false, and says how far the best attempt
came and what stopped it (the idea of onnxscript's matching tracer).  Nothing keeps state: a pattern
may be a module constant.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import Literal

import ml_dtypes
import numpy as np

from qcompiler.graph import Graph, Node, Tensor, label

COMMUTATIVE = frozenset({"Add", "Mul", "Max", "Min", "And", "Or", "Equal"})
# How close a constant must be to the number in the formula.  Exporters print 5 to 8 digits
# ("0.7071", "0.797885"); an error of 1e-5 in a constant is far below what the formulas matched here
# (approximations of erf, polynomials of 0.044715) promise.
RELATIVE_TOLERANCE = 1e-5
# One unit in the last place of 1.0.
_HALF_EPSILON = {"float16": 2.0**-10, "bfloat16": 2.0**-7}


@dataclass(frozen=True, eq=False)
class Match:
    """A piece of graph that fits a pattern.

    Attributes:
        node: The last node; its first output is ``result``.
        nodes: All nodes of the match, last one first; they die when ``result`` is replaced.
        tensors: Tensors by the names of the pattern; a name in an untaken choice is absent.
        scalars: The one-element constants that ``number`` and ``scalar`` met.
    """

    node: Node
    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor]
    scalars: tuple[Tensor, ...]

    def __bool__(self) -> Literal[True]:
        return True

    @property
    def result(self) -> Tensor:
        """What the last node computes."""
        return self.node.outputs[0]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def keeps_shape(self, name: str) -> bool:
        """Whether element-wise arithmetic with the match's scalars leaves a tensor's shape alone.

        A scalar of shape ``[1, 1]`` makes a matrix of a vector: replacing the arithmetic by one
        unary op is right only if no scalar has a higher rank than the data.
        """
        shape = self.tensors[name].shape
        rank = 0 if shape is None else len(shape)
        return all(len(s.shape or ()) <= rank for s in self.scalars)


@dataclass(frozen=True)
class Miss:
    """Why a pattern does not fit: what stopped the deepest attempt, and at which node or tensor."""

    why: str
    where: str

    def __bool__(self) -> Literal[False]:
        return False


@dataclass(frozen=True, eq=False)
class _Found:
    """A partial match; extended by copying, so that backtracking needs no undo."""

    tensors: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    nodes: tuple[Node, ...] = ()
    scalars: tuple[Tensor, ...] = ()

    def bind(self, name: str, tensor: Tensor) -> _Found | None:
        if not name:
            return self
        if name in self.tensors:
            return self if self.tensors[name] is tensor else None
        return dataclasses.replace(self, tensors={**self.tensors, name: tensor})

    def enter(self, node: Node) -> _Found:
        if any(n is node for n in self.nodes):
            return self
        return dataclasses.replace(self, nodes=(*self.nodes, node))


class _Search:
    """One ``match`` call: the graph, and the deepest miss so far."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.best = Miss("nothing to match", "")
        self._depth = -1

    def note(self, found: _Found, why: str, where: str) -> None:
        if len(found.nodes) > self._depth:
            self._depth, self.best = len(found.nodes), Miss(why, where)


class Pattern(ABC):
    """Something that a tensor may or may not look like."""

    @abstractmethod
    def solve(self, search: _Search, tensor: Tensor, found: _Found) -> Iterator[_Found]:
        """Every way in which ``tensor`` fits, given what was found so far."""

    def roots(self) -> frozenset[str] | None:
        """Operators that the tensor's producer can have; None if any."""
        return None


@dataclass(frozen=True)
class _Leaf(Pattern):
    name: str
    check: Callable[[Graph, Tensor], bool] | None = None
    what: str = ""
    scalar: bool = False

    def solve(self, search: _Search, tensor: Tensor, found: _Found) -> Iterator[_Found]:
        if self.check is not None and not (
            search.graph.is_constant(tensor) and self.check(search.graph, tensor)
        ):
            search.note(found, f"not {self.what}", tensor.name)
            return
        bound = found.bind(self.name, tensor)
        if bound is None:
            search.note(found, f"not the tensor called {self.name} in the pattern", tensor.name)
        elif self.scalar:
            yield dataclasses.replace(bound, scalars=(*bound.scalars, tensor))
        else:
            yield bound


@dataclass(frozen=True)
class _AnyOf(Pattern):
    choices: tuple[Pattern, ...]

    def solve(self, search: _Search, tensor: Tensor, found: _Found) -> Iterator[_Found]:
        for choice in self.choices:
            yield from choice.solve(search, tensor, found)

    def roots(self) -> frozenset[str] | None:
        out: frozenset[str] = frozenset()
        for choice in self.choices:
            roots = choice.roots()
            if roots is None:
                return None
            out |= roots
        return out


@dataclass(frozen=True)
class Op(Pattern):
    """The first output of a node; made by ``op`` and called with the patterns of its inputs."""

    ops: tuple[str, ...]
    attrs: tuple[tuple[str, object], ...]
    inputs: tuple[Pattern, ...] = ()
    open_ended: bool = False
    name: str = ""

    def __call__(self, *inputs: Pattern | EllipsisType) -> Op:
        """The same op with its inputs; a last ``...`` stands for any further ones."""
        given = tuple(p for p in inputs if isinstance(p, Pattern))
        return dataclasses.replace(self, inputs=given, open_ended=len(given) < len(inputs))

    def named(self, name: str) -> Op:
        """The same op with a name for its output."""
        return dataclasses.replace(self, name=name)

    def roots(self) -> frozenset[str] | None:
        """The op itself."""
        return frozenset(self.ops)

    def solve(self, search: _Search, tensor: Tensor, found: _Found) -> Iterator[_Found]:
        """The producer has this op and these attributes, and its inputs fit in some order."""
        node = search.graph.producer(tensor)
        why = self._refuses(node, tensor)
        if why or node is None:
            search.note(found, why, tensor.name if node is None else label(node))
            return
        bound = found.bind(self.name, tensor)
        if bound is None:
            search.note(found, f"not the tensor called {self.name} in the pattern", tensor.name)
            return
        given = _given(node)
        wanted = len(self.inputs)
        if len(given) < wanted or (len(given) > wanted and not self.open_ended):
            search.note(found, f"has {len(given)} inputs, not {wanted}", label(node))
            return
        for order in _orders(node, given):
            pairs = tuple(zip(self.inputs, order, strict=False))
            yield from _solve_all(search, pairs, bound.enter(node))

    def _refuses(self, node: Node | None, tensor: Tensor) -> str:
        wanted = " or ".join(self.ops)
        if node is None:
            return f"an input or constant, not computed by {wanted}"
        if (node.domain or "") not in ("", "ai.onnx") or node.op not in self.ops:
            return f"is {node.op}, not {wanted}"
        if tensor is not node.outputs[0]:
            return f"is not the first output of {node.op}"
        for name, want in self.attrs:
            value = node.attrs.get(name)
            if not (want(value) if callable(want) else value == want):
                return f"has {name} = {value}"
        return ""


def op(*names: str, **attrs: object) -> Op:
    """A node of the default domain.

    Args:
        *names: Operator, or several that will do.
        **attrs: Attributes: a value it must have, or a function of the value (None if absent).
    """
    return Op(names, tuple(sorted(attrs.items())))


def var(name: str) -> Pattern:
    """Any tensor."""
    return _Leaf(name)


def const(name: str = "", check: Callable[[Graph, Tensor], bool] | None = None) -> Pattern:
    """An initializer; ``check`` looks at its type, shape or (through the graph) values."""
    return _Leaf(name, check or _always, "a fitting constant" if check else "a constant")


def scalar(name: str) -> Pattern:
    """A finite constant of one element, of any rank."""
    return _Leaf(name, _is_scalar, "a scalar constant", True)


def number(value: float) -> Pattern:
    """A one-element constant with this value, as near as its type and exporters' digits allow.

    Allowed is a relative error of 1e-5, or one unit in the last place of the constant's own type if
    that is more: 1/sqrt(2) in FP16 is 0.70703 (1e-4 off), and no exporter could have written it
    closer. The same 0.70703 in an FP32 constant is refused: there it is another function.
    """

    def check(graph: Graph, tensor: Tensor) -> bool:
        found = value_of(graph, tensor)
        if found is None:
            return False
        if value == 0 or not math.isfinite(value):
            return found == value
        return abs(found - value) <= abs(value) * max(RELATIVE_TOLERANCE, _epsilon(tensor))

    return _Leaf("", check, f"the number {value:.7g}", True)


def any_of(*choices: Pattern) -> Pattern:
    """The first choice that fits, together with everything around it."""
    return _AnyOf(choices)


def optional(wrap: Callable[[Pattern], Pattern], inner: Pattern) -> Pattern:
    """``wrap(inner)``, or ``inner`` alone: a step that may be left out."""
    return _AnyOf((wrap(inner), inner))


def value_of(graph: Graph, tensor: Tensor) -> float | None:
    """The value of a constant with one element; None for anything else."""
    if not graph.is_constant(tensor) or math.prod(int(n or 0) for n in tensor.shape or ()) != 1:
        return None
    values = graph.values(tensor)
    return None if values.dtype.kind in "SUO" else float(values.reshape(-1)[0])


def match(graph: Graph, pattern: Pattern, node: Node) -> Match | Miss:
    """Whether the piece of graph that ends in a node fits a pattern.

    Args:
        graph: The graph.
        pattern: What to look for.
        node: The last node; its first output is compared with the pattern.
    """
    search = _Search(graph)
    result = node.outputs[0]
    for found in pattern.solve(search, result, _Found()):
        leak = _leak(graph, found.nodes, result)
        if leak is None:
            return Match(node, found.nodes, found.tensors, found.scalars)
        search.note(found, "is needed outside the pattern", leak.name)
    return search.best


def matches(graph: Graph, pattern: Pattern) -> Iterator[Match]:
    """Every match that does not overlap one already rewritten, last node of the graph first.

    From the end, because a longer match (a norm with its bias) contains a shorter one (the norm).
    After the caller has replaced a match's result, its nodes are unlinked, so that their inputs no
    longer count them as readers.
    """
    roots = pattern.roots()
    gone: set[int] = set()
    for node in reversed(graph.nodes):
        if id(node) in gone or not node.outputs or (roots is not None and node.op not in roots):
            continue
        found = match(graph, pattern, node)
        if not found:
            continue
        result = found.result
        yield found
        if graph.producer(result) is node:
            continue
        gone.update(id(n) for n in found.nodes)
        for dead in found.nodes:
            graph.set_inputs(dead, [])


def put(
    graph: Graph,
    found: Match,
    op_type: str,
    inputs: Sequence[Tensor | None],
    attrs: Mapping[str, object] | None = None,
) -> None:
    """Put one node in the place of a match.

    It keeps the name of the last node, and the name, type and shape of its output, so that users
    recognize their model.

    Args:
        graph: The graph.
        found: What is replaced.
        op_type: Operator of the default domain.
        inputs: Tensors; None for an omitted optional input.
        attrs: Attributes.
    """
    result = found.result
    new = graph.add(
        op_type,
        inputs,
        output=result.name,
        name=found.node.name or result.name,
        dtype=result.dtype,
        shape=result.shape,
        attrs=attrs,
    )
    graph.replace(result, new)


def _always(graph: Graph, tensor: Tensor) -> bool:
    return True


def _is_scalar(graph: Graph, tensor: Tensor) -> bool:
    value = value_of(graph, tensor)
    return value is not None and math.isfinite(value)


def _epsilon(tensor: Tensor) -> float:
    dtype = tensor.dtype
    return 0.0 if dtype is None else _HALF_EPSILON.get(dtype.name, 0.0)


def _given(node: Node) -> list[Tensor]:
    """Inputs without the omitted ones at the end."""
    given = list(node.inputs)
    while given and not given[-1].name:
        given.pop()
    return given


def _orders(node: Node, given: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    yield given
    if node.op in COMMUTATIVE and len(given) == 2 and given[0] is not given[1]:
        yield given[::-1]


def _solve_all(
    search: _Search, pairs: tuple[tuple[Pattern, Tensor], ...], found: _Found
) -> Iterator[_Found]:
    if not pairs:
        yield found
        return
    (pattern, tensor), rest = pairs[0], pairs[1:]
    for one in pattern.solve(search, tensor, found):
        yield from _solve_all(search, rest, one)


def _leak(graph: Graph, nodes: tuple[Node, ...], result: Tensor) -> Tensor | None:
    """A tensor inside the match, other than the result, that something outside needs."""
    inside = {id(n) for n in nodes}
    for tensor in (t for n in nodes for t in n.outputs if t is not result):
        outside = any(id(reader) not in inside for reader, _ in graph.users(tensor))
        if outside or graph.is_pinned(tensor):
            return tensor
    return None


_FLOATS = (np.dtype(np.float32), np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16))


def is_float(tensor: Tensor, *, double: bool = False) -> bool:
    """Whether a tensor is known to hold FP32, FP16 or BF16 (or FP64, if ``double``) numbers."""
    dtype = tensor.dtype
    return dtype is not None and (dtype in _FLOATS or (double and dtype == np.dtype(np.float64)))
