"""Run one model in ONNX Runtime on random feeds, in a process that may crash.

    python -m benchmarks.probe MODEL OUTPUTS.npz [LIKE.npz]

Prints one JSON line: ``state`` (``runs``, ``loads``, ``fails``), ``error``, and for a model that
runs its ``outputs`` as [name, type, rank] and ``axis``, the size that its free axes were given. The
outputs are kept in ``OUTPUTS.npz``; with ``LIKE`` (that of another model), the feeds are made as
they were for that one, and ``sqnr_db`` is the worst signal-to-noise ratio of a float output against
it.

Free axes are tried with sizes 2, 1, 4 and 8: some graphs run with one of them only.
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

SIZES = (2, 1, 4, 8)
INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
TYPES = {
    "float": "float32",
    "float16": "float16",
    "double": "float64",
    "bool": "bool",
    **{name: name for name in INTEGERS},
}


def feed(info: Any, size: int, rng: np.random.Generator) -> Any:  # noqa: ANN401 - untyped library
    """One random input: floats normal, integers and booleans 0 or 1, strings ``a``."""
    shape = [dim if isinstance(dim, int) else size for dim in info.shape]
    kind = info.type.removeprefix("tensor(").removesuffix(")")
    if kind == "string":
        return np.full(shape, "a", dtype=object)
    if kind not in TYPES:
        raise ValueError(f"input {info.name!r} has the type {info.type}")
    dtype = np.dtype(TYPES[kind])
    values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
    return np.asarray(values).astype(dtype)


def attempt(session: ort.InferenceSession, size: int) -> list[Any]:
    """The outputs on feeds whose free axes have one size; the same numbers for the same inputs."""
    rng = np.random.default_rng(0)
    return list(session.run(None, {i.name: feed(i, size, rng) for i in session.get_inputs()}))


def run_once(session: ort.InferenceSession, sizes: tuple[int, ...]) -> tuple[int, list[Any], str]:
    """The first size the model runs with, and its outputs; else size 0 and the first error."""
    first = ""
    for size in sizes:
        try:
            return size, attempt(session, size), ""
        except Exception as error:  # noqa: BLE001 - a class for each status code
            first = first or str(error).splitlines()[0]
    return 0, [], first


def sqnr(want: np.ndarray[Any, Any], have: np.ndarray[Any, Any]) -> float | None:
    """10 log10(signal power / noise power) over the finite values; None if undefined."""
    if want.shape != have.shape or want.dtype.kind != "f":
        return None
    a, b = want.astype(np.float64), have.astype(np.float64)
    fine = np.isfinite(a) & np.isfinite(b)
    signal, noise = float((a[fine] ** 2).sum()), float(((a - b)[fine] ** 2).sum())
    if signal == 0:
        return None
    return 10 * math.log10(signal / max(noise, signal * 1e-15))


def main(model: str, kept: str, like: str = "") -> dict[str, Any]:
    """Load, run and compare."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 - as above
        return {"state": "fails", "error": str(error).splitlines()[0]}
    known = dict(np.load(like)) if like and Path(like).exists() else {}
    sizes = (int(known["#size"]),) if "#size" in known else SIZES
    size, values, error_text = run_once(session, sizes)
    if not size:
        return {"state": "loads", "error": error_text}
    named = dict(zip([o.name for o in session.get_outputs()], values, strict=True))
    arrays = {
        k: v for k, v in named.items() if isinstance(v, np.ndarray) and v.dtype.kind in "fiub"
    }
    content: dict[str, Any] = {"#size": np.array(size), **{f"={k}": v for k, v in arrays.items()}}
    np.savez(kept, **content)
    noise = [sqnr(known[f"={k}"], v) for k, v in arrays.items() if f"={k}" in known]
    return {
        "state": "runs",
        "axis": size,
        "outputs": [[o.name, o.type, np.ndim(named[o.name])] for o in session.get_outputs()],
        "sqnr_db": min((x for x in noise if x is not None), default=None),
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
