"""The work that the compiler is measured against, each verb in a process of its own.

    python -m benchmarks.baseline tile SOURCE.npz COUNT OUT.npz
    python -m benchmarks.baseline infer MODEL DATA.npz BATCH
    python -m benchmarks.baseline quantize MODEL DATA.npz OUT.onnx
    python -m benchmarks.baseline defaults MODEL DATA.npz OUT.onnx

``tile`` makes COUNT samples of the first ones of SOURCE, with 1 % of noise on floats (seed 0).
``infer`` runs all samples through ONNX Runtime at its default settings and prints seconds as JSON.
``quantize`` is ONNX Runtime's own quantizer: ``quant_pre_process``, then ``quantize_static`` (QDQ,
INT8 symmetric, per-channel weights, Percentile), one sample a batch. It needs ``sympy``.
``defaults`` is the same with every option at its default; inputs that the data lack (an empty
cache) are made up as the compiler does it, and 32 samples are used.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Feed = dict[str, Any]


def tile(source: str, count: int, out: str) -> dict[str, Any]:
    """Write ``count`` samples: those of ``source``, repeated with noise beyond its end."""
    rng = np.random.default_rng(0)
    made: dict[str, Any] = {}
    with np.load(source) as arrays:
        for name in sorted(arrays.files):
            values = arrays[name]
            rows = values[np.arange(count) % len(values)]
            if values.dtype.kind == "f":
                fresh = rows[len(values) :]
                noise = rng.standard_normal(fresh.shape, dtype=np.float32)
                rows[len(values) :] = fresh + noise * np.float32(0.01 * values.std())
            made[name] = rows
    np.savez(out, **made)
    return {"samples": count}


def feeds(data: str, batch: int) -> Iterator[Feed]:
    """Batches of an ``.npz`` whose first axis is the batch axis."""
    with np.load(data) as arrays:
        loaded = {name: arrays[name] for name in arrays.files}
    count = min(len(values) for values in loaded.values())
    for start in range(0, count, batch):
        yield {name: values[start : start + batch] for name, values in loaded.items()}


def infer(model: str, data: str, batch: int) -> dict[str, Any]:
    """Seconds to open the model and to run every sample once."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    batches = list(feeds(data, batch))
    start = time.perf_counter()
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    opened = time.perf_counter()
    for one in batches:
        session.run(None, one)
    done = time.perf_counter()
    return {"open": opened - start, "run": done - opened, "batches": len(batches)}


def _reader(rest: Iterator[Feed]) -> object:
    """Samples as ONNX Runtime's quantizer wants them: one a call, then None."""
    from onnxruntime import quantization

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc, unused-ignore]
        """Hands out one sample a call, then None."""

        def get_next(self) -> Feed | None:
            """The next sample."""
            return next(rest, None)

    return Reader()


def quantize(model: str, data: str, out: str) -> dict[str, Any]:
    """The whole line of ONNX Runtime's quantizer on the same samples."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        prepared = str(Path(folder, "prepared.onnx"))
        quant_pre_process(model, prepared)
        quantization.quantize_static(
            prepared,
            out,
            _reader(feeds(data, 1)),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.Percentile,
            extra_options={"ActivationSymmetric": True},
        )
    return {"bytes": Path(out).stat().st_size}


def defaults(model: str, data: str, out: str) -> dict[str, Any]:
    """ONNX Runtime's quantizer with every option at its default."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from qcompiler.data.open import open_data
    from qcompiler.inputs import input_specs
    from qcompiler.load import load

    graph = load(model)
    graph.infer()
    samples = (dict(feed) for feed in open_data(Path(data).resolve(), input_specs(graph), limit=32))
    source, made = Path(model).resolve(), Path(out).resolve()
    # It leaves external data of some models in the current folder.
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        quant_pre_process(str(source), "prepared.onnx")
        quantization.quantize_static("prepared.onnx", str(made), _reader(samples))
    return {"bytes": made.stat().st_size}


def main(verb: str, *rest: str) -> dict[str, Any]:
    """Run one verb."""
    if verb == "tile":
        return tile(rest[0], int(rest[1]), rest[2])
    if verb == "infer":
        return infer(rest[0], rest[1], int(rest[2]))
    if verb == "quantize":
        return quantize(rest[0], rest[1], rest[2])
    if verb == "defaults":
        return defaults(rest[0], rest[1], rest[2])
    raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.stdout.write(json.dumps(main(*sys.argv[1:])) + "\n")
