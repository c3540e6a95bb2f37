"""The engine is built with flags that cost fusions.

What
    A trtexec command line (option --command) for a Q/DQ model with --refit, --stripWeights,
    --versionCompatible or --hardwareCompatibilityLevel.

Why
    An engine that can be refitted must not rely on scales being equal, so requantizations stay in
    it. Engines for several GPUs or releases have fewer kernels to choose from; for AMPERE_PLUS
    the header says that fusions may be lost.

Example::

    trtexec --onnx=model.onnx --refit

Instead
    Build without them, one engine for each GPU; where weights must be exchanged, with
    REFIT_IDENTICAL.

Source
    Rule E21, H10; TensorRT documentation, explicit quantization; NvInfer.h, BuilderFlag
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph
from qcompiler.lint import reading as r
from qcompiler.lint.base import TENSORRT, UNSEEN, Fault, LintTarget, Rule

_REFIT = ("--refit", "--stripWeights", "--stripAllWeights", "--markRefittable")
_PORTABLE = ("--hardwareCompatibilityLevel", "--versionCompatible", "--vc")


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """Flags of the command line, if the model is quantized."""
    if not r.quantizers(graph):
        return
    if flag := target.has(*_REFIT):
        yield Fault("trtexec", f"{flag} keeps requantizations in the engine")
    if flag := target.has(*_PORTABLE):
        yield Fault("trtexec", f"{flag} leaves fewer kernels to choose from")


RULE = Rule(
    code="TRT059",
    severity="advice",
    confidence="medium",
    source="rule E21, H10; TensorRT documentation, explicit quantization; NvInfer.h, BuilderFlag",
    verified=UNSEEN,
    help="build one engine for each GPU, without refit",
    check=check,
    libraries=(TENSORRT,),
)
