"""Models' inputs that the tests of the readers share."""

from __future__ import annotations

import numpy as np
import pytest

from qcompiler.data.spec import InputSpec, Role

F32 = np.dtype("float32")
I64 = np.dtype("int64")


@pytest.fixture
def image() -> list[InputSpec]:
    """One image input with a dynamic batch."""
    return [InputSpec("x", F32, ("batch", 3, 4, 5))]


@pytest.fixture
def fixed() -> list[InputSpec]:
    """One input with the batch fixed at 4."""
    return [InputSpec("x", F32, (4, 2))]


@pytest.fixture
def text() -> list[InputSpec]:
    """Tokens and their mask, of one free length."""
    return [
        InputSpec("ids", I64, ("batch", "seq"), Role.TOKENS, rows=100),
        InputSpec("mask", I64, ("batch", "seq"), Role.MASK),
    ]


@pytest.fixture
def decoder() -> list[InputSpec]:
    """Tokens and a KV cache of free length."""
    cache = ("batch", 2, "past", 8)
    return [
        InputSpec("ids", I64, ("batch", "seq"), Role.TOKENS, rows=100),
        InputSpec("past.key", F32, cache, Role.CACHE),
        InputSpec("past.value", F32, cache, Role.CACHE),
    ]
