"""Time, memory and repeatability of the compiler, each figure a ratio within one run.

    python -m benchmarks.speed [--zoo ../shared/zoo] [--repeat 3] [--batch 1] [--json speed.json]

1. calibration time (``timings.calibrate`` of the report) over plain ONNX Runtime inference of the
   same number of samples at the same thread count and batch (1: what calibration runs), opening the
   session included in both; the ratio to the inference alone is given too. At most 1.5.
2. peak memory of ``calibrate`` at 512 samples over 16 samples. At most 1.1.
3. whole compile of ``cifar10/mobilenetv2`` with 128 samples against ONNX Runtime's quantizer on the
   same samples: CPU time (user + system) at most 1/3, peak resident memory at most 1/2.
4. ``--help``: at most 0.3 s of CPU.
5. two compilations: byte-identical files.

Every measured command is a process of its own; the two sides of a ratio are run alternately, and
the ratio is that of the medians. Samples beyond the zoo's own are repeats with 1 % of seeded noise.
Run it on an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.process import ROOT, Run, run

QCOMPILER = (sys.executable, "-m", "qcompiler")
BASELINE = (sys.executable, "-m", "benchmarks.baseline")
# Small samples and large ones (600 kB): where memory grows with the data, the last one shows it.
CALIBRATED = ("cifar10/mobilenetv2", "cifar10/resnet20", "imagenet_squeezenet11")
MEGABYTE = 1e6


@dataclass(frozen=True)
class Figure:
    """One line of the table: ``ours`` against ``other`` and the limit that their ratio must keep.

    ``other`` is None where ``ours`` itself is held against the limit; ``limit`` is None for a
    figure given for information.
    """

    name: str
    unit: str
    ours: float
    other: float | None
    limit: float | None

    @property
    def value(self) -> float:
        """What is held against the limit."""
        return self.ours if self.other is None else self.ours / self.other

    @property
    def fine(self) -> bool | None:
        """Whether the limit is kept; None without a limit."""
        return None if self.limit is None else self.value <= self.limit


class Failed(Exception):  # noqa: N818 - an outcome of a measurement, shown in the table
    """A measured command failed; the message says which and why."""


def must(command: Sequence[str], **options: Any) -> Run:  # noqa: ANN401 - passed to run
    """Run a command that has to succeed."""
    done = run(command, **options)
    if done.code != 0:
        raise Failed(f"{' '.join(command[1:4])} ...: {done.reason}")
    return done


def facts(done: Run) -> dict[str, Any]:
    """The JSON of a baseline's last line."""
    found: dict[str, Any] = json.loads(done.out.strip().splitlines()[-1])
    return found


class Bench:
    """The models, the samples and a scratch folder."""

    def __init__(self, zoo: Path, scratch: Path, repeat: int, batch: int) -> None:
        """Nothing is run yet."""
        self.zoo, self.scratch, self.repeat, self.batch = zoo, scratch, repeat, batch

    def model(self, name: str) -> Path:
        """File of a zoo model."""
        path = self.zoo / name
        return path / "model.onnx" if path.is_dir() else path.with_suffix(".onnx")

    def samples(self, name: str, count: int) -> Path:
        """An ``.npz`` of ``count`` samples for a model; made once, by a process of its own."""
        path = self.scratch / f"{name.replace('/', '_')}-{count}.npz"
        if not path.exists():
            source = self.model(name).parent / "calib.npz"
            must([*BASELINE, "tile", str(source), str(count), str(path)])
        return path

    def compile(
        self, name: str, count: int, tag: str = "out"
    ) -> tuple[Run, Path, Mapping[str, Any]]:
        """Compile a model; returns the run, the file and the report."""
        out, report = self.scratch / tag / "model.onnx", self.scratch / tag / "report.json"
        out.parent.mkdir(exist_ok=True)
        data = str(self.samples(name, count))
        command = [*QCOMPILER, str(self.model(name)), "--data", data, "-o", str(out)]
        done = must([*command, "--report", str(report), "--overwrite"])
        return done, out, json.loads(report.read_text(encoding="utf-8"))

    def calibration(self, name: str, count: int = 128) -> list[Figure]:
        """Figure 1 for one model."""
        ours, opened, ran = [], [], []
        used = count
        for _ in range(self.repeat):
            report = self.compile(name, count)[2]
            seconds = report.get("timings", {}).get("calibrate")
            if seconds is None:
                raise Failed("the report has no timings.calibrate")
            ours.append(float(seconds))
            used = int(report.get("samples", count))  # without those held out to verify
            data = str(self.samples(name, used))
            plain = facts(must([*BASELINE, "infer", str(self.model(name)), data, str(self.batch)]))
            opened.append(plain["open"] + plain["run"])
            ran.append(plain["run"])
        title = f"calibrate {name}, {used} samples"
        return [
            Figure(f"{title} / inference", "s", median(ours), median(opened), 1.5),
            Figure(f"{title} / inference, session open", "s", median(ours), median(ran), None),
        ]

    def memory(self, name: str, many: int = 512, few: int = 16) -> list[Figure]:
        """Figure 2 for one model."""
        peaks: dict[int, list[float]] = {many: [], few: []}
        for _ in range(self.repeat):
            for count, found in peaks.items():
                data, out = str(self.samples(name, count)), str(self.scratch / f"stats-{count}.npz")
                Path(out).unlink(missing_ok=True)
                command = [
                    *QCOMPILER,
                    "calibrate",
                    str(self.model(name)),
                    "--data",
                    data,
                    "-o",
                    out,
                ]
                found.append(must(command).peak / MEGABYTE)
        title = f"peak of calibrate {name}, {many} / {few} samples"
        return [Figure(title, "MB", median(peaks[many]), median(peaks[few]), 1.1)]

    def against_quantizer(
        self, name: str = "cifar10/mobilenetv2", count: int = 128
    ) -> list[Figure]:
        """Figure 3."""
        ours, theirs = [], []
        data, out = str(self.samples(name, count)), str(self.scratch / "quantized.onnx")
        for _ in range(self.repeat):
            ours.append(self.compile(name, count)[0])
            theirs.append(must([*BASELINE, "quantize", str(self.model(name)), data, out]))
        title = f"compile {name}, {count} samples / onnxruntime.quantization"
        cpu = [median(r.cpu for r in runs) for runs in (ours, theirs)]
        peak = [median(r.peak / MEGABYTE for r in runs) for runs in (ours, theirs)]
        wall = [median(r.seconds for r in runs) for runs in (ours, theirs)]
        return [
            Figure(f"{title}: CPU", "s", cpu[0], cpu[1], 1 / 3),
            Figure(f"{title}: peak memory", "MB", peak[0], peak[1], 1 / 2),
            Figure(f"{title}: wall", "s", wall[0], wall[1], None),
        ]

    def help(self) -> list[Figure]:
        """Figure 4; the first run, which may compile byte code, is not counted."""
        must([*QCOMPILER, "--help"])
        cpu = [must([*QCOMPILER, "--help"]).cpu for _ in range(max(self.repeat, 5))]
        return [Figure("--help: CPU", "s", median(cpu), None, 0.3)]

    def repeatable(self, name: str = "cifar10/resnet20", count: int = 64) -> list[Figure]:
        """Figure 5: files that differ between two compilations under the same name."""
        digests = [folder_digests(self.compile(name, count, tag)[1].parent) for tag in ("a", "b")]
        names = sorted(set(digests[0]) | set(digests[1]))
        # The report holds times, so it is not one of them.
        differ = [n for n in names if n != "report.json" and digests[0].get(n) != digests[1].get(n)]
        return [Figure(f"compile {name} twice: files that differ", "", len(differ), None, 0)]


def folder_digests(folder: Path) -> dict[str, str]:
    """File name -> SHA-256."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def measure(bench: Bench) -> tuple[list[Figure], list[str]]:
    """All figures, and what failed."""
    jobs: list[tuple[str, Callable[[], list[Figure]]]] = [
        ("help", bench.help),
        ("repeatable", bench.repeatable),
        ("against_quantizer", bench.against_quantizer),
    ]
    jobs += [(f"calibration {name}", partial(bench.calibration, name)) for name in CALIBRATED]
    jobs += [(f"memory {name}", partial(bench.memory, name)) for name in CALIBRATED]
    figures: list[Figure] = []
    failed: list[str] = []
    for name, job in jobs:
        try:
            figures += job()
        except (Failed, OSError, ValueError) as error:
            failed.append(f"{name}: {error}")
    return figures, failed


def show(figures: list[Figure], failed: list[str]) -> None:
    """Print the table."""
    console = Console(width=None if sys.stdout.isatty() else 150)
    table = Table("figure", "ours", "other", "ratio", "limit", "", title="speed and memory")
    for figure in figures:
        unit = f" {figure.unit}"
        table.add_row(
            figure.name,
            f"{figure.ours:.3g}{unit}",
            "-" if figure.other is None else f"{figure.other:.3g}{unit}",
            "-" if figure.other is None else f"{figure.value:.2f}",
            "-" if figure.limit is None else f"{figure.limit:.2f}",
            {None: "", True: "kept", False: "missed"}[figure.fine],
        )
    console.print(table)
    for text in failed:
        console.print(f"failed: {text}", markup=False)


def main() -> None:
    """Parse the command line, measure, print, write. Exit code 1 if a limit is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--zoo", type=Path, default=ROOT.parent / "shared" / "zoo", help="zoo folder"
    )
    parser.add_argument("--repeat", type=int, default=3, help="repetitions; the median counts")
    parser.add_argument("--batch", type=int, default=1, help="batch of the plain inference")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if not options.zoo.is_dir():
        parser.error(f"no zoo folder {options.zoo}; give one with --zoo")
    with tempfile.TemporaryDirectory(prefix="qcompiler-speed-") as scratch:
        bench = Bench(options.zoo.resolve(), Path(scratch), options.repeat, options.batch)
        figures, failed = measure(bench)
    show(figures, failed)
    if options.json:
        rows = [{**vars(f), "value": f.value, "fine": f.fine} for f in figures]
        text = json.dumps({"benchmark": "speed", "figures": rows, "failed": failed}, indent=1)
        options.json.write_text(text + "\n", encoding="utf-8")
    sys.exit(bool(failed) or any(f.fine is False for f in figures))


if __name__ == "__main__":
    main()
