"""Real engines for tests: a model, the log of its build, and what is read from it."""

from __future__ import annotations

import hashlib
import tempfile
from functools import cache
from pathlib import Path

import onnx
from onnx import ModelProto

from qcompiler.backends import tensorrt
from qcompiler.engine.listing import Listing, parse
from qcompiler.engine.report import EngineReport, engine_report
from qcompiler.engine.sidecar import Sidecar
from tests.compiled import compiled


@cache
def model(name: str) -> ModelProto:
    """One of ``models/``, compiled for TensorRT for RTX; do not edit it."""
    return compiled(name, "tensorrt-rtx", "int8", force=True).model()


@cache
def log(name: str) -> str:
    """Every message of the library while it built that model for SM89."""
    return log_of(model(name))


def log_of(proto: ModelProto) -> str:
    """The same for any model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        onnx.save(proto, path)
        verdict = tensorrt.build(path, keep_log=True)
    assert verdict.accepted, verdict.errors
    return verdict.log


def listing(name: str) -> Listing:
    """Its kernels."""
    return parse(log(name))


def report(name: str) -> EngineReport:
    """Its report."""
    return engine_report(listing(name), model(name))


def report_of(proto: ModelProto) -> EngineReport:
    """The report on any model."""
    return engine_report(parse(log_of(proto)), proto)


def facts(name: str, plan: bytes = b"the plan") -> Sidecar:
    """What would stand beside a plan of these bytes."""
    found = listing(name)
    return Sidecar(
        library="tensorrt-rtx 1.7.1.116",
        capabilities=("SM89",),
        model=f"{name}.onnx",
        model_digest=hashlib.sha256(model(name).SerializeToString(deterministic=True)).hexdigest(),
        plan_digest=hashlib.sha256(plan).hexdigest(),
        plan_bytes=len(plan),
        seconds=0.5,
        options={"level": 3, "strict": True, "profile": "x:1x3x32x32", "memory": 1.5},
        layers=found.layers,
        memory=found.memory,
        report=report(name),
    )
