"""What an engine of a probe shows about the row that it was built for."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from qcompiler.engine.gate import figure
from qcompiler.engine.listing import Layer
from qcompiler.engine.measured import Measured
from qcompiler.engine.precision import LOW, WIDE, products
from qcompiler.engine.report import LinearNode
from qcompiler.engine.sidecar import Sidecar
from qcompiler.errors import QCompilerError, UnsupportedError
from qcompiler.targets.base import Capability, What

_STORED = {"int8": "int8", "fp8_e4m3": "fp8"}
"""Format -> the precision that a kernel which computes in it is said to have."""


def judged(
    row: Capability, nodes: Collection[str], facts: Sidecar, measured: Measured | None
) -> tuple[What, str]:
    """Verdict and note on a row whose quantized network was built.

    Args:
        row: The row.
        nodes: Names of the nodes that it is about.
        facts: About the engine.
        measured: It and the network in float, by turns; None without a GPU.

    Raises:
        UnsupportedError: The library lists no kernels.
    """
    if not facts.report.kernels:
        raise UnsupportedError("the library lists no kernels")
    wanted = _STORED.get(row.format, row.format)
    if row.op == "Add":
        precision = skip_precision(facts.layers, next(iter(nodes)))
    else:
        asked = [n for n in facts.report.linear if n.node in nodes]
        found = {n.precision if n.precision == wanted else _parts(facts.layers, n) for n in asked}
        precision = wanted if found == {wanted} else ", ".join(sorted(found - {wanted}))
    if precision != wanted:
        what = "the skip is read in" if row.op == "Add" else "falls back to"
        return "float", f"{what} {precision}"
    if measured is not None:
        times = f"{_us(measured.ours.median)} against {_us(measured.fp16.median)} in float"
        return ("loses" if measured.slower else "runs"), f"{wanted} kernels, {times}"
    if row.verdict == "loses":
        return "loses", f"{wanted} kernels, not timed; {row.note}"
    return "runs", f"{wanted} kernels, not timed"


def _parts(layers: Iterable[Layer], node: LinearNode) -> str:
    """Precision of a node whose weight may be dealt out to several kernels, as for SM 12.0.

    The report looks for a kernel that has the whole weight; without one it takes the wider type.
    """
    found = products([n for n in layers if node.node in n.onnx_nodes])
    return next(iter(found)) if len(found) == 1 else node.precision


def skip_precision(layers: Iterable[Layer], join: str) -> str:
    """Precision in which the kernel that adds reads the skip: not the sum of the convolution.

    If the Add is computed in the convolution's kernel, that reads its data in low precision too.

    Args:
        layers: Of the engine.
        join: Name of the Add.
    """
    layer = next((n for n in layers if join in n.onnx_nodes), None)
    if layer is None:
        return "unknown"
    types = [t.dtype for t in layer.inputs if len(t.dims) == 4]
    low = [LOW[t] for t in types if t in LOW]
    if len(low) > int(layer.kind == "correlation"):
        return low[0]
    return ", ".join(sorted({WIDE[t] for t in types if t in WIDE})) or "unknown"


def cause(error: QCompilerError) -> str:
    """Why a network was refused, in a line."""
    lines = error.message.splitlines()
    return lines[0] if ": " in lines[0] or len(lines) == 1 else lines[1]


def _us(time: float) -> str:
    return f"{figure(time * 1e6)} us"
