r"""Reads the ``Layers:`` listing of a verbose TensorRT for RTX build log.

With detailed profiling verbosity the builder prints one message that names every kernel of the
engine, a line a kernel in execution order::

    Name: <text>, LayerType: <word>, Inputs: [<tensors>], Constants: [<tensors>],
      Outputs: [<tensors>], TacticName: <text>, StreamId: <n>[, EventId: <n>],
      Metadata: [ONNX Layer: a]\x1f[ONNX Layer: b]

    tensor = { Name: <text>, [Location: <word>, ]Dimensions: [..], [Strides: [..],
      StrideOrder: [..], ]Datatype: <word>, Format: <text> }

Names are free text: they hold commas and brackets, so a field ends only where the key of the next
one begins. A dynamic dimension is -1. Layers that do not come from the kernel compiler have no
constants; jumps and shape transfers carry fields of their own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from qcompiler.errors import BackendError


class Tensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An operand of a kernel.

    Attributes:
        name: The compiler's name for it.
        dims: Its dimensions; -1 where dynamic.
        dtype: As the library spells it: ``Float``, ``Half``, ``BFloat16``, ``Int8``, ``UInt8``,
            ``Int32``, ``Int64``, ``Bool``, ``FP8``, ``FP8UE8M0``, ``Int4`` or ``FP4E2M1``.
        format: Memory layout, in the library's words.
        strides: In elements; -1 where dynamic, empty where the listing has none.
    """

    name: str
    dims: tuple[int, ...]
    dtype: str
    format: str
    strides: tuple[int, ...] = ()


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kernel, or one step of bookkeeping.

    Attributes:
        name: The compiler's name for it.
        kind: The listing's ``LayerType``: ``correlation`` (convolution), ``gemm``, ``deconv``,
            ``runtime_fusion``, ``kgen`` (generated), ``signal`` and more.
        inputs: Tensors that other kernels or the caller wrote.
        constants: Tensors that are part of the plan.
        outputs: Tensors that it writes.
        onnx_nodes: Names of the ONNX nodes that it computes, in the listing's order, each once.
    """

    name: str
    kind: str
    inputs: tuple[Tensor, ...]
    constants: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    onnx_nodes: tuple[str, ...]


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Device memory of an engine, in bytes.

    Attributes:
        activation: Of all tensors between kernels that are alive at the same time.
        weights: Of the constants.
        scratch: Of the largest workspace of a kernel.
    """

    activation: int
    weights: int
    scratch: int


class Listing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the builder said about one engine."""

    layers: tuple[Layer, ...]
    memory: Memory


_TITLE = re.compile(r"(?:\[\w+\] )?Layers:\s*")
_MESSAGE = re.compile(r"\[[A-Z_]+\] ")
_HEAD = re.compile(r"Name: (?P<name>.*?), LayerType: (?P<kind>[^,]+), ")
_TENSOR = re.compile(
    r"\s*\{ Name: (?P<name>.*?)(?:, Location: \w+)?, Dimensions: \[(?P<dims>[-\d, ]*)\]"
    r"(?:, Strides: \[(?P<strides>[-\d, ]*)\])?(?:, StrideOrder: \[[-\d, ]*\])?"
    r", Datatype: (?P<dtype>\w+), Format: (?P<format>[^{}]*?) \}(?P<more>,?)"
)
_FIELDS = re.compile(r"(?:\w+: .*?, )*?Metadata:(?: (?P<nodes>.*))?")
_SEPARATOR = "\x1f"
# A kernel that the compiler made of another has a mark: ``[ONNX Layer: c]__gemm_from_conv1x1``.
_NODE = re.compile(r"\[ONNX Layer: (.*)\](?:__\w+)?")
_LISTS = ("Inputs", "Constants", "Outputs")
_FIGURES = ("Total Activation Memory", "Total Weights Memory", "Max Scratch Memory")
_MEMORY = re.compile(rf"({'|'.join(_FIGURES)}): (\d+) bytes")
_HINT = "the listing has a form this release does not know; please report it with this line"


def parse(log: str) -> Listing:
    """The kernels and the memory of one engine.

    Args:
        log: Every message of the library, as in ``Verdict.log`` of a build with ``keep_log``.

    Returns:
        One layer for each line of the listing, in the same order.

    Raises:
        BackendError: The log has no listing, more than one, or no memory figures; or a line of
            the listing cannot be read, which the error then shows.
    """
    lines = log.split("\n")
    titles = [i for i, line in enumerate(lines) if _TITLE.fullmatch(line)]
    if len(titles) != 1:
        raise BackendError(
            f"the log of the build has {len(titles) or 'no'} listings of layers, expected one"
            if titles
            else "the log of the build has no listing of layers",
            hint="build with detailed profiling verbosity and keep the log of that build alone",
        )
    rows = enumerate(_section(lines, titles[0] + 1), titles[0] + 2)
    return Listing(tuple(parse_line(row, number) for number, row in rows), _memory(log))


def _section(lines: list[str], start: int) -> Iterator[str]:
    """The lines of one message: up to a blank line or the next message."""
    for line in lines[start:]:
        if not line.strip() or _MESSAGE.match(line):
            return
        yield line.rstrip("\r")


def parse_line(line: str, number: int = 1) -> Layer:
    """One line of the listing.

    Args:
        line: The line, without its end.
        number: Its number in the log, for the error.

    Raises:
        BackendError: It is not of the form that the module's docstring gives.
    """
    head = _HEAD.match(line)
    if head is None:
        raise _unread(line, number, "it does not begin with a name and a type")
    at = head.end()
    lists: dict[str, tuple[Tensor, ...]] = {}
    for key in _LISTS:
        if line.startswith(f"{key}: [", at):
            lists[key], at = _tensors(line, at + len(key) + 3, number)
        elif key != "Constants":
            raise _unread(line, number, f"{key} expected at column {at + 1}")
    fields = _FIELDS.fullmatch(line, at)
    if fields is None:
        raise _unread(line, number, f"fields up to Metadata expected at column {at + 1}")
    return Layer(
        head["name"],
        head["kind"],
        lists["Inputs"],
        lists.get("Constants", ()),
        lists["Outputs"],
        _nodes(fields["nodes"] or "", line, number),
    )


def _tensors(line: str, at: int, number: int) -> tuple[tuple[Tensor, ...], int]:
    """Tensors of the list whose ``[`` ends at ``at``, and where the next field begins."""
    found: list[Tensor] = []
    more = not line.startswith("]", at)
    while more:
        match = _TENSOR.match(line, at)
        if match is None:
            raise _unread(line, number, f"a tensor expected at column {at + 1}")
        dims, strides = _numbers(match["dims"]), _numbers(match["strides"] or "")
        if strides and len(strides) != len(dims):
            raise _unread(line, number, f"{len(dims)} dimensions with {len(strides)} strides")
        found.append(Tensor(match["name"], dims, match["dtype"], match["format"], strides))
        at, more = match.end(), bool(match["more"])
    if not line.startswith("], ", at):
        raise _unread(line, number, f"the end of a list expected at column {at + 1}")
    return tuple(found), at + 3


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(",") if part.strip())


def _nodes(text: str, line: str, number: int) -> tuple[str, ...]:
    """Node names of the metadata, each once; none if it is empty."""
    found: list[str] = []
    for piece in text.split(_SEPARATOR) if text else ():
        match = _NODE.fullmatch(piece)
        if match is None:
            raise _unread(line, number, f"the metadata {piece!r} name no ONNX node")
        found.append(match[1])
    return tuple(dict.fromkeys(found))


def memory(log: str) -> Memory:
    """The memory figures in a log; 0 for each that it does not hold."""
    found = _figures(log)
    return Memory(*(found.get(name, 0) for name in _FIGURES))


def _figures(log: str) -> dict[str, int]:
    return {name: int(count) for name, count in _MEMORY.findall(log)}


def _memory(log: str) -> Memory:
    found = _figures(log)
    try:
        return Memory(*(found[name] for name in _FIGURES))
    except KeyError as missing:
        raise BackendError(
            f"the log of the build does not say {missing}", hint="keep messages of every severity"
        ) from missing


def _unread(line: str, number: int, why: str) -> BackendError:
    return BackendError(
        f"cannot read a line of the engine's layer listing: {why}",
        where=f"line {number}: {line}",
        hint=_HINT,
    )
