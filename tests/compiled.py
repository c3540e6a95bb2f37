"""Every model compiled once a target, for all tests that only read the result."""

from __future__ import annotations

from functools import cache

from models import build
from qcompiler import driver
from qcompiler.driver import Result


@cache
def compiled(name: str = "residual", target: str = "tensorrt") -> Result:
    """One compilation on synthetic data of seed 0; do not edit its graph."""
    return driver.compile(build.load(name), target=target)


def model_bytes(result: Result) -> bytes:
    """The compiled model as it would be written."""
    return bytes(result.model().SerializeToString(deterministic=True))
