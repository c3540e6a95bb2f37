"""What became of the flags of trtexec whose meaning depends on no other flag.

The names are those of trtexec 8.x to 10.x (``samples/common/sampleOptions.cpp``); settings of the
Python API that are no flag of trtexec stand under the names they have there.
"""

from __future__ import annotations

from typing import NamedTuple

from qcompiler.migrate.flags import Status


class Meaning(NamedTuple):
    """Of one flag: what takes its place, and why."""

    status: Status
    became: str
    why: str


_RUNS = Meaning(
    "gone", "nothing", "it concerns running or timing an engine; build only builds, and a plan of "
    "build runs under `trtexec --loadEngine`",
)  # fmt: skip
_CALIBRATES = Meaning(
    "gone", "nothing", "TensorRT calibrates no more; samples (--data) have shapes of their own"
)
_DLA = Meaning("lost", "no equivalent", "nothing here builds for DLA")
_PLUGINS = Meaning("lost", "no equivalent", "build loads no plugin libraries")
_TACTICS = Meaning(
    "lost", "no equivalent", "how kernels are searched is left to --optimization-level"
)
_LAYERS = Meaning(
    "moved", "inspect PLAN", "build writes what it knows of the engine to PLAN.json"
)  # fmt: skip
_DEBUG = Meaning("lost", "no equivalent", "no debugging aid of the library is passed on")
_SAFETY = Meaning("lost", "no equivalent", "nothing here builds safety engines")
_VERBOSITY = Meaning("gone", "nothing", "build always asks for detailed layer information")
_LOGS = Meaning("gone", "nothing", "build reads the library's log and says what matters of it")
_IMPLICIT = Meaning(
    "lost", "--opt-shapes", "implicit batch is gone since 10.0: the batch is the first axis of a "
    "shape",
)  # fmt: skip
_FRAMEWORK = Meaning(
    "lost", "no equivalent", "models of Caffe and UFF are read no more: export to ONNX"
)
_HARDWARE_QUERY = Meaning(
    "gone", "nothing", "removed in 11.0: the target says what the hardware can do"
)
_PREVIEW = Meaning("lost", "no equivalent", "no preview features are set")
_NEVER_DEFAULT = Meaning("lost", "no equivalent", "build has no such option")

_GROUPS: dict[Meaning, tuple[str, ...]] = {
    _RUNS: (
        "avgRuns", "duration", "iterations", "warmUp", "sleepTime", "idleTime", "streams",
        "infStreams", "exposeDMA", "noDataTransfers", "useManagedMemory", "useSpinWait", "threads",
        "useCudaGraph", "separateProfileRun", "timeDeserialize", "timeRefit", "skipInference",
        "buildOnly", "persistentCacheRatio", "loadInputs", "useProfile", "allocationStrategy",
        "dumpOutput", "dumpRawBindingsToFile", "dumpProfile", "exportTimes", "exportOutput",
        "exportProfile", "percentile", "refitFromOnnx", "saveDebugTensors", "saveAllDebugTensors",
        "asyncFileReader", "getPlanVersionOnly", "optProfile", "nvtxMode", "nvtxVerbosity",
        "dumpRefit", "useRuntime", "leanDLLPath", "cpuOnly", "setOptimizationProfile", "reportPath",
    ),
    _CALIBRATES: (
        "calibProfile", "minShapesCalib", "optShapesCalib", "maxShapesCalib",
        "setCalibrationProfile",
    ),
    _DLA: (
        "useDLACore", "allowGPUFallback", "buildDLAStandalone", "layerDeviceTypes",
        "uint8AsymmetricQuantizationDLA", "setDeviceType",
    ),
    _PLUGINS: (
        "plugins", "staticPlugins", "dynamicPlugins", "setPluginsToSerialize",
        "ignoreParsedPluginLibs", "safetyPlugins",
    ),
    _TACTICS: (
        "tacticSources", "avgTiming", "minTiming", "maxTactics", "heuristic", "maxAuxStreams",
        "tilingOptimizationLevel", "l2LimitForTiling", "decomposableAttentions",
        "remoteAutoTuningConfig", "algorithmSelector", "setBuildRoute", "tuneBuildRoutes",
        "editableTimingCache",
    ),
    _LAYERS: ("dumpLayerInfo", "exportLayerInfo"),
    _DEBUG: (
        "markDebug", "markUnfusedTensorsAsDebugTensors", "dumpKernelText", "monitorMemory",
        "debug", "strictNans",
    ),
    _SAFETY: ("safe", "consistency", "restricted", "std", "engineCapability"),
    _VERBOSITY: ("profilingVerbosity",),
    _LOGS: ("verbose", "dumpOptimizationProfile"),
    _IMPLICIT: ("batch", "maxBatch"),
    _FRAMEWORK: ("deploy", "uff", "uffInput", "uffNHWC", "output", "mean"),
    _HARDWARE_QUERY: ("platformHasFast",),
    _PREVIEW: ("preview",),
    _NEVER_DEFAULT: (
        "runtimePlatform", "excludeLeanRuntime", "distributiveIndependence", "pluginInstanceNorm",
        "pi", "tempdir", "tempfileControls",
    ),
}  # fmt: skip

_SINGLE: dict[str, Meaning] = {
    "explicitBatch": Meaning(
        "gone", "nothing", "every network has an explicit batch; 11.0 has no such flag"
    ),
    "noTF32": Meaning(
        "lost", "no equivalent", "build leaves TF32 on, as the library does; it concerns what "
        "computes in FP32 only, which is little after fp16 or int8+fp16",
    ),
    "TF32": Meaning("gone", "nothing", "TF32 is on by default"),
    "weightStreamingBudget": Meaning(
        "lost", "no equivalent", "a setting of the run: engine.weight_streaming_budget_v2"
    ),
    "noBuilderCache": Meaning("gone", "nothing", "build keeps none unless it is told to"),
    "noCompilationCache": Meaning("gone", "nothing", "each build runs in a process of its own"),
    "directIO": Meaning("lost", "no equivalent", "deprecated in TensorRT; build does not set it"),
    "layerOutputTypes": Meaning(
        "lost", "no equivalent", "removed in 11.0: the type of a tensor is what the graph says; "
        "--exclude keeps a node from being quantized",
    ),
    "fp8": Meaning(
        "lost", "no equivalent", "FP8 had no calibrator: it came from FP8 Q/DQ nodes in the model "
        "and still does. No recipe here writes them; a model that has them needs build alone",
    ),
    "int4": Meaning(
        "lost", "no equivalent", "INT4 comes from Q/DQ nodes on weights in the model, as before. "
        "No recipe here writes them; a model that has them needs build alone",
    ),
    "fp4": Meaning(
        "lost", "no equivalent", "FP4 comes from Q/DQ nodes in the model, as before. No recipe "
        "here writes them; a model that has them needs build alone",
    ),
    "setDynamicRange": Meaning(
        "lost", "--stats or --data", "removed in 11.0: ranges come from samples, or from a "
        "calibration cache (migrate --cache)",
    ),
    "setOutputType": Meaning(
        "lost", "no equivalent", "removed in 11.0: the type of a tensor is what the graph says"
    ),
    "layerPrecision": Meaning(
        "lost", "--exclude NODE", "removed in 11.0: to keep a node from being quantized, exclude "
        "it by its name in the ONNX graph",
    ),
    "quantizationFlag": Meaning("gone", "nothing", "removed in 11.0 with the calibrators"),
    "rejectEmptyAlgorithms": Meaning("gone", "nothing", "removed in 11.0"),
    "addOptimizationProfile": Meaning(
        "gone", "nothing", "build makes the profile from the shapes that are given"
    ),
    "nativeInstanceNorm": Meaning("gone", "nothing", "the parser's default"),
    "parserFlag": Meaning("lost", "no equivalent", "build sets no flags of the parser"),
    "clearFlag": Meaning("gone", "nothing", "build sets no such flag unless it is told to"),
    "build": Meaning(
        "moved", "build MODEL.onnx", "the build itself, in a child process of its own"
    ),
    "help": Meaning("gone", "nothing", "see qcompiler --help"),
}  # fmt: skip

FIXED: dict[str, Meaning] = {
    **{name: meaning for meaning, names in _GROUPS.items() for name in names},
    **_SINGLE,
}
"""Flag -> what became of it."""
