"""What flags become; every command that is printed is one that the command line takes."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qcompiler import recipe
from qcompiler.cli import app, sizes
from qcompiler.engine import shapes, target_string
from qcompiler.engine.options import COMPATIBILITY, BuildOptions, check
from qcompiler.errors import UnsupportedError, UsageError
from qcompiler.migrate import trtexec
from qcompiler.migrate.flags import Flag, Migration, Row
from qcompiler.migrate.layers import excluded
from qcompiler.migrate.meaning import FIXED
from qcompiler.migrate.memory import pools, spelled, workspace_mib
from qcompiler.migrate.translate import _LEVELS, _NOT_ON_RTX, recipe_for, translate

FULL = target_string.parse("tensorrt")
RTX = target_string.parse("tensorrt-rtx:sm89")


def _migrate(
    text: str, target: target_string.EngineTarget = FULL, *, quantized: bool = False
) -> Migration:
    flags = trtexec.read(trtexec.split(f"trtexec --onnx=m.onnx {text}"))
    return translate(flags, target, lambda model: quantized)


def _row(text: str, target: target_string.EngineTarget = FULL) -> Row:
    """The row of the last flag."""
    return _migrate(text, target).rows[-1]


def _built(text: str) -> str:
    """Arguments of ``build`` behind its target."""
    words = _migrate(text).commands[-1]
    assert words[:4] == ("build", "m.onnx", "--target", "tensorrt")
    return " ".join(words[4:])


@pytest.mark.parametrize(
    ("flags", "quantized", "expected"),
    [
        ("", False, ""),
        ("fp16", False, "fp16"),
        ("int8", False, "int8"),
        ("int8 fp16", False, "int8+fp16"),
        ("best", False, "int8+fp16"),
        ("bf16", False, "fp16"),
        ("int8 bf16", False, "int8+fp16"),
        ("fp8", False, ""),
        ("fp8 fp16", False, "fp16"),
        ("int8 fp16 stronglyTyped", False, ""),
        ("int8", True, ""),
        ("int8 fp16", True, "fp16"),
    ],
)
def test_recipes(flags: str, quantized: bool, expected: str) -> None:
    found = recipe_for(frozenset(flags.split()), quantized=quantized)
    assert found == expected
    assert not found or found in recipe.names()


def test_int8_with_a_cache_is_three_commands() -> None:
    found = _migrate("--int8 --fp16 --calib=c.cache --saveEngine=m.engine")
    assert [" ".join(c) for c in found.commands] == [
        "migrate --cache c.cache --model m.onnx --target tensorrt -o m.stats.npz",
        "compile m.onnx --recipe int8+fp16 --target tensorrt --stats m.stats.npz "
        "-o m.int8+fp16.onnx",
        "build m.int8+fp16.onnx --target tensorrt -o m.engine",
    ]
    assert {row.status for row in found.rows} == {"moved"}


def test_int8_without_a_cache_asks_for_samples() -> None:
    found = _migrate("--int8", RTX)
    assert [" ".join(c) for c in found.commands] == [
        "compile m.onnx --recipe int8 --target tensorrt-rtx --data CALIB.npz -o m.int8.onnx",
        "build m.int8.onnx --target tensorrt-rtx:sm89",
    ]


def test_without_precision_flags_the_model_is_built_as_it_is() -> None:
    assert _migrate("").commands == (("build", "m.onnx", "--target", "tensorrt"),)
    found = _migrate("--stronglyTyped --fp16 --int8")
    assert found.commands == (("build", "m.onnx", "--target", "tensorrt"),)
    assert [row.status for row in found.rows[1:]] == ["moved", "gone", "gone"]


def test_a_cache_counts_for_int8_only() -> None:
    found = _migrate("--fp16 --calib=c.cache")
    assert [c[0] for c in found.commands] == ["compile", "build"]
    assert found.rows[-1].status == "gone"


def test_a_model_with_quantizers_is_not_quantized_again() -> None:
    found = _migrate("--int8 --fp16", quantized=True)
    assert [c[:4] for c in found.commands] == [
        ("compile", "m.onnx", "--recipe", "fp16"),
        ("build", "m.fp16.onnx", "--target", "tensorrt"),
    ]
    assert [row.status for row in found.rows] == ["moved", "gone", "moved"]


@pytest.mark.parametrize("flag", ["--bf16", "--fp8", "--int4"])
def test_formats_without_a_recipe_are_not_passed_off_as_done(flag: str) -> None:
    row = _row(flag)
    assert row.status == "lost"
    assert flag[2:].upper() in row.why


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (
            "--minShapes=x:1x3 --optShapes=x:2x3 --maxShapes=x:4x3,y:1x1",
            "--min-shapes x:1x3 --opt-shapes x:2x3 --max-shapes x:4x3,y:1x1",
        ),
        ("--shapes=x:1x3", "--opt-shapes x:1x3"),
        ("--optShapes=x:2x3 --shapes=x:1x3,y:5", "--opt-shapes x:2x3,y:5"),
        ("--workspace=4096", "--workspace 4GiB"),
        ("--memPoolSize=workspace:1536", "--workspace 1536MiB"),
        ("--memPoolSize=workspace:0.5G", "--workspace 512MiB"),
        ("--builderOptimizationLevel=5", "--optimization-level 5"),
        ("--refit --stripWeights --vc", "--refit --strip-plan --version-compatible"),
        ("--stripAllWeights --refit", "--strip-plan --refit"),
        ("--allowWeightStreaming", "--weight-streaming"),
        ("--saveEngine=a/b.engine", "-o a/b.engine"),
        ("--timingCacheFile=t/x.cache", "--timing-cache t"),
        ("--timingCacheFile=x.cache", "--timing-cache ."),
        ("--errorOnTimingCacheMiss --timingCacheFile=x.cache", "--timing-cache . --locked"),
        ("--errorOnTimingCacheMiss", ""),
        ("--hardwareCompatibilityLevel=ampere+", "--hardware-compatibility ampere-plus"),
        (
            "--hardwareCompatibilityLevel=sameComputeCapability",
            "--hardware-compatibility same-compute-capability",
        ),
        ("--hardwareCompatibilityLevel=none", ""),
    ],
)
def test_options_of_build(flags: str, expected: str) -> None:
    assert _built(flags) == expected


def test_shapes_of_a_run_mean_the_same_to_build() -> None:
    """TensorRT takes them as all three bounds of a profile that was not given."""
    parsed = shapes.parse(["x:1x3"])
    assert shapes.Shapes(opt=parsed).given() == {"x": ((1, 3), (1, 3), (1, 3))}


def test_rtx_has_not_what_its_build_refuses() -> None:
    for flag in sorted(_NOT_ON_RTX):
        with pytest.raises(UnsupportedError):
            check(RTX, BuildOptions(flags=(flag,)))
    found = _migrate("--refit --stripWeights --versionCompatible --allowWeightStreaming", RTX)
    assert [row.status for row in found.rows[1:]] == ["lost", "lost", "lost", "moved"]
    assert found.commands[-1][4:] == ("--weight-streaming",)


def test_what_rtx_does_in_another_way() -> None:
    found = _migrate("--hardwareCompatibilityLevel=ampere+ --timingCacheFile=t", RTX)
    assert found.commands[-1] == ("build", "m.onnx", "--target", "tensorrt-rtx:sm89")
    assert [row.status for row in found.rows[1:]] == ["moved", "gone"]


def test_levels_of_compatibility_are_those_of_build() -> None:
    assert set(_LEVELS.values()) == set(COMPATIBILITY)


def test_a_pinned_layer_is_excluded_from_int8() -> None:
    layers = "--layerPrecisions=/a/Conv:fp32,*head*:fp16,/b[0]/Conv:int8,*:fp16"
    found = _migrate(f"--int8 {layers}")
    words = found.commands[0]
    assert [words[i + 1] for i, w in enumerate(words) if w == "--exclude"] == ["/a/Conv", "*head*"]
    assert found.rows[-1].status == "lost"
    assert "*:fp16" in found.rows[-1].why
    assert _row("--fp16 --layerPrecisions=/a/Conv:fp32").status == "lost"


@pytest.mark.parametrize(
    ("flag", "status"),
    [
        ("--sparsity=disable", "gone"),
        ("--sparsity=enable", "lost"),
        ("--sparsity=force", "lost"),
        ("--precisionConstraints=none", "gone"),
        ("--precisionConstraints=obey", "gone"),
        ("--inputIOFormats=fp32:chw,fp32:chw", "gone"),
        ("--inputIOFormats=fp16:chw", "lost"),
        ("--noTF32", "lost"),
        ("--useDLACore=0", "lost"),
        ("--profile=0", "gone"),
        ("--profile=1", "lost"),
        ("--verbose", "gone"),
        ("--skipInference", "gone"),
        ("--profilingVerbosity=detailed", "gone"),
        ("--dumpLayerInfo", "moved"),
        ("--device=1", "moved"),
        ("--memPoolSize=dlaSRAM:1", "lost"),
        ("--memPoolSize=workspace:1,dlaSRAM:1", "lost"),
        ("--memPoolSize=banana:1", "unknown"),
        ("--workspace=much", "unknown"),
        ("--builderOptimizationLevel=9", "unknown"),
        ("--optShapes=1x3x224x224", "unknown"),
        ("--fp61", "unknown"),
        ("--hardwareCompatibilityLevel=banana", "unknown"),
    ],
)
def test_status(flag: str, status: str) -> None:
    assert _row(flag).status == status


def test_a_second_profile_is_not_lost_without_a_word() -> None:
    found = _migrate("--optShapes=x:1x3 --optShapes=x:2x3")
    assert [row.status for row in found.rows[1:]] == ["moved", "lost"]
    flag = Flag("set_shape", "setShape", ("x:[1]", "x:[1]", "x:[1]"))
    assert [r.status for r in translate((flag, flag), FULL).rows] == ["moved", "lost"]


def test_a_run_builds_nothing() -> None:
    found = _migrate("--loadEngine=m.plan --iterations=10")
    assert found.commands == ()
    assert [row.status for row in found.rows[1:]] == ["lost", "gone"]


_VALUES = {
    "saveEngine": "out.plan",
    "calib": "c.cache",
    "minShapes": "x:1x3",
    "optShapes": "x:2x3",
    "maxShapes": "x:4x3",
    "shapes": "y:1",
    "workspace": "4096",
    "memPoolSize": "workspace:1G",
    "builderOptimizationLevel": "3",
    "layerPrecisions": "/odd name*:fp32",
    "sparsity": "enable",
    "hardwareCompatibilityLevel": "ampere+",
    "precisionConstraints": "obey",
}
_FLAGS = st.sets(st.sampled_from(sorted(trtexec.KNOWN - {"onnx", "loadEngine"})), max_size=12)


@settings(max_examples=60, deadline=None)
@given(names=_FLAGS, target=st.sampled_from([FULL, RTX]), quantized=st.booleans())
def test_any_command_line_gives_commands_that_exist(
    names: set[str], target: target_string.EngineTarget, quantized: bool
) -> None:
    words = [
        f"--{name}={_VALUES.get(name, '1')}" if name in trtexec._VALUED else f"--{name}"
        for name in sorted(names)
    ]
    found = translate(trtexec.read(["--onnx=m.onnx", *words]), target, lambda _: quantized)
    assert [row.flag for row in found.rows] == ["--onnx=m.onnx", *words]
    assert all(row.became and row.why for row in found.rows)
    assert found.commands[-1][0] == "build"
    for command in found.commands:
        app().parse_args(list(command), exit_on_error=False, print_error=False)


def test_meanings_are_complete_sentences_of_a_table() -> None:
    for name, meaning in FIXED.items():
        assert meaning.status in ("moved", "gone", "lost"), name
        assert meaning.why, name
        assert (meaning.became == "nothing") == (meaning.status == "gone"), name


@given(size=st.integers(0, 2**50))
def test_sizes_are_read_back(size: int) -> None:
    assert sizes.size(spelled(size), "--workspace") == size


@pytest.mark.parametrize(
    ("text", "expected"),
    [("4096", 2**32), ("4G", 2**32), ("0.5", 2**19), ("1K", 1024), ("7B", 7), ("16GiB", 2**34)],
)
def test_a_bare_number_is_mebibytes(text: str, expected: int) -> None:
    assert workspace_mib(text) == expected
    assert pools(f"workspace:{text},dlaSRAM:1") == {"workspace": expected, "dlaSRAM": 2**20}


def test_layer_names_become_globs_that_match_them() -> None:
    (glob,), left = excluded("'/block[0]/what?/Conv':fp32")
    assert fnmatchcase("/block[0]/what?/Conv", glob)
    assert not fnmatchcase("/block0/whatx/Conv", glob)
    assert left == []
    with pytest.raises(UsageError, match="no layer with its type"):
        excluded("conv1")
