"""Reading Python source that builds an engine with the API of TensorRT 8 or 10.

The source is parsed, never run.  What counts is written out in it: members of ``BuilderFlag``
wherever they stand, attributes that are assigned, and calls of the builder's methods, under the
names of trtexec.  A value may be a literal, arithmetic on literals, or a name that is assigned one
once; anything else is reported as not readable.  Code under an ``if`` says so in its row, for
which branch ran cannot be known.
"""

from __future__ import annotations

import ast
import warnings

from qcompiler.errors import InputError
from qcompiler.migrate.constants import Constants
from qcompiler.migrate.flags import Flag

# Member of an enumeration -> the flag of trtexec, and its value.
_BUILDER_FLAGS: dict[str, tuple[str, ...]] = {
    "FP16": ("fp16",),
    "INT8": ("int8",),
    "BF16": ("bf16",),
    "FP8": ("fp8",),
    "INT4": ("int4",),
    "FP4": ("fp4",),
    "TF32": ("TF32",),
    "STRICT_TYPES": ("precisionConstraints", "obey"),
    "OBEY_PRECISION_CONSTRAINTS": ("precisionConstraints", "obey"),
    "PREFER_PRECISION_CONSTRAINTS": ("precisionConstraints", "prefer"),
    "SPARSE_WEIGHTS": ("sparsity", "enable"),
    "REFIT": ("refit",),
    "REFIT_IDENTICAL": ("refit",),
    "REFIT_INDIVIDUAL": ("refit",),
    "STRIP_PLAN": ("stripWeights",),
    "WEIGHTLESS": ("stripWeights",),
    "WEIGHT_STREAMING": ("allowWeightStreaming",),
    "VERSION_COMPATIBLE": ("versionCompatible",),
    "EXCLUDE_LEAN_RUNTIME": ("excludeLeanRuntime",),
    "GPU_FALLBACK": ("allowGPUFallback",),
    "DIRECT_IO": ("directIO",),
    "DISABLE_TIMING_CACHE": ("noBuilderCache",),
    "ERROR_ON_TIMING_CACHE_MISS": ("errorOnTimingCacheMiss",),
    "EDITABLE_TIMING_CACHE": ("editableTimingCache",),
    "DISABLE_COMPILATION_CACHE": ("noCompilationCache",),
    "SAFETY_SCOPE": ("safe",),
    "REJECT_EMPTY_ALGORITHMS": ("rejectEmptyAlgorithms",),
    "DISTRIBUTIVE_INDEPENDENCE": ("distributiveIndependence",),
    "STRICT_NANS": ("strictNans",),
    "MONITOR_MEMORY": ("monitorMemory",),
    "DEBUG": ("debug",),
}
_MEMBERS: dict[tuple[str, str], tuple[str, ...]] = {
    **{("BuilderFlag", member): flag for member, flag in _BUILDER_FLAGS.items()},
    ("NetworkDefinitionCreationFlag", "EXPLICIT_BATCH"): ("explicitBatch",),
    ("NetworkDefinitionCreationFlag", "EXPLICIT_PRECISION"): ("quantizationFlag",),
    ("NetworkDefinitionCreationFlag", "STRONGLY_TYPED"): ("stronglyTyped",),
    ("OnnxParserFlag", "NATIVE_INSTANCENORM"): ("nativeInstanceNorm",),
    ("QuantizationFlag", "CALIBRATE_BEFORE_FUSION"): ("quantizationFlag",),
    ("HardwareCompatibilityLevel", "NONE"): ("hardwareCompatibilityLevel", "none"),
    ("HardwareCompatibilityLevel", "AMPERE_PLUS"): ("hardwareCompatibilityLevel", "ampere+"),
    ("HardwareCompatibilityLevel", "SAME_COMPUTE_CAPABILITY"): (
        "hardwareCompatibilityLevel", "sameComputeCapability",
    ),
    ("MemoryPoolType", "DLA_MANAGED_SRAM"): ("memPoolSize", "dlaSRAM:0"),
    ("MemoryPoolType", "DLA_LOCAL_DRAM"): ("memPoolSize", "dlaLocalDRAM:0"),
    ("MemoryPoolType", "DLA_GLOBAL_DRAM"): ("memPoolSize", "dlaGlobalDRAM:0"),
    ("MemoryPoolType", "TACTIC_DRAM"): ("memPoolSize", "tacticDram:0"),
    ("MemoryPoolType", "TACTIC_SHARED_MEMORY"): ("memPoolSize", "tacticSharedMem:0"),
}  # fmt: skip
# Enumerations whose members that are not listed above are not understood.
_STRICT = frozenset({"BuilderFlag", "NetworkDefinitionCreationFlag"})

# Attribute that is assigned -> flag; the value is taken if it is written out.
_ASSIGNED = {
    "int8_calibrator": "calibrator",
    "precision": "layerPrecision",
    "dynamic_range": "setDynamicRange",
    "max_workspace_size": "workspaceBytes",
    "builder_optimization_level": "builderOptimizationLevel",
    "profiling_verbosity": "profilingVerbosity",
    "max_batch_size": "maxBatch",
    "fp16_mode": "fp16",
    "int8_mode": "int8",
    "strict_type_constraints": "precisionConstraints",
    "refittable": "refit",
    "algorithm_selector": "algorithmSelector",
    "quantization_flags": "quantizationFlag",
    "engine_capability": "engineCapability",
    "default_device_type": "useDLACore",
    "DLA_core": "useDLACore",
    "runtime_platform": "runtimePlatform",
    "max_aux_streams": "maxAuxStreams",
    "avg_timing_iterations": "avgTiming",
    "min_timing_iterations": "minTiming",
    "tiling_optimization_level": "tilingOptimizationLevel",
    "l2_limit_for_tiling": "l2LimitForTiling",
    "max_num_tactics": "maxTactics",
    "plugins_to_serialize": "setPluginsToSerialize",
    "remote_auto_tuning_config": "remoteAutoTuningConfig",
    "weight_streaming_budget": "weightStreamingBudget",
    "weight_streaming_budget_v2": "weightStreamingBudget",
}
_CALLED = {
    "add_optimization_profile": "addOptimizationProfile",
    "set_output_type": "setOutputType",
    "set_dynamic_range": "setDynamicRange",
    "set_calibration_profile": "setCalibrationProfile",
    "set_timing_cache": "timingCacheFile",
    "set_tactic_sources": "tacticSources",
    "set_preview_feature": "preview",
    "set_device_type": "setDeviceType",
    "set_quantization_flag": "quantizationFlag",
    "clear_quantization_flag": "quantizationFlag",
    "build_engine": "build",
    "build_serialized_network": "build",
    "build_engine_with_config": "build",
    "build_serialized_network_to_stream": "build",
    "build_cuda_engine": "build",
}
_CALIBRATORS = ("IInt8", "EntropyCalibrator")
# Values that are needed: without them the flag says nothing.
_NEEDED = frozenset({"builderOptimizationLevel", "workspaceBytes"})
_LONGEST = 100
_SWITCHES = frozenset({"fp16_mode", "int8_mode", "strict_type_constraints", "refittable"})


def is_python(text: str) -> bool:
    """Whether a text is Python source, and not a command line that happens to parse."""
    try:
        tree = _parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return any(isinstance(node, ast.Call | ast.Attribute | ast.Import) for node in ast.walk(tree))


def read(source: str, *, where: str = "") -> tuple[Flag, ...]:
    """The settings of a builder that a source text makes.

    Args:
        source: Python source; it is not run.
        where: Name of the file, for the error.

    Returns:
        In the order of the source.

    Raises:
        InputError: It is no Python, or nested too deeply to be read.
    """
    try:
        tree = _parse(source)
        reader = _Reader(Constants.of(tree))
        reader.visit(tree)
    except SyntaxError as error:
        raise InputError(
            f"this is not Python: {error.msg}, line {error.lineno}",
            where=where,
            hint="Python 2 must be converted first",
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise InputError(
            f"this cannot be parsed as Python: {error}", where=where, hint="pass the part that "
            "sets up the builder",
        ) from error  # fmt: skip
    return tuple(reader.found)


def _parse(source: str) -> ast.Module:
    with warnings.catch_warnings():  # what Python thinks of its escapes is not asked here
        warnings.simplefilter("ignore")
        return ast.parse(source)


class _Reader(ast.NodeVisitor):
    """Collects flags in the order in which they stand."""

    def __init__(self, constants: Constants) -> None:
        self.found: list[Flag] = []
        self._constants = constants
        self._conditions: list[str] = []
        self._statement: ast.AST | None = None

    def visit_If(self, node: ast.If) -> None:
        """Statements under a condition carry it; what the condition itself asks counts too."""
        self.visit(node.test)
        test = ast.unparse(node.test)
        for body, said in ((node.body, f"if {test}"), (node.orelse, f"if not ({test})")):
            self._conditions.append(said)
            for statement in body:
                self.visit(statement)
            self._conditions.pop()

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        """A class that derives from a calibrator of TensorRT."""
        for base in node.bases:
            if _last(base).startswith(_CALIBRATORS):
                self._add(base, "calibrator", text=f"class {node.name}({ast.unparse(base)})")
        self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:
        """``config.x = value``."""
        self._statement, before = node, self._statement
        for target in node.targets:
            if isinstance(target, ast.Attribute) and target.attr in _ASSIGNED:
                self._assigned(node, target.attr, node.value)
        self.visit(node.value)
        self._statement = before

    def visit_Call(self, node: ast.Call) -> None:
        """Methods of builder, configuration, profile and parser."""
        name = _last(node.func)
        if name in _CALLED:
            self._add(node, _CALLED[name])
        elif name in ("set_flag", "clear_flag", "get_flag"):
            self._flag(node, name)
            return
        elif name in ("set_shape", "set_shape_input"):
            self._shape(node)
        elif name == "set_memory_pool_limit":
            self._pool(node)
            return
        elif name in ("parse_from_file", "OnnxParserRefitter"):
            self._path(node, "onnx", 0)
        elif name == "open":
            self._opened(node)
        self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        """Members of enumerations, wherever they stand, and ``platform_has_fast_…``."""
        self._member(node)
        if node.attr.startswith("platform_has_"):
            self._add(node, "platformHasFast")
        self.generic_visit(node)

    def _member(self, node: ast.Attribute, statement: ast.AST | None = None) -> None:
        enumeration = _last(node.value)
        flag = _MEMBERS.get((enumeration, node.attr))
        whole = statement or self._statement or node
        if flag is not None:
            self._add(whole, *flag)
        elif enumeration in _STRICT:
            self._unread(whole, f"no member of {enumeration} that is known here")

    def _flag(self, node: ast.Call, name: str) -> None:
        members = [
            part
            for argument in node.args
            for part in ast.walk(argument)
            if isinstance(part, ast.Attribute) and part.attr.isupper()
        ]
        if name == "get_flag":
            return
        if not members:
            self._unread(node, "which flag is not written out")
        for member in members:
            enumeration = _last(member.value)
            if name == "set_flag" and enumeration == "OnnxParserFlag":
                known = (enumeration, member.attr) in _MEMBERS
                self._add(node, "nativeInstanceNorm" if known else "parserFlag")
            elif name == "set_flag":
                self._member(member, node)
            else:
                self._add(node, "noTF32" if member.attr == "TF32" else "clearFlag")

    def _assigned(self, node: ast.Assign, attribute: str, value: ast.expr) -> None:
        name = _ASSIGNED[attribute]
        found = self._constants.value(value)
        if attribute in _SWITCHES:
            if found is False:
                return
            said = ("obey",) if name == "precisionConstraints" else ()
            self._add(node, name, *said)
        elif name in _NEEDED and not isinstance(found, int | float):
            self._unread(node, "its value is not written out")
        elif name in _NEEDED:
            self._add(node, name, str(found))
        else:
            self._add(node, name)

    def _pool(self, node: ast.Call) -> None:
        arguments = _arguments(node, ("pool", "pool_size"))
        pool, size = arguments.get("pool"), arguments.get("pool_size")
        if not isinstance(pool, ast.Attribute) or size is None:
            self._unread(node, "which pool is not written out")
        elif pool.attr != "WORKSPACE":
            self._member(pool, node)
        else:
            found = self._constants.value(size)
            if isinstance(found, int | float):
                self._add(node, "workspaceBytes", str(found))
            else:
                self._unread(node, "its size is not written out")

    def _shape(self, node: ast.Call) -> None:
        arguments = _arguments(node, ("input", "min", "opt", "max"))
        found = {key: self._constants.value(value) for key, value in arguments.items()}
        name = found.get("input")
        shapes = [found.get(key) for key in ("min", "opt", "max")]
        if not isinstance(name, str) or not all(_is_shape(shape) for shape in shapes):
            self._unread(node, "name or shapes are not written out; give --min-shapes NAME:1x3, …")
            return
        spelled = (
            f"{name}:[{','.join(str(size) for size in shape)}]"
            for shape in shapes
            if isinstance(shape, tuple)
        )
        self._add(node, "setShape", *spelled)

    def _path(self, node: ast.Call, name: str, index: int) -> None:
        found = self._constants.value(node.args[index]) if len(node.args) > index else None
        self._add(node, name, *([found] if isinstance(found, str) else []))

    def _opened(self, node: ast.Call) -> None:
        """``open("model.engine", "wb")`` is where the plan goes."""
        arguments = _arguments(node, ("file", "mode"))
        found = {key: self._constants.value(value) for key, value in arguments.items()}
        path, mode = found.get("file"), found.get("mode", "r")
        if not isinstance(path, str) or not isinstance(mode, str):
            return
        if "w" in mode and path.endswith((".engine", ".plan", ".trt")):
            self._add(node, "saveEngine", path)
        elif "r" in mode and path.endswith(".onnx"):
            self._add(node, "onnx", path)

    def _add(self, node: ast.AST, name: str, *values: str, text: str = "") -> None:
        self.found.append(Flag(text or _text(node), name, values, where=self._where(node)))

    def _unread(self, node: ast.AST, problem: str) -> None:
        self.found.append(Flag(_text(node), "", where=self._where(node), problem=problem))

    def _where(self, node: ast.AST) -> str:
        line = f"line {getattr(node, 'lineno', 0)}"
        return ", ".join([line, *self._conditions])


def _text(node: ast.AST) -> str:
    """A node as source, cut where it is long."""
    text = ast.unparse(node)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _last(node: ast.AST) -> str:
    """The last part of a dotted name."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _arguments(node: ast.Call, names: tuple[str, ...]) -> dict[str, ast.expr]:
    """Arguments by name, whether they were given so or by position."""
    positional = dict(zip(names, node.args, strict=False))
    return positional | {k.arg: k.value for k in node.keywords if k.arg in names}


def _is_shape(value: object) -> bool:
    return isinstance(value, tuple) and all(type(size) is int for size in value)
