"""Reading Python source that builds engines; nothing of it runs."""

from __future__ import annotations

import ast

import pytest

from qcompiler.errors import InputError
from qcompiler.migrate import python_flags
from qcompiler.migrate.constants import Constants
from qcompiler.migrate.translate import NAMES


def _read(source: str) -> list[tuple[str, ...]]:
    return [(f.name, *f.values) for f in python_flags.read(source)]


def test_every_setting_that_is_read_is_translated() -> None:
    tables = (python_flags._ASSIGNED, python_flags._CALLED)
    listed = {flag[0] for flag in python_flags._MEMBERS.values()}
    read = listed.union(*(table.values() for table in tables))
    assert read | {"calibrator", "setShape", "parserFlag", "noTF32", "clearFlag"} <= NAMES


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("config.set_flag(trt.BuilderFlag.FP16)", [("fp16",)]),
        ("config.set_flag(BuilderFlag.INT8)", [("int8",)]),
        ("config.set_flag(tensorrt.BuilderFlag.STRIP_PLAN)", [("stripWeights",)]),
        ("config.flags = 1 << int(trt.BuilderFlag.FP16)", [("fp16",)]),
        (
            "config.flags |= 1 << int(trt.BuilderFlag.FP16) | 1 << int(trt.BuilderFlag.INT8)",
            [("fp16",), ("int8",)],
        ),
        ("config.clear_flag(trt.BuilderFlag.TF32)", [("noTF32",)]),
        ("config.clear_flag(trt.BuilderFlag.FP16)", [("clearFlag",)]),
        ("if config.get_flag(trt.BuilderFlag.FP16): pass", []),
        ("parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)", [("nativeInstanceNorm",)]),
        ("config.int8_calibrator = Calibrator(data)", [("calibrator",)]),
        ("class C(trt.IInt8EntropyCalibrator2): pass", [("calibrator",)]),
        (
            "EXPLICIT = 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)\n"
            "builder.create_network(EXPLICIT)",
            [("explicitBatch",)],
        ),
        ("layer.precision = trt.float32", [("layerPrecision",)]),
        ("layer.set_output_type(0, trt.float16)", [("setOutputType",)]),
        ("tensor.dynamic_range = (-1, 1)", [("setDynamicRange",)]),
        ("config.max_workspace_size = 1 << 30", [("workspaceBytes", str(2**30))]),
        ("GB = 2**30\nconfig.max_workspace_size = 4 * GB", [("workspaceBytes", str(2**32))]),
        ("config.max_workspace_size = int(1.5 * 2**30)", [("workspaceBytes", str(3 * 2**29))]),
        (
            "config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 1 << 31)",
            [("workspaceBytes", str(2**31))],
        ),
        (
            "config.set_memory_pool_limit(pool=trt.MemoryPoolType.WORKSPACE, pool_size=1 << 31)",
            [("workspaceBytes", str(2**31))],
        ),
        (
            "config.set_memory_pool_limit(trt.MemoryPoolType.DLA_MANAGED_SRAM, 1 << 20)",
            [("memPoolSize", "dlaSRAM:0")],
        ),
        (
            "S = 224\nprofile.set_shape('x:0', (1, 3, S, S), [2, 3, S, S], max=(8, 3, S, S))",
            [("setShape", "x:0:[1,3,224,224]", "x:0:[2,3,224,224]", "x:0:[8,3,224,224]")],
        ),
        ("builder.fp16_mode = True\nbuilder.int8_mode = False", [("fp16",)]),
        ("config.builder_optimization_level = 5", [("builderOptimizationLevel", "5")]),
        ("parser.parse_from_file('m.onnx')", [("onnx", "m.onnx")]),
        ("with open('m.onnx', 'rb') as f: parser.parse(f.read())", [("onnx", "m.onnx")]),
        ("with open('m.plan', 'wb') as f: f.write(plan)", [("saveEngine", "m.plan")]),
        ("with open('notes.txt', 'w') as f: f.write(plan)", []),
        (
            "config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS",
            [("hardwareCompatibilityLevel", "ampere+")],
        ),
        ("builder.build_serialized_network(network, config)", [("build",)]),
        ("print('trt.BuilderFlag.FP16')", []),
        ("config.set_flag(trt.BuilderFlag.FP16); '\\d'", [("fp16",)]),
    ],
)
def test_settings(source: str, expected: list[tuple[str, ...]]) -> None:
    assert _read(source) == expected


def test_conditions_and_lines_are_kept() -> None:
    source = (
        "if args.fp16:\n    config.set_flag(trt.BuilderFlag.FP16)\nelse:\n    c.fp16_mode = 1\n"
    )
    assert [f.where for f in python_flags.read(source)] == [
        "line 2, if args.fp16",
        "line 4, if not (args.fp16)",
    ]


@pytest.mark.parametrize(
    "source",
    [
        "config.set_flag(flag)",
        "config.set_flag(trt.BuilderFlag.BANANA)",
        "config.max_workspace_size = args.workspace << 20",
        "config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, GiB(4))",
        "config.set_memory_pool_limit(pool, 1 << 30)",
        "profile.set_shape(tensor.name, (1, 3), (1, 3), (1, 3))",
        "profile.set_shape('x', (1, n), (1, n), (1, n))",
        "config.builder_optimization_level = args.level",
    ],
)
def test_values_that_are_not_written_out_are_reported(source: str) -> None:
    (flag,) = python_flags.read(source)
    assert flag.name == ""
    assert flag.problem


@pytest.mark.parametrize("source", ["print 'hello'", "def f(:", "a\0b", "(" * 5000])
def test_what_is_no_python_is_an_error(source: str) -> None:
    with pytest.raises(InputError, match="Python"):
        python_flags.read(source, where="s.py")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trtexec --onnx=m.onnx --fp16", False),
        ("trtexec --fp16 --int8", False),
        ("--fp16", False),
        ("config.set_flag(trt.BuilderFlag.FP16)", True),
        ("import tensorrt as trt", True),
        ("config.max_workspace_size = 4", True),
    ],
)
def test_python_and_command_lines_are_told_apart(text: str, expected: bool) -> None:
    assert python_flags.is_python(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1 << 30", 2**30),
        ("4 * 1024 ** 3", 2**32),
        ("-3", -3),
        ("(1, 3) + (4,)", (1, 3, 4)),
        ("1 << 10**9", None),
        ("10 ** 10 ** 10", None),
        ("9 ** 63", None),
        ("1 / 0", None),
        ("f()", None),
        ("(1, x)", None),
        ("a", None),
        ("b", 2),
    ],
)
def test_constants(text: str, expected: object) -> None:
    tree = ast.parse(f"a = 1\na = 2\nb = 2\nvalue = {text}")
    node = tree.body[-1]
    assert isinstance(node, ast.Assign)
    assert Constants.of(tree).value(node.value) == expected


def test_names_that_name_each_other_end() -> None:
    tree = ast.parse("a = b\nb = a\nvalue = a")
    node = tree.body[-1]
    assert isinstance(node, ast.Assign)
    assert Constants.of(tree).value(node.value) is None
