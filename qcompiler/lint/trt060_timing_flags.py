"""The time that is measured is not that of the engine alone.

What
    A trtexec command line (option --command) that times a Q/DQ model without --timingCacheFile;
    for releases before 11 also without --useCudaGraph, --noDataTransfers or --useSpinWait.

Why
    Small kernels end before the host has launched the next one, copies to and from the host
    belong to neither engine, and each build times its kernels anew: two engines of the same model
    differ by more than INT8 saves. An FP32 engine in the comparison uses TF32 unless --noTF32 is
    given. TensorRT for RTX times nothing while it builds.

Example::

    trtexec --onnx=model.onnx

Instead
    Give all four; 11.x does all but the timing cache by default.

Source
    Rule J06, G09; trtexec, sampleOptions.cpp 11.1
"""

from __future__ import annotations

from collections.abc import Iterable

from qcompiler.graph import Graph
from qcompiler.lint import reading as r
from qcompiler.lint.base import TENSORRT, UNSEEN, Fault, LintTarget, Rule

_STEADY = ("--useCudaGraph", "--noDataTransfers", "--useSpinWait")
_UNTIMED = ("--skipInference", "--buildOnly")


def check(graph: Graph, target: LintTarget) -> Iterable[Fault]:
    """What a timed command line lacks."""
    if not target.command or target.has(*_UNTIMED) or not r.quantizers(graph):
        return
    old = target.version.partition(".")[0] in ("8", "9", "10")
    wanted = [*(_STEADY if old else ()), "--timingCacheFile"]
    missing = [flag for flag in wanted if not target.has(flag)]
    if missing:
        yield Fault("trtexec", f"measures without {', '.join(missing)}")


RULE = Rule(
    code="TRT060",
    severity="advice",
    confidence="medium",
    source="rule J06, G09; trtexec, sampleOptions.cpp 11.1",
    verified=UNSEEN,
    help="give the missing flags to every command that is compared",
    check=check,
    libraries=(TENSORRT,),
)
