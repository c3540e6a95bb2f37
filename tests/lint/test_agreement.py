"""Lint predicts which random Q/DQ graphs TensorRT for RTX refuses; the library decides.

The generator is that of ``benchmarks/lint_agreement.py``, which makes as many as wanted.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.lint_agreement import RandomGraph, compare

COUNT = 200
# INT4 convolutions with scales on axis 1 beside an activation with a scale per channel: the builder
# takes some of what lint refuses. And FP8 convolutions with an INT32 zero point: only it refuses.
KNOWN = 1


def test_lint_and_the_library_agree_on_random_graphs(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    wrong = []
    for number in range(COUNT):
        found = compare(RandomGraph(rng).model(), tmp_path)
        if found["lint_refuses"] != found["library_refuses"]:
            wrong.append((number, found))
    assert len(wrong) <= KNOWN, wrong
