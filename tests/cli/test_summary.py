"""Half a page, whatever the report holds."""

from __future__ import annotations

import io
from typing import Any

import msgspec
import pytest
from rich.console import Console

from qcompiler.cli.summary import summarize
from qcompiler.report import Metric, OutputError, Report
from tests.compiled import compiled


def _text(**changes: Any) -> str:
    report: Report = msgspec.structs.replace(compiled("residual").report, **changes)
    stream = io.StringIO()
    summarize(report, Console(file=stream, width=100, highlight=False))
    return stream.getvalue()


def test_the_figures_of_a_compilation() -> None:
    text = _text(model="m.onnx", output="o.onnx", bytes_before=4000, bytes_after=1000)
    assert text.splitlines()[0] == "m.onnx -> o.onnx  int8+fp16 for tensorrt"
    assert "6 of 7 linear nodes" in text
    assert "4.00 kB -> 1.00 kB (25%)" in text
    assert "synthetic: 7 samples, 1 held out to verify" in text
    assert "/fc/Gemm: a matrix-vector product gains nothing from INT8 [rule D16]" in text


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999 B"), (1000, "1.00 kB"), (12_345_678, "12.35 MB"), (7_200_000_000, "7.20 GB")],
)
def test_sizes(count: int, text: str) -> None:
    assert f"{text} -> {text} (100%)" in _text(bytes_before=count, bytes_after=count)


def test_a_metric_is_shown_before_and_after() -> None:
    metric = Metric("top1", 0.89, 0.8875, 1000)
    text = _text(metric=metric)
    assert "top1 " in text
    assert " 0.8900 -> 0.8875  (1000 samples)" in text


def test_many_outputs_and_reasons_are_cut_and_counted() -> None:
    outputs = tuple(OutputError(f"y{i}", 40.0 - i, 0.999, 39.0) for i in range(9))
    skipped = {f"n{i}": f"reason {i // 2}" for i in range(20)}
    text = _text(outputs=outputs, skipped=skipped)
    assert "output y5 " in text
    assert " SQNR 35.0 dB, cosine 0.99900  (ONNX Runtime optimized: 39.0 dB)" in text
    assert "y6" not in text
    assert "… 3 more, the worst y8 32.0 dB" in text
    assert "n0 and 1 more: reason 0" in text
    assert "… 4 more reasons, see --report" in text
    assert len(text.splitlines()) < 40


def test_what_was_not_measured_is_said() -> None:
    assert "not verified: there were no held-out samples" in _text(outputs=())
    unoptimized = (OutputError("y", 40.0, 0.999, None),)
    assert "optimized" not in _text(outputs=unoptimized, warnings=())


def test_of_logits_the_divergence_is_shown() -> None:
    text = _text(outputs=(OutputError("y", 23.0, 0.99, None, 0.03),))
    assert "cosine 0.99000, KL 0.0300 nats (perplexity x 1.030)" in text
    text = _text(outputs=(OutputError("y", -999.0, 0.0, None, 999.0),))
    assert "perplexity" not in text


def test_names_in_brackets_are_names() -> None:
    assert "output [b]y[/b]  " in _text(outputs=(OutputError("[b]y[/b]", 40.0, 0.999),))
    assert "[red]: no" in _text(skipped={"[red]": "no"})


def test_warnings_end_the_page() -> None:
    assert _text(warnings=("first", "second")).splitlines()[-2:] == [
        "warning: first",
        "warning: second",
    ]
