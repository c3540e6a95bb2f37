"""How often lint and TensorRT for RTX agree on whether a random Q/DQ graph can be built.

    python -m benchmarks.lint_agreement [--count 200] [--seed 0] [--json agreement.json]

Each graph is one Conv, MatMul or Gemm with a random choice of formats, granularities, scales, zero
points, types and opset, most of them what people write and some of them wrong.  Lint refuses a
graph if it finds one diagnostic of severity "parser rejects" or "builder rejects"; the library
refuses it if it makes no engine.  Each disagreement is printed with what both said, and its model
is kept with ``--keep FOLDER``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from rich.progress import track

from qcompiler.backends import tensorrt
from qcompiler.lint import lint
from qcompiler.lint.base import REFUSED, LintTarget
from qcompiler.load import load

T = TypeVar("T")
TARGET = LintTarget("tensorrt-rtx", 89)
STORED = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int4": TensorProto.INT4,
    "fp8": TensorProto.FLOAT8E4M3FN,
    "int16": TensorProto.INT16,
    "int32": TensorProto.INT32,
    "e5m2": TensorProto.FLOAT8E5M2,
}
FORMATS = ("int8", "uint8", "int4", "fp8", "int16", "e5m2")
ACTIVATION_ODDS = (0.80, 0.04, 0.00, 0.14, 0.01, 0.01)
WEIGHT_ODDS = (0.62, 0.04, 0.18, 0.13, 0.015, 0.015)
# op: shape of the activation, shape of the weight, axis of the output channels in the weight
OPS = {
    "Conv": ((1, 8, 8, 8), (16, 8, 3, 3), 0),
    "MatMul": ((4, 32), (32, 16), 1),
    "Gemm": ((4, 32), (16, 32), 0),
}


class RandomGraph:
    """One random quantized layer; ``model()`` gives it as a ModelProto."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.float: np.dtype[Any] = np.dtype(self._pick((np.float32, np.float16)))

    def model(self) -> onnx.ModelProto:
        """Make the layer and the model around it."""
        op = self._pick(tuple(OPS))
        x_shape, w_shape, channel = OPS[op]
        x = self._activation(x_shape) if self._chance(0.75) else "x"
        w = self._weight(w_shape, channel)
        bias = self._bias() if op != "MatMul" and self._chance(0.4) else ()
        attributes: dict[str, Any] = {"transB": 1} if op == "Gemm" else {}
        self.nodes.append(helper.make_node(op, [x, w, *bias], ["y"], name="layer", **attributes))
        dtype = helper.np_dtype_to_tensor_dtype(self.float)
        graph = helper.make_graph(
            self.nodes,
            "random",
            [helper.make_tensor_value_info("x", dtype, x_shape)],
            [helper.make_tensor_value_info("y", dtype, None)],
            self.constants,
        )
        opset = helper.make_opsetid("", int(self._pick((19, 21, 23))))
        return helper.make_model(graph, opset_imports=[opset], ir_version=10)

    def _activation(self, shape: Sequence[int]) -> str:
        """Put a Q/DQ pair behind ``x``; the name of its result."""
        mode = self._pick(("tensor", "one", "ones", "axis"), (0.75, 0.08, 0.02, 0.15))
        axis = int(self.rng.integers(len(shape)))
        numbers, attributes = self._numbers(
            "x", shape, self._pick(FORMATS, ACTIVATION_ODDS), mode, axis
        )
        for op, source, result in (
            ("QuantizeLinear", "x", "x_q"),
            ("DequantizeLinear", "x_q", "x_dq"),
        ):
            self.nodes.append(
                helper.make_node(op, [source, *numbers], [result], name=result, **attributes)
            )
        return "x_dq"

    def _weight(self, shape: Sequence[int], channel: int) -> str:
        """A weight stored in a random format with its DQ, at times a float one."""
        if self._chance(0.15):
            dtype = self._pick((self.float, np.dtype(np.float32)), (0.95, 0.05))
            return self._constant("w", self.rng.standard_normal(shape).astype(dtype))
        mode = self._pick(("tensor", "one", "ones", "axis", "block"), (0.3, 0.1, 0.02, 0.38, 0.2))
        axis = channel if self._chance(0.8) else int(self.rng.integers(len(shape)))
        kind = self._pick(FORMATS, WEIGHT_ODDS)
        stored = self._constant("w", self._codes(kind, shape))
        numbers, attributes = self._numbers("w", shape, kind, mode, axis)
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", [stored, *numbers], ["w_dq"], name="w_dq", **attributes
            )
        )
        return "w_dq"

    def _bias(self) -> tuple[str]:
        """A float bias, at times an INT32 one with its DQ."""
        if not self._chance(0.15):
            dtype = self._pick((self.float, np.dtype(np.float32)), (0.95, 0.05))
            return (self._constant("b", self.rng.standard_normal(16).astype(dtype)),)
        stored = self._constant("b", self._codes("int32", (16,)))
        scale = self._constant("b_scale", np.full((16,), 0.01, self.float))
        self.nodes.append(
            helper.make_node("DequantizeLinear", [stored, scale], ["b_dq"], name="b_dq", axis=0)
        )
        return ("b_dq",)

    def _numbers(
        self, name: str, shape: Sequence[int], kind: str, mode: str, axis: int
    ) -> tuple[list[str], dict[str, Any]]:
        """Scale and zero point of ``name``, some of them wrong, and the attributes they need."""
        scale_shape, attributes = self._granularity(shape, mode, axis)
        dtype = self._pick((self.float, np.dtype(np.float32)), (0.9, 0.1))
        scale = np.asarray(self.rng.random(scale_shape) * 0.05 + 0.01).astype(dtype)
        if self._chance(0.02):
            scale = np.zeros_like(scale)
        names = [self._constant(f"{name}_scale", scale)]
        odds = (0.84, 0.10, 0.02, 0.02, 0.02)
        case = self._pick(("zero", "none", "not zero", "wrong count", "wrong type"), odds)
        if case != "none":
            zero_shape = (2,) if case == "wrong count" else scale_shape
            zero_kind = self._pick(("uint8", "int32", "int16")) if case == "wrong type" else kind
            value = 3 if case == "not zero" else 0
            names.append(self._constant(f"{name}_zero", self._codes(zero_kind, zero_shape, value)))
        return names, attributes

    def _granularity(
        self, shape: Sequence[int], mode: str, axis: int
    ) -> tuple[tuple[int, ...], dict[str, Any]]:
        """Shape of the scale, and the attributes that say so."""
        if mode == "axis":
            wrong = int(self._chance(0.03))
            return (shape[axis] + wrong,), {"axis": axis}
        if mode == "block":
            block = int(self._pick((8, 16, 32, 5), (0.35, 0.35, 0.2, 0.1)))
            blocks = list(shape)
            blocks[axis] = -(-shape[axis] // block)
            return tuple(blocks), {"axis": axis, "block_size": block}
        return {"tensor": (), "one": (1,), "ones": (1,) * len(shape)}[mode], {}

    def _codes(self, kind: str, shape: Sequence[int], value: int | None = None) -> np.ndarray:
        dtype = helper.tensor_dtype_to_np_dtype(STORED[kind])
        low, high = {"int4": (-7, 7), "uint8": (0, 200)}.get(kind, (-100, 100))
        if value is not None:
            return np.full(shape, value).astype(dtype)
        return self.rng.integers(low, high, shape).astype(dtype)

    def _constant(self, name: str, values: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def _chance(self, p: float) -> bool:
        return bool(self.rng.random() < p)

    def _pick(self, choices: Sequence[T], odds: Sequence[float] | None = None) -> T:
        return choices[self.rng.choice(len(choices), p=odds)]


def compare(model: onnx.ModelProto, folder: Path) -> dict[str, Any]:
    """What lint says and what the library does with one model."""
    found = lint(load(model, strict=False), TARGET)
    path = folder / "model.onnx"
    onnx.save(model, path)
    built = tensorrt.build(path)
    return {
        "lint_refuses": any(d.severity in REFUSED for d in found),
        "library_refuses": not built.accepted,
        "codes": sorted({d.code for d in found}),
        "errors": list(built.errors),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare ``--count`` random graphs; print what disagrees and how many agree."""
    options = _options(arguments)
    rng = np.random.default_rng(options.seed)
    console = Console()
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for number in track(range(options.count), "graphs", console=console):
            model = RandomGraph(rng).model()
            result = {"graph": number, **compare(model, Path(folder))}
            results.append(result)
            if result["lint_refuses"] != result["library_refuses"]:
                console.print_json(data=result)
                if options.keep:
                    options.keep.mkdir(parents=True, exist_ok=True)
                    onnx.save(model, options.keep / f"{options.seed}-{number}.onnx")
    cases = Counter((r["lint_refuses"], r["library_refuses"]) for r in results)
    agree = cases[True, True] + cases[False, False]
    console.print(f"agree         {agree} of {options.count} ({agree / options.count:.1%})")
    console.print(f"both refuse   {cases[True, True]}")
    console.print(f"both accept   {cases[False, False]}")
    console.print(f"lint alone    {cases[True, False]}")
    console.print(f"library alone {cases[False, True]}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", type=int, default=200, help="number of graphs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the graphs")
    parser.add_argument("--keep", type=Path, help="folder for the models they disagree on")
    parser.add_argument("--json", type=Path, help="write every result to this file")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
