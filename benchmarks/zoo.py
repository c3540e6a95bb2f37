"""Compile every model of a zoo with the default recipe and no other flag, and score what comes out.

    python -m benchmarks.zoo [--zoo ../shared/zoo] [--only NAME ...] [--json zoo.json] [--jobs 1]

For each model: ``python -m qcompiler MODEL --data CALIB -o OUT --report R``, the zoo's own scorer
on the float and on the compiled model (graph optimizations off: the figure that is judged; and on,
as a figure of its own), and a build of the compiled model by TensorRT for RTX for three compute
capabilities. The baseline is the best of three settings of ONNX Runtime's own quantizer, from the
zoo's ``baselines.json`` (``cifar10`` and ``lm``: its README, column C).

A model passes if its metric is at least the best baseline less one standard error: for top-1
sqrt(p (1 - p) / n), for any other metric 1 % of the baseline. A model that fails is a row with its
error. The sweep takes about five minutes on two cores.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.options import parsed, parser
from benchmarks.process import run
from qcompiler.backends import tensorrt
from qcompiler.errors import QCompilerError

CAPABILITIES = ("SM86", "SM89", "SM120")

# The zoo's README, column C (per-channel min-max, linear ops only); cifar10: 2,000 images, lm:
# perplexity of the first 256 windows. Columns A and B are empty there.
README_BASELINES = {
    "cifar10/resnet20": 0.8895,
    "cifar10/mobilenetv2": 0.8840,
    "cifar10/vit": 0.8165,
    "lm/llama": 44.52,
    "lm/tinyllama": 52.40,
}
LIMITS = {"cifar10": 2000, "lm": 256}
METRICS = (
    "top1",
    "perplexity",
    "ppl",
    "spearman",
    "psnr",
    "map",
    "box_f1_vs_fp32",
    "snr_db_vs_fp32",
)
LOWER_IS_BETTER = {"perplexity", "ppl"}
# Besides the baseline: at most this far below float.
FLOAT_GAP = {"imagenet_mobilenetv2_224": 0.01}
# total = past + seq is not in this graph: one of the shapes its calibration data has.
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "shakespeare_llm": {
        "input_ids": (1, 64),
        "attention_mask": (1, 128),
        "past_key_values.0.key": (1, 2, 64, 32),
    }
}


@dataclass(frozen=True)
class Entry:
    """One model of the zoo and how to score it.

    Attributes:
        name: ``folder`` or ``folder/model``.
        model: The float model.
        calib: Its calibration data.
        scorer: Command line of the scorer, less the options.
        off: Option that turns graph optimizations off.
    """

    name: str
    model: Path
    calib: Path
    scorer: tuple[str, ...]
    off: tuple[str, ...]

    def score(self, model: Path, *, optimized: bool) -> dict[str, Any]:
        """The scorer's JSON for a model; ``error`` instead if it failed."""
        command = [arg.replace("{model}", str(model)) for arg in self.scorer]
        done = run(
            command + ([] if optimized else list(self.off)), env={"PYTHONDONTWRITEBYTECODE": "1"}
        )
        if done.code != 0:
            return {"error": done.reason}
        facts: dict[str, Any] = json.loads(done.out.strip().splitlines()[-1])
        if "metric" in facts:
            facts = {facts["metric"]: facts["value"], "n": facts["samples"]}
        return facts


@dataclass
class Row:
    """All that was found out about one model; JSON as it stands."""

    name: str
    metric: str = ""
    before: float | None = None
    after: float | None = None
    after_optimized: float | None = None
    baseline: float | None = None
    tolerance: float | None = None
    samples: int | None = None
    verdict: str = "error"
    detail: dict[str, Any] = field(default_factory=dict)
    bytes_before: int | None = None
    bytes_after: int | None = None
    coverage: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    cpu: float | None = None
    peak_bytes: int | None = None
    rtx: dict[str, Any] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def entries(zoo: Path) -> Iterator[Entry]:
    """The models of a zoo folder, in the order of their names."""
    for model in sorted(zoo.glob("*/*.onnx")):
        folder = model.parent
        own = folder / "eval.py"
        name = folder.name if own.exists() else f"{folder.name}/{model.stem}"
        if own.exists():
            command: tuple[str, ...] = (sys.executable, str(own), "--model", "{model}")
            yield Entry(name, model, folder / "calib.npz", command, ("--opt", "disable"))
        elif folder.name in LIMITS:
            data, limit = str(folder / "eval.npz"), str(LIMITS[folder.name])
            task = [sys.executable, str(zoo / "evaluate.py"), folder.name]
            command = (*task, "{model}", data, "--limit", limit)
            yield Entry(name, model, folder / "calib.npz", command, ("--no-optimize",))


def baseline(entry: Entry, metric: str) -> float | None:
    """The best of ONNX Runtime's settings; None where it quantized nothing or never ran."""
    if entry.name in README_BASELINES:
        return README_BASELINES[entry.name]
    known = json.loads((entry.model.parent / "baselines.json").read_text(encoding="utf-8"))
    if known.get("qdq_nodes", {}).get("mm") == 0:
        return None
    found = [f[metric] for key, f in known.items() if key.startswith("int8_") and metric in f]
    pick = min if metric in LOWER_IS_BETTER else max
    return pick(found, default=None)


def tolerance(metric: str, value: float, samples: int) -> float:
    """One standard error of a proportion; for other metrics 1 % of the value."""
    return math.sqrt(value * (1 - value) / samples) if metric == "top1" else 0.01 * abs(value)


def judge(row: Row) -> str:
    """``pass``, ``below baseline``, ``too far below float`` or ``no baseline``."""
    if row.after is None or row.before is None:
        return "error"
    sign = -1.0 if row.metric in LOWER_IS_BETTER else 1.0
    gap = FLOAT_GAP.get(row.name)
    if gap is not None and sign * (row.before - row.after) > gap:
        return "too far below float"
    if row.baseline is None or row.tolerance is None:
        return "no baseline"
    return "pass" if sign * (row.after - row.baseline) >= -row.tolerance else "below baseline"


def find(tree: object, word: str) -> dict[str, Any]:
    """The numbers of a report whose key path has ``word``, wherever it keeps them."""
    found: dict[str, Any] = {}

    def walk(node: object, path: str) -> None:
        if isinstance(node, Mapping):
            for key, value in node.items():
                walk(value, f"{path}.{key}" if path else str(key))
        elif isinstance(node, int | float) and word in path:
            found[path] = node

    walk(tree, "")
    return found


def compile_model(entry: Entry, out: Path, row: Row) -> bool:
    """Run the compiler; fills the row from its report. False if it failed."""
    report = out.with_name("report.json")
    command = [sys.executable, "-m", "qcompiler", str(entry.model), "--data", str(entry.calib)]
    done = run([*command, "-o", str(out), "--report", str(report), "--overwrite"])
    row.seconds["compile"], row.cpu, row.peak_bytes = done.seconds, done.cpu, done.peak
    if done.code != 0 or not out.is_file():
        row.errors.append(f"compile: {done.reason}")
        return False
    row.bytes_before, row.bytes_after = size(entry.model), size(out)
    facts = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {}
    row.coverage = find(facts, "coverage")
    row.seconds |= {key.split(".")[-1]: value for key, value in find(facts, "timings").items()}
    return True


def size(model: Path) -> int:
    """Bytes of a model and of the files beside it that carry its name (external data)."""
    return sum(path.stat().st_size for path in model.parent.glob(f"{model.stem}*"))


def build(entry: Entry, model: Path, row: Row) -> None:
    """Ask TensorRT for RTX, for each compute capability, about the compiled and the float model."""
    shapes = SHAPES.get(entry.name)
    for capability in CAPABILITIES:
        verdict: dict[str, Any]
        try:
            ours = tensorrt.build(model, capability=capability, shapes=shapes)
            verdict = {
                "stage": ours.stage,
                "errors": list(ours.errors),
                "plan_bytes": ours.plan_bytes,
            }
            if not ours.accepted:
                plain = tensorrt.build(entry.model, capability=capability, shapes=shapes)
                verdict["float_stage"] = plain.stage
        except QCompilerError as error:
            verdict = {"stage": "error", "errors": [str(error)]}
        row.rtx[capability] = verdict


def score(entry: Entry, out: Path, row: Row) -> None:
    """Fill in the metrics of the float and of the compiled model."""
    plain, ours = (entry.score(model, optimized=False) for model in (entry.model, out))
    fast = entry.score(out, optimized=True)
    row.detail = {"float": plain, "ours": ours, "ours_optimized": fast}
    row.errors += [
        f"score {k}: {facts['error']}" for k, facts in row.detail.items() if "error" in facts
    ]
    row.metric = next((name for name in METRICS if name in plain), "")
    row.before, row.after = plain.get(row.metric), ours.get(row.metric)
    row.after_optimized = fast.get(row.metric)
    row.samples = next(
        (int(plain[k]) for k in ("n", "n_pairs", "tokens", "n_frames") if k in plain), 1
    )
    row.baseline = baseline(entry, row.metric)
    if row.baseline is not None:
        row.tolerance = tolerance(row.metric, row.baseline, row.samples)
    row.verdict = judge(row)


def measure(entry: Entry) -> Row:
    """Everything about one model; no failure of it gets out."""
    row, start = Row(entry.name), time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="qcompiler-zoo-") as folder:
        out = Path(folder, "model.onnx")
        try:
            if compile_model(entry, out, row):
                score(entry, out, row)
                build(entry, out, row)
        except (OSError, ValueError, KeyError) as error:
            row.errors.append(f"{type(error).__name__}: {error}")
    row.seconds["row"] = time.perf_counter() - start
    return row


def number(value: float | None, digits: int = 4) -> str:
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}g}"


def cells(row: Row) -> list[str]:
    """One line of the table."""
    rtx = [
        f"{sm}: {facts['stage']} (float: {facts.get('float_stage', '?')})"
        for sm, facts in row.rtx.items()
        if facts["stage"] != "built"
    ]
    shrink = row.bytes_after / row.bytes_before if row.bytes_after and row.bytes_before else None
    shares = {k.split(".")[-1]: v for k, v in row.coverage.items() if isinstance(v, float)}
    parts = [f"{name} {value:.0%}" for name, value in shares.items()]
    samples = row.samples if row.metric else "-"
    return [
        row.name,
        f"{row.metric} ({samples})" if row.metric else "-",
        *(number(v) for v in (row.before, row.after, row.after_optimized, row.baseline)),
        "; ".join([row.verdict, *row.errors])[:160],
        ", ".join(parts) or "-",
        f"{row.bytes_before / 1e6:.2f} MB x {shrink:.2f}" if shrink and row.bytes_before else "-",
        number(row.seconds.get("compile"), 3),
        ", ".join(rtx) or (f"built {len(row.rtx)}/{len(CAPABILITIES)}" if row.rtx else "-"),
    ]


def show(rows: list[Row]) -> None:
    """Print the table and a line of counts."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(title="zoo, default recipe")
    for name in ("model", "metric (n)", "float", "ours", "ours, ORT opt.", "best ORT"):
        table.add_column(name, no_wrap=name == "model")
    for name in ("verdict", "coverage", "size", "compile s", "TensorRT-RTX"):
        table.add_column(name)
    for row in rows:
        table.add_row(*cells(row))
    console.print(table)
    verdicts = [row.verdict for row in rows]
    counts = {name: verdicts.count(name) for name in dict.fromkeys(verdicts)}
    console.print(", ".join(f"{count} {name}" for name, count in counts.items()))


def main() -> None:
    """Parse the command line, measure, print, write."""
    given = parser(__doc__)
    given.add_argument("--jobs", type=int, default=1, help="models at the same time")
    options = parsed(given)
    chosen = [e for e in entries(options.zoo) if options.chooses(e.name)]
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = list(pool.map(measure, chosen))
    show(rows)
    if options.json:
        facts = {"benchmark": "zoo", "rows": [vars(row) for row in rows]}
        options.json.write_text(
            json.dumps(facts, indent=1, sort_keys=True) + "\n", encoding="utf-8"
        )


if __name__ == "__main__":
    main()
