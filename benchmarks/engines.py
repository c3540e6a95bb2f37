"""Compile and build every model of a zoo for TensorRT for RTX, and compare the engines with FP16.

    python -m benchmarks.engines [--zoo ../shared/zoo] [--only NAME ...] [--json engines.json]

For each model, compute capability (8.9 and 12.0) and form, the command line makes an engine::

    qcompiler MODEL --data CALIB --recipe R [--force] --target tensorrt-rtx-1.7:smNN
                    --opt-shapes SHAPES --engine PLAN

and the facts beside the plan say: kernels, megabytes that all of them read and write, the share of
multiply-accumulates in low precision, and the roofline estimate for one card (RTX 4090, RTX 5090);
the same of the FP16 form of the model, which the gate builds. Nothing is run, nothing is timed.
``ort + lint --fix`` is what ``onnxruntime.quantization`` makes with every option at its default
(``quant_pre_process``, then ``quantize_static``), rewritten by ``qcompiler lint --fix``; whether
TensorRT takes it *without* that is a column of its own in the JSON (``raw``).

A listing does not say what a dynamic dimension stands for, so every input is fixed: batch 8, 128
tokens (of decoders 120 new and 8 cached, and 1 new and 127 cached), images at their own size.

``MODELOPT`` holds figures of ModelOpt 0.47, recorded: its ONNX quantizer, method max, high
precision FP16, built by TensorRT for RTX 1.7.1 for SM 8.9 and counted with a dynamic batch as 8.
For transformers that counts fewer bytes than fixed shapes do; their megabytes are left out.

Marked are an estimate above FP16's, more than 1.2 times its bytes in a convolutional network, and
in a transformer more bytes than the best placement that was found by hand (``BEST``). The sweep
takes about an hour on two cores.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.options import parsed, parser
from benchmarks.process import Run, run
from benchmarks.zoo import entries
from qcompiler.engine.shapes import write
from qcompiler.load import load

CARDS = {"sm89": "RTX 4090", "sm120": "RTX 5090"}
RELEASE = "tensorrt-rtx-1.7"
FP16_FORM, ORT = "FP16 form", "ort + lint --fix"
FORMS: dict[str, tuple[str, ...]] = {
    "int8+fp16": ("--recipe", "int8+fp16"),
    "fp8+fp16": ("--recipe", "fp8+fp16"),
    "fp16": ("--recipe", "fp16"),
    "int8+fp16 --force": ("--recipe", "int8+fp16", "--force"),
}
FORCED = "int8+fp16 --force"
BATCH = 8
Shapes = Mapping[str, tuple[int, ...]]


def _decoder(past: str, head: int, new: int, **more: tuple[int, ...]) -> Shapes:
    """Shapes of a decoder with two key heads that attends to 128 tokens."""
    return {"input_ids": (BATCH, new), past: (BATCH, 2, 128 - new, head), **more}


# Where more than the batch is dynamic: what is compared, and at which shapes.
SHAPES: dict[str, dict[str, Shapes]] = {
    "charrnn_lstm": {"": {"input_ids": (BATCH, 128)}},
    "lm/llama": {
        "prefill": _decoder("past_0.key", 48, 120),
        "decode": _decoder("past_0.key", 48, 1),
    },
    "lm/tinyllama": {
        "prefill": _decoder("past_0.key", 32, 120),
        "decode": _decoder("past_0.key", 32, 1),
    },
    "minilm_l6_sts": {"": {"input_ids": (BATCH, 128)}},
    "shakespeare_llm": {
        "": _decoder("past_key_values.0.key", 32, 120, attention_mask=(BATCH, 128))
    },
    "silero_vad_if": {"": {"input": (BATCH, 576), "state": (2, BATCH, 128)}},
    "super_resolution_x3": {"": {"lr": (BATCH, 1, 96, 96)}},
}
# Megabytes of the best placement found by hand for SM 8.9, same shapes, same count.
BEST = {
    "cifar10/vit": 49.7,
    "minilm_l6_sts": 167.8,
    "lm/llama prefill": 181.4,
    "lm/llama decode": 9.1,
}
TRANSFORMERS = ("cifar10/vit", "minilm_l6_sts", "lm/", "shakespeare_llm")
# ModelOpt 0.47, recorded: (kernels, MB) in INT8 and in FP8.
MODELOPT: dict[str, tuple[tuple[int, float | None], tuple[int, float | None]]] = {
    "cifar10/resnet20": ((51, 17.03), (44, 11.61)),
    "cifar10/mobilenetv2": ((107, 174.05), (103, 116.8)),
    "cifar10/vit": ((90, None), (90, None)),
    "minilm_l6_sts": ((73, None), (108, None)),
    "yolox_nano_coco": ((288, 124.59), (277, 85.52)),
    "imagenet_squeezenet11": ((81, 220.53), (78, 155.32)),
    "imagenet_mobilenetv2_224": ((109, 726.66), (105, 417.46)),
    "ultraface_rfb320": ((132, 49.46), (127, 24.46)),
}
MOST_BYTES = 1.2  # times those of FP16, in a convolutional network
ABOVE = 1.001  # times FP16's estimate: beyond rounding


@dataclass(frozen=True)
class Case:
    """One model at one set of shapes.

    Attributes:
        name: Of the model, and of the shapes where there are several.
        model: The float model.
        calib: Its calibration data.
        shapes: As for ``--opt-shapes``; empty if nothing is dynamic.
    """

    name: str
    model: Path
    calib: Path
    shapes: str

    @property
    def convolutional(self) -> bool:
        """Whether the bound on bytes is that of convolutional networks."""
        return not self.name.startswith(TRANSFORMERS)


@dataclass(frozen=True)
class Row:
    """One engine; JSON as it stands.

    Attributes:
        case: Name of the case.
        form: What was built.
        sm: Compute capability.
        shapes: At which it was built.
        kernels: Number of kernels.
        mb: Megabytes read and written.
        low: Share of multiply-accumulates in low precision, 0 to 1.
        us: Estimate in microseconds for the card of ``CARDS``.
        fp16_kernels: Of the FP16 form.
        fp16_mb: Of the FP16 form.
        fp16_us: Of the FP16 form.
        gate: Verdict of the gate.
        raw: Of ONNX Runtime's output: whether it builds before ``lint --fix``.
        seconds: Wall time of the command.
        error: Why there is no engine.
    """

    case: str
    form: str
    sm: str
    shapes: str = ""
    kernels: int | None = None
    mb: float | None = None
    low: float | None = None
    us: float | None = None
    fp16_kernels: int | None = None
    fp16_mb: float | None = None
    fp16_us: float | None = None
    gate: str = ""
    raw: str = ""
    seconds: float = 0.0
    error: str = ""


def cases(zoo: Path) -> Iterator[Case]:
    """Every model of a zoo, at the shapes that it is compared at."""
    for entry in entries(zoo):
        variants = SHAPES.get(entry.name) or {"": _batched(entry.model)}
        for word, shapes in variants.items():
            name = f"{entry.name} {word}".strip()
            yield Case(name, entry.model, entry.calib, write(shapes))


def _batched(model: Path) -> Shapes:
    """Shapes of inputs whose first axis alone is dynamic."""
    shapes: dict[str, tuple[int, ...]] = {}
    for tensor in load(model, strict=False).inputs:
        dims = list(tensor.shape or ())
        if dims and not isinstance(dims[0], int):
            shapes[tensor.name] = (BATCH, *(int(d or 0) for d in dims[1:]))
    return shapes


def qcompiler(*words: object) -> Run:
    """Run the command line of this checkout; words are strings and paths."""
    return run([sys.executable, "-m", "qcompiler", *map(str, words)], timeout=1200)


def _shaped(case: Case) -> tuple[str, ...]:
    return ("--opt-shapes", case.shapes) if case.shapes else ()


def read(case: Case, form: str, sm: str, done: Run, plan: Path, raw: str = "") -> Row:
    """The figures beside a plan, or why there is none."""
    facts = plan.with_name(plan.name + ".json")
    if not facts.is_file():
        return Row(case.name, form, sm, case.shapes, raw=raw, error=done.reason)
    gate: dict[str, Any] = json.loads(facts.read_text(encoding="utf-8"))["gate"] or {}
    ours, fp16, times = (gate.get(key) or {} for key in ("ours", "fp16", "estimate"))
    return Row(
        case.name,
        form,
        sm,
        case.shapes,
        kernels=ours.get("kernels"),
        mb=_scaled(ours.get("bytes_moved"), 1e-6),
        low=ours.get("low_macs"),
        us=_scaled(times.get("ours"), 1e6),
        fp16_kernels=fp16.get("kernels"),
        fp16_mb=_scaled(fp16.get("bytes_moved"), 1e-6),
        fp16_us=_scaled(times.get("fp16"), 1e6),
        gate=gate.get("verdict", ""),
        raw=raw,
        seconds=round(done.seconds, 1),
        error=gate.get("why", "") if gate.get("verdict") == "unknown" else "",
    )


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else round(value * factor, 3)


def compiled(case: Case, form: str, sm: str, folder: Path) -> Row:
    """Compile in one form and build."""
    plan = folder / f"{sm}.plan"
    plan.with_name(plan.name + ".json").unlink(missing_ok=True)
    done = qcompiler(
        *(case.model, "--data", case.calib, *FORMS[form], *_shaped(case), "--overwrite"),
        *("--target", f"{RELEASE}:{sm}", "--gpu", CARDS[sm]),
        *("-o", folder / "model.onnx", "--engine", plan),
    )
    return read(case, form, sm, done, plan)


def by_onnxruntime(case: Case, folder: Path) -> list[Row]:
    """Quantize with the defaults of ONNX Runtime, fix, and build."""
    raw, fixed = folder / "ort.onnx", folder / "fixed.onnx"
    made = run(
        [sys.executable, "-m", "benchmarks.baseline", "defaults"]
        + [str(path) for path in (case.model, case.calib, raw)],
        timeout=1200,
    )
    if made.code != 0:
        return [Row(case.name, ORT, sm, case.shapes, error=f"ort: {made.reason}") for sm in CARDS]
    target = f"{RELEASE}:sm89"
    refused = qcompiler(
        *("build", raw, "--target", target, *_shaped(case), "-o", folder / "raw.plan")
    )
    verdict = "built" if refused.code == 0 else refused.reason
    linted = qcompiler("lint", raw, "--target", target, "--fix", fixed)
    rows: list[Row] = []
    for sm in CARDS:
        if not fixed.is_file():
            rows.append(Row(case.name, ORT, sm, case.shapes, error=f"lint: {linted.reason}"))
            continue
        plan = folder / f"ort-{sm}.plan"
        done = qcompiler(
            *("build", fixed, "--target", f"{RELEASE}:{sm}", "--gpu", CARDS[sm], *_shaped(case)),
            *("--source", case.model, "-o", plan),
        )
        rows.append(read(case, ORT, sm, done, plan, verdict))
    return rows


def measure(case: Case) -> list[Row]:
    """Every engine of one case; a failure is a row with its error."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="qcompiler-engines-") as name:
        folder = Path(name)
        rows = [compiled(case, form, sm, folder) for form in FORMS for sm in CARDS]
        rows += by_onnxruntime(case, folder)
    spent = time.perf_counter() - start
    sys.stderr.write(f"{case.name}: {len(rows)} engines in {spent:.0f} s\n")
    return rows


def marks(case: Case, row: Row) -> list[str]:
    """What a row misses of the figures to reach; nothing is asked of forced or foreign forms."""
    if row.form in (FORCED, ORT) or row.mb is None:
        return [row.error] if row.error else []
    found: list[str] = []
    if row.us is not None and row.fp16_us is not None and row.us > row.fp16_us * ABOVE:
        found.append(f"estimate {row.us / row.fp16_us:.3f} x FP16")
    if case.convolutional and row.fp16_mb and row.mb > row.fp16_mb * MOST_BYTES:
        found.append(f"bytes {row.mb / row.fp16_mb:.2f} x FP16")
    best = BEST.get(case.name)
    if best is not None and row.mb > best * ABOVE:
        found.append(f"bytes {row.mb / best:.2f} x best by hand")
    return found


def show(chosen: Sequence[Case], rows: Sequence[Row]) -> None:
    """Print the table, and the rows that miss a figure."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table(title=f"engines of {RELEASE}; estimates for {' and '.join(CARDS.values())}")
    table.add_column("model", no_wrap=True)
    table.add_column("form", no_wrap=True)
    for sm in CARDS:
        for title in ("kernels", "MB", "low", "us"):
            table.add_column(f"{sm} {title}", justify="right", no_wrap=True)
    for case in chosen:
        for line in lines([r for r in rows if r.case == case.name]):
            table.add_row(*line)
        for word, (kernels, mb) in zip(("INT8", "FP8"), MODELOPT.get(case.name, ()), strict=False):
            text = "-" if mb is None else f"{mb:.2f}"
            table.add_row("", f"ModelOpt {word}, recorded", str(kernels), text)
        table.add_section()
    console.print(table)
    for case in chosen:
        for row in (r for r in rows if r.case == case.name):
            for mark in marks(case, row):
                console.print(f"{case.name}, {row.form}, {row.sm}: {mark}", soft_wrap=True)


def save(path: Path, rows: Sequence[Row]) -> None:
    """Write the rows as JSON."""
    facts = {"benchmark": "engines", "rows": [asdict(row) for row in rows]}
    path.write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def lines(rows: Sequence[Row]) -> Iterator[list[str]]:
    """Lines of the table about one case: the FP16 form, then every other."""
    by_form: dict[str, dict[str, Row]] = {}
    for row in rows:
        by_form.setdefault(row.form, {})[row.sm] = row
    whole = {
        sm: next((r for r in rows if r.sm == sm and r.fp16_mb is not None), None) for sm in CARDS
    }
    head = [rows[0].case] if rows else []
    fp16 = [
        _cells(r.fp16_kernels, r.fp16_mb, 0.0, r.fp16_us) if r else ["-"] * 4
        for r in whole.values()
    ]
    yield [*head, FP16_FORM, *(cell for cells in fp16 for cell in cells)]
    for form, found in by_form.items():
        figures = [
            _cells(r.kernels, r.mb, r.low, r.us) if (r := found.get(sm)) else ["-"] * 4
            for sm in CARDS
        ]
        yield ["", form, *(cell for cells in figures for cell in cells)]


def _cells(kernels: int | None, mb: float | None, low: float | None, us: float | None) -> list[str]:
    return [
        "-" if kernels is None else str(kernels),
        "-" if mb is None else f"{mb:.2f}",
        "-" if low is None else f"{low:.0%}",
        "-" if us is None else f"{us:.2f}",
    ]


def main() -> None:
    """Parse the command line, measure, print, write."""
    given = parser(__doc__)
    given.add_argument("--jobs", type=int, default=1, help="models at the same time")
    options = parsed(given)
    chosen = [c for c in cases(options.zoo) if options.chooses(c.name)]
    rows: list[Row] = []
    with ThreadPoolExecutor(options.jobs) as pool:
        for found in pool.map(measure, chosen):
            rows += found
            if options.json:  # after every case: the sweep is long
                save(options.json, rows)
    show(chosen, rows)


if __name__ == "__main__":
    main()
