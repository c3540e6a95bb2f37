"""What the backend uses of TensorRT exists in the real bindings of every supported release.

What it uses is read from its source, so a new use is checked without a change here. A release
whose wheel cannot be had, or a machine without a C compiler, skips with ``NOT CHECKED`` and the
release in its reason.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from qcompiler.backends import tensorrt, tensorrt_child, tensorrt_run_child
from qcompiler.engine.options import COMPATIBILITY, FLAGS
from tests.backends import bindings
from tests.backends.library_uses import Use, read, read_text

SOURCES = [Path(tensorrt_child.__file__), Path(tensorrt_run_child.__file__)]
API = Path(__file__).with_name("tensorrt_api.json")
NAMES = {
    "BuilderFlag": tuple(FLAGS.values()),
    "ComputeCapability": tensorrt.CAPABILITIES,
    "HardwareCompatibilityLevel": tuple(COMPATIBILITY.values()),
}
"""Enum -> the names by which members of it are taken: what an option can be set to."""

# Asked for, these end as a clear error (see tests/engine/test_levers.py).
ABSENT = {
    "10.0": ["HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY"],
    "10.8": ["HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY"],
}
RUNTIME_CACHE = "DynamicShapesKernelSpecializationStrategy.EAGER"


def backend() -> list[dict[str, Any]]:
    return bindings.spelled([use for source in SOURCES for use in read(source)], NAMES)


@pytest.mark.parametrize("release", bindings.RELEASES)
def test_the_release_has_all_that_the_backend_uses(release: str) -> None:
    found = bindings.look(release, backend())

    assert found["version"].startswith(release.rsplit(".", 1)[0])
    assert found["problems"] == []
    assert found["absent"] == ABSENT.get(bindings.minor(release), [])
    older = release.startswith("10.")
    assert ("NetworkDefinitionCreationFlag.EXPLICIT_BATCH" in found["checked"]) is older
    # What only TensorRT for RTX has is guarded, and the guard is real.
    assert "ComputeCapability" in found["unreached"]
    assert RUNTIME_CACHE in found["unreached"]
    assert len(found["checked"]) > 85
    assert found["members"] == json.loads(API.read_text())[bindings.minor(release)]


def test_tensorrt_for_rtx_has_all_that_the_backend_uses() -> None:
    found = bindings.ask("tensorrt_rtx", backend(), dict(os.environ))
    assert (found["problems"], found["absent"]) == ([], [])
    assert found["unreached"] == ["NetworkDefinitionCreationFlag.EXPLICIT_BATCH"]
    assert RUNTIME_CACHE in found["checked"]
    assert found["members"] == json.loads(API.read_text())["rtx"]


def test_only_the_child_processes_import_the_library() -> None:
    importers = {
        path
        for path in Path(tensorrt.__file__).parent.glob("tensorrt*.py")
        if "import_module" in path.read_text(encoding="utf-8")
    }
    assert importers == set(SOURCES)


HEAD = "Trt = Any\nBuilder = Any\nIBuilderConfig = Any\n"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("trt.Bilder", "Bilder"),
        ("trt.ProfilingVerbosity.VERBOSE", "ProfilingVerbosity.VERBOSE"),
        ("builder.create_builder_config().flag_set(1)", "flag_set"),
        ("x = builder.create_builder_config()\n    x.workspace = 3", "workspace"),
        ("builder.create_optimization_profile().set_shape('x', (1,))", "takes (input, min, opt, m"),
        ("config.set_timing_cache(1, ignore_mismatches=True)", "takes (cache, ignore_mismatch)"),
        ("config.num_optimization_profiles = 2", "cannot be set"),
        ("[trt.Weights().nothing for _ in range(3)]", "nothing"),
        ("if hasattr(trt, 'Builder'):\n        trt.Bilder", "Bilder"),
        ("trt.Runtime(1).deserialize_cuda_engine(1).engine_of", "engine_of"),
    ],
)
def test_a_use_that_does_not_exist_is_found(body: str, told: str) -> None:
    text = f"{HEAD}def f(trt: Trt, builder: Builder, config: IBuilderConfig):\n    {body}\n"
    uses = bindings.spelled(read_text(text, "f.py"), {})
    (problem,) = {
        p.split(": ", 1)[1]
        for p in bindings.ask("tensorrt_rtx", uses, dict(os.environ))["problems"]
    }
    assert told in problem


@pytest.mark.parametrize(
    "body",
    [
        "if hasattr(trt, 'Nothing'):\n        trt.Nothing()",
        "if not hasattr(trt, 'Nothing'):\n        return\n    trt.Nothing()",
        "trt = 3\n    trt.bit_length()",
        "builder.create_network(0)\n    builder.create_network(flags=0)",
    ],
)
def test_a_use_that_is_guarded_or_right_is_not_blamed(body: str) -> None:
    text = f"{HEAD}def f(trt: Trt, builder: Builder):\n    {body}\n"
    uses = bindings.spelled(read_text(text, "f.py"), {})
    assert bindings.ask("tensorrt_rtx", uses, dict(os.environ))["problems"] == []


def test_a_parameter_without_a_class_is_refused() -> None:
    with pytest.raises(AssertionError, match="say what class"):
        read_text("def f(builder: Any):\n    builder.create_network()\n", "f.py")


def test_names_of_an_enum_must_be_said() -> None:
    text = f"{HEAD}def f(trt: Trt, name: str):\n    return getattr(trt.DataType, name)\n"
    uses = read_text(text, "f.py")
    assert Use("DataType", "named", where="f.py:5") in uses
    with pytest.raises(KeyError, match="DataType"):
        bindings.spelled(uses, {})


if __name__ == "__main__":  # writes the file that the double of the library is made from
    found = {bindings.minor(r): bindings.look(r, backend())["members"] for r in bindings.RELEASES}
    found["rtx"] = bindings.ask("tensorrt_rtx", backend(), dict(os.environ))["members"]
    API.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
