"""Golden pairs: a model in ONNX text, the passes to run, and the whole listing expected after.

A case is one text file, ``tests/passes/<pass>/<case>.txt``::

    // RUN: fold-batch-norm
    // A batch norm after a Conv disappears into its weight and bias.
    // W = normal(seed=3, shape=[8, 3, 3, 3])
    <ir_version: 8, opset_import: ["" : 17]>
    g (float[N,3,8,8] x) => (float[N,8,6,6] y) <float[8] b = {...}>
    { ... }
    // ----- AFTER
    <the listing, or the single word unchanged>

Constants that ONNX text cannot express well (large, 16-bit, packed) are declared in the header and
then named in the graph like any initializer: ``normal(seed=, shape=[, scale=, dtype=])``,
``full(value=, shape=[, dtype=])``, or a type and a literal, ``int4 [[1, -2], [3, -8]]``.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, numpy_helper, parser

from qcompiler.load import load
from qcompiler.pipeline import Pass, Pipeline, parse_pass
from qcompiler.text import listing
from qcompiler.verify import check_onnx, check_structure
from qcompiler.weights import Array

HERE = Path(__file__).parent / "passes"
AFTER = "// ----- AFTER\n"
UNCHANGED = "unchanged\n"
_TYPES = "|".join(name.lower() for name in TensorProto.DataType.keys())  # noqa: SIM118  (an enum)
_DECLARATION = re.compile(rf"// (\S+) = ((?:normal|full)\(.*\)|(?:{_TYPES}) \S.*)")


@dataclass(frozen=True)
class Golden:
    """One case: where it lies, what to run, on what, and what must come out."""

    path: Path
    passes: tuple[Pass, ...]
    model: ModelProto
    before: str
    after: str

    @property
    def fires(self) -> bool:
        """Whether the case expects a rewrite."""
        return self.after != UNCHANGED


def golden_paths() -> list[Path]:
    """Every case, sorted."""
    return sorted(HERE.glob("*/*.txt"))


def read_golden(path: Path) -> Golden:
    """Parse a case.

    Raises:
        ValueError: It does not start with ``// RUN:``.
    """
    before, _, after = path.read_text().partition(AFTER)
    comments = [line for line in before.splitlines() if line.startswith("//")]
    if not comments or not comments[0].startswith("// RUN: "):
        raise ValueError(f"{path}: the first line must be // RUN: <passes>")
    names = re.split(r",(?![^{]*\})", comments[0].removeprefix("// RUN: "))
    text = "\n".join(line for line in before.splitlines() if not line.startswith("//"))
    model = parser.parse_model(text)
    for comment in comments[1:]:
        if declared := _DECLARATION.fullmatch(comment):
            array = constant(declared[2])
            model.graph.initializer.append(numpy_helper.from_array(array, declared[1]))
    return Golden(path, tuple(parse_pass(n) for n in names), model, before, after)


def constant(text: str) -> Array:
    """The array that a declaration describes."""
    kind, _, literal = text.partition(" ")
    if not text.startswith(("normal(", "full(")):
        return np.array(ast.literal_eval(literal)).astype(_dtype(kind))
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call), text
    assert isinstance(call.func, ast.Name), text
    options = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    dtype = _dtype(options.get("dtype", "float"))
    if call.func.id == "full":
        return np.full(options["shape"], options["value"], np.float64).astype(dtype)
    generator = np.random.default_rng(options["seed"])
    values = generator.standard_normal(options["shape"]) * options.get("scale", 1.0)
    return np.asarray(values).astype(dtype)


def _dtype(name: str) -> np.dtype[np.generic]:
    return onnx.helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(name.upper()))


def run_golden(golden: Golden) -> str:
    """What the passes make of the case: the listing, or ``unchanged``.

    Raises:
        AssertionError: A pass that reports 0 rewrites changed the graph, or the result is no valid
            model.
    """
    graph = load(golden.model)
    graph.infer()
    original = listing(graph)
    steps = Pipeline(golden.passes).run(graph)
    result = listing(graph)
    if not any(step.rewrites for step in steps):
        assert result == original, "reports 0 rewrites, but changed the graph"
        return UNCHANGED
    check_structure(graph.proto())
    problem = check_onnx(graph)
    assert not problem, problem
    return result
