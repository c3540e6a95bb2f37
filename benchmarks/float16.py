"""FP16 graphs on a GPU with ONNX Runtime: ours beside the two usual converters.

    python -m benchmarks.float16 [--zoo ../shared/zoo] [--only NAME ...] [--json float16.json]
                                 [--provider CUDAExecutionProvider]

Each model becomes FP16 by the recipe ``fp16`` (for ``onnxruntime`` and for ``tensorrt``), by
``onnxconverter_common.float16`` and by ``onnxruntime.transformers.float16``, inputs and outputs in
FP32. All run by turns in this process, inputs and outputs on the device, graph optimizations at
their most and at BASIC: the median of 15 turns of 10 runs each, as a ratio to ours. How close they
are is the signal-to-noise ratio of the first output to the float model on a CPU, in dB. A graph
that does not load is a row with its error. Besides the package it needs ``onnxruntime-gpu``,
``onnxconverter-common``, and ``sympy`` and ``packaging`` for the other converter.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from benchmarks.options import parsed, parser
from benchmarks.zoo import entries
from qcompiler import driver
from qcompiler.data.open import open_data
from qcompiler.inputs import input_specs
from qcompiler.load import load

MODELS = ("cifar10/vit", "lm/llama", "imagenet_mobilenetv2_224")
BATCHES = (1, 8, 64)
TURNS, RUNS = 15, 10
LEVELS = {
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
}
Feeds = Mapping[str, NDArray[Any]]


def converters() -> dict[str, Callable[[Path, Path, Path], None]]:
    """Name -> what writes the FP16 form of a model."""

    def ours(target: str) -> Callable[[Path, Path, Path], None]:
        def convert(model: Path, calib: Path, to: Path) -> None:
            driver.compile(model, data=str(calib), recipe="fp16", target=target).save(to)

        return convert

    def common(model: Path, calib: Path, to: Path) -> None:
        from onnxconverter_common import float16  # type: ignore[import-not-found,unused-ignore]

        half = float16.convert_float_to_float16(onnx.load(model), keep_io_types=True)
        onnx.save(half, to)

    def transformers(model: Path, calib: Path, to: Path) -> None:
        from onnxruntime.transformers import float16  # type: ignore[import-untyped,unused-ignore]

        half = float16.convert_float_to_float16(onnx.load(model), keep_io_types=True)
        onnx.save(half, to)

    return {
        "ours, onnxruntime": ours("onnxruntime"),
        "ours, tensorrt": ours("tensorrt"),
        "onnxconverter-common": common,
        "onnxruntime.transformers": transformers,
    }


def session(model: Path, provider: str, level: str) -> ort.InferenceSession:
    """A model on a device."""
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.log_severity_level = 3
    return ort.InferenceSession(str(model), options, providers=[provider, "CPUExecutionProvider"])


def bound(run: ort.InferenceSession, feeds: Feeds, device: str) -> ort.IOBinding:
    """Inputs and outputs on the device."""
    binding = run.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value, device, 0))
    for output in run.get_outputs():
        binding.bind_output(output.name, device, 0)
    return binding


def seconds(runs: Mapping[str, tuple[ort.InferenceSession, ort.IOBinding]]) -> dict[str, float]:
    """Median seconds of one run, all models by turns."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):
        for name, (run, binding) in list(runs.items())[:: 1 if turn % 2 else -1]:
            start = time.perf_counter()
            for _ in range(RUNS):
                run.run_with_iobinding(binding)
            if turn:  # the first one warms up
                taken[name].append((time.perf_counter() - start) / RUNS)
    return {name: float(np.median(t)) for name, t in taken.items()}


def noise_db(model: Path, half: Path, provider: str, feeds: Feeds) -> float:
    """Signal-to-noise ratio of the first output."""
    expected = session(model, "CPUExecutionProvider", "basic").run(None, dict(feeds))[0]
    found = session(half, provider, "all").run(None, dict(feeds))[0]
    signal, error = expected.astype(np.float64), found.astype(np.float64) - expected
    return float(10 * np.log10((signal**2).sum() / (error**2).sum()))


def rows(name: str, model: Path, calib: Path, provider: str) -> Iterator[dict[str, Any]]:
    """Everything about one model."""
    specs = input_specs(load(model))
    samples = [dict(s) for s, _ in zip(open_data(str(calib), specs), range(64), strict=False)]
    device = "cuda" if provider.startswith("CUDA") else "cpu"
    with tempfile.TemporaryDirectory(prefix="qcompiler-") as folder:
        made: dict[str, Path] = {}
        for number, (who, convert) in enumerate(converters().items()):
            try:
                convert(model, calib, Path(folder, f"{number}.onnx"))
                db = noise_db(model, Path(folder, f"{number}.onnx"), provider, samples[0])
            except Exception as error:  # noqa: BLE001  (whatever a converter raises is a row)
                yield {"model": name, "form": who, "error": " ".join(str(error).split())[:200]}
            else:
                made[who] = Path(folder, f"{number}.onnx")
                yield {"model": name, "form": who, "db": db}
        for batch in BATCHES:
            feeds = {k: np.concatenate([s[k] for s in samples[:batch]]) for k in samples[0]}
            for level in LEVELS:
                runs = {w: session(p, provider, level) for w, p in made.items()}
                taken = seconds({w: (r, bound(r, feeds, device)) for w, r in runs.items()})
                ratio = {w: t / taken["ours, onnxruntime"] for w, t in taken.items()}
                yield {"model": name, "batch": len(next(iter(feeds.values()))), "level": level,
                       "ms": {w: 1e3 * t for w, t in taken.items()}, "ratio": ratio}  # fmt: skip


def main() -> None:
    """Run the comparison."""
    given = parser(__doc__)
    given.add_argument("--provider", default="CUDAExecutionProvider", help="of ONNX Runtime")
    options = parsed(given)
    if options.provider not in ort.get_available_providers():
        given.error(f"onnxruntime has no {options.provider} here; onnxruntime-gpu brings it")
    options.only = options.only or list(MODELS)
    found = []
    for entry in (e for e in entries(options.zoo) if options.chooses(e.name)):
        for row in rows(entry.name, entry.model, entry.calib, options.provider):
            print(json.dumps(row), flush=True)
            found.append(row)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
