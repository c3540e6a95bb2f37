"""The real Python bindings of full TensorRT, without its native libraries.

NVIDIA publishes the bindings of each release on PyPI (``tensorrt-cu13-bindings``, 1 MB) and the
libraries that they load on its own index only. The loader is content with libraries of the right
names that hold the nine C functions the bindings import; each of these here returns null. Such a
module can build nothing, but every class, member, enum and signature of it is real.

Wheels are kept in the user's cache, so that a release is downloaded once.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.backends.library_uses import Use

RELEASES = {
    "10.0.1": "tensorrt-cu12-bindings",
    "10.8.0.43": "tensorrt-cu12-bindings",
    "10.13.3.9": "tensorrt-cu13-bindings",
    "10.16.1.11": "tensorrt-cu13-bindings",
    "11.0.0.114": "tensorrt-cu13-bindings",
    "11.4.0.106": "tensorrt-cu13-bindings",
}
"""First, last and some releases between of both supported major versions -> their package."""

_MODULE = "tensorrt_bindings"
_MEMBERS = Path(__file__).with_name("library_members.py")
_FUNCTIONS = {
    "nvinfer": (
        "createInferBuilder_INTERNAL",
        "createInferRuntime_INTERNAL",
        "createInferRefitter_INTERNAL",
        "getPluginRegistry",
        "getBuilderPluginRegistry",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
    "nvonnxparser": (
        "createNvOnnxParser_INTERNAL",
        "createNvOnnxParserRefitter_INTERNAL",
        "getNvOnnxParserVersion",
    ),
}


def look(release: str, uses: list[dict[str, Any]]) -> dict[str, Any]:
    """What one release says to these uses; skips the test if it cannot be had."""
    major = release.split(".")[0]
    environment = os.environ | {
        "PYTHONPATH": str(_wheel(release)),
        "LD_LIBRARY_PATH": str(_stubs(major)),
    }
    return ask(_MODULE, uses, environment)


def ask(module: str, uses: list[dict[str, Any]], environment: dict[str, str]) -> dict[str, Any]:
    """The same for any importable module, in a child process."""
    ran = subprocess.run(
        [sys.executable, "-P", str(_MEMBERS), module],
        input=json.dumps(uses),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def spelled(uses: list[Use], names: dict[str, tuple[str, ...]]) -> list[dict[str, Any]]:
    """Uses as JSON, with the names by which members of an enum are taken.

    Raises:
        KeyError: An enum's members are taken by name, and ``names`` does not say by which.
    """
    return [asdict(u) | {"names": names[u.chain] if u.kind == "named" else ()} for u in uses]


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "qcompiler", "tensorrt-bindings")


def _wheel(release: str) -> Path:
    """Folder with the installed bindings of a release."""
    python = f"cp{sys.version_info.major}{sys.version_info.minor}"
    folder = _cache() / f"{RELEASES[release]}-{release}-{python}"
    if not folder.is_dir():
        _install(release, folder)
    return folder


def _install(release: str, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        # Workers that install at the same time each rename a whole folder; the first one stays.
        place = Path(scratch, "new")
        wanted = f"{RELEASES[release]}=={release}"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        options = ["--no-deps", "--only-binary=:all:", "--target", str(place)]
        ran = subprocess.run(
            [*pip, *options, wanted], capture_output=True, text=True, check=False, timeout=300
        )
        if ran.returncode:
            why = (ran.stderr.strip().splitlines() or ["no message"])[-1]
            pytest.skip(f"NOT CHECKED: TensorRT {release}; {wanted} cannot be had: {why}")
        if not folder.is_dir():
            place.rename(folder)


def _stubs(major: str) -> Path:
    """Folder with the native libraries of a major version, empty but for their functions."""
    folder = _cache() / f"stubs-{major}"
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None and not folder.is_dir():
        pytest.skip(f"NOT CHECKED: TensorRT {major}.x; its stubs need a C compiler (gcc)")
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        place = Path(scratch, "new")
        place.mkdir()
        for library, functions in _FUNCTIONS.items():
            name = f"lib{library}.so.{major}"
            source = "".join(f"void *{function}(void) {{ return 0; }}\n" for function in functions)
            command = [str(compiler), "-shared", "-fPIC", "-x", "c", "-", f"-Wl,-soname,{name}"]
            command += ["-o", str(place / name)]
            subprocess.run(command, input=source, text=True, check=True, capture_output=True)
        if not folder.is_dir():
            place.rename(folder)
    return folder


def minor(release: str) -> str:
    """``11.4`` of ``11.4.0.106``."""
    found = re.match(r"\d+\.\d+", release)
    assert found is not None
    return found[0]
