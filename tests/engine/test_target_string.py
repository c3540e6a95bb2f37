"""Targets: library, release, capabilities; and what to install when a library is missing."""

from __future__ import annotations

import importlib.util

import pytest
import tensorrt_rtx  # noqa: TID251 - its own enum is what the constant must repeat

from qcompiler.backends import tensorrt
from qcompiler.engine.target_string import parse
from qcompiler.errors import BackendError, UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tensorrt-rtx", ("tensorrt-rtx", "", ("SM89",))),
        ("tensorrt-rtx:sm120", ("tensorrt-rtx", "", ("SM120",))),
        ("tensorrt-rtx-1.7:sm89,SM120,sm89", ("tensorrt-rtx", "1.7", ("SM89", "SM120"))),
        ("tensorrt-rtx-1.7.1.116", ("tensorrt-rtx", "1.7.1.116", ("SM89",))),
        ("tensorrt", ("tensorrt", "", ())),
        ("tensorrt-11.4:sm90", ("tensorrt", "11.4", ("SM90",))),
        ("tensorrt-10:sm87", ("tensorrt", "10", ("SM87",))),
    ],
)
def test_reads_library_release_and_capabilities(
    text: str, expected: tuple[str, str, tuple[str, ...]]
) -> None:
    found = parse(text)
    assert (found.library.name, found.version, found.capabilities) == expected
    assert parse(str(found)) == found


@pytest.mark.parametrize(
    ("text", "told", "hint"),
    [
        ("rtx", "not a target", "tensorrt-rtx:sm89"),
        ("onnxruntime", "not a target", "tensorrt-rtx:sm89"),
        ("tensorrt-rtx-abc", "not a target", "tensorrt-rtx:sm89"),
        ("tensorrt-rtx:sm90", "unknown compute capability 'sm90'", "sm75, sm80, sm86, sm89"),
        ("tensorrt-rtx:", "unknown compute capability ''", "sm75"),
        ("tensorrt-rtx:89", "unknown compute capability '89'", "sm89"),
        ("tensorrt:sm88", "unknown compute capability 'sm88'", "sm90"),
        ("tensorrt:sm89,sm90", "one GPU, the one it runs on", "tensorrt-rtx"),
    ],
)
def test_what_is_unknown_is_refused_with_what_is_known(text: str, told: str, hint: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        parse(text)
    assert hint in caught.value.hint


def test_the_capabilities_are_those_of_the_library() -> None:
    members = tensorrt_rtx.ComputeCapability.__members__
    assert set(tensorrt.CAPABILITIES) == {name for name in members if name.startswith("SM")}


def test_the_installed_release_will_do_if_it_begins_as_named() -> None:
    found = parse("tensorrt-rtx").require()
    assert found == tensorrt.installed()
    major = found.split(".")[0]
    assert parse(f"tensorrt-rtx-{major}").require() == found
    with pytest.raises(BackendError, match=f"{found} is installed") as caught:
        parse("tensorrt-rtx-99.1").require()
    assert "pip install 'tensorrt-rtx-cu13==99.1.*'" in caught.value.hint


@pytest.mark.parametrize(
    ("target", "hint"),
    [
        ("tensorrt-rtx:sm89", "pip install 'onnx-qcompiler[rtx]'"),
        ("tensorrt-rtx-1.7", "pip install 'tensorrt-rtx-cu13==1.7.*'"),
        ("tensorrt", "pip install tensorrt-cu13 --extra-index-url https://pypi.nvidia.com"),
        ("tensorrt-10.13:sm89", "pip install 'tensorrt-cu12==10.13.*' --extra-index-url"),
    ],
)
def test_a_missing_library_says_what_to_install(
    target: str, hint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(BackendError, match="which is not installed") as caught:
        parse(target).require()
    assert hint in caught.value.hint
