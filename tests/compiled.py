"""Every model compiled once a target, for all tests that only read the result."""

from __future__ import annotations

from functools import cache

from models import build
from qcompiler import driver
from qcompiler.driver import Options, Result


@cache
def compiled(
    name: str = "residual",
    target: str = "tensorrt",
    recipe: str | None = None,
    *,
    force: bool = False,
) -> Result:
    """One compilation on synthetic data of seed 0; do not edit its graph."""
    options = Options(force=force)
    return driver.compile(build.load(name), target=target, recipe=recipe, options=options)


def model_bytes(result: Result) -> bytes:
    """The compiled model as it would be written."""
    return bytes(result.model().SerializeToString(deterministic=True))
