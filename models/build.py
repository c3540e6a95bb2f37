"""Small models from text, and one large synthetic one.

``models/<name>.onnxtxt`` is ONNX text behind a header of ``//`` lines.  A header line declares a
constant, so that its values need no room in the text and are the same at every run::

    // W = normal(seed=3, shape=[64, 64], scale=0.1)          standard normal times scale
    // g = uniform(seed=4, shape=[64], low=0.5, high=1.5)     uniform in [low, high)
    // Q = integers(seed=5, shape=[64, 64], low=-127, high=127, dtype=int8)   both ends included
    // z = full(value=0, shape=[64], dtype=int8)              one value everywhere
    // b = [0.5, -1.0]                                        float32 values
    // k = int64 [1, 64]                                      values of another type

Generators draw float32 (``dtype=`` casts the result) from ``numpy.random.default_rng(seed)``.  Any
other ``//`` line is a comment.

Usage::

    python models/build.py OUT_DIR                       every model as OUT_DIR/<name>.onnx
    python models/build.py --large 3.4GiB OUT.onnx       chained MatMuls with external data
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

HERE = Path(__file__).resolve().parent
_DECLARATION = re.compile(r"//\s*(\S+) = (.+)")
_TYPED_LITERAL = re.compile(r"([a-z]\w*) (\[.*|-?[0-9].*)")
_UNITS = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_LARGE_WIDTH = 6144


def names() -> tuple[str, ...]:
    """Names of all models, sorted; each is good for ``load``."""
    return tuple(sorted(p.stem for p in HERE.iterdir() if p.suffix in (".onnx", ".onnxtxt")))


def load(name: str) -> onnx.ModelProto:
    """One model by name, with its weights.

    Args:
        name: One of ``names()``.

    Raises:
        FileNotFoundError: There is no such model.
        ValueError: Its text has a declaration that cannot be read.
    """
    binary = HERE / f"{name}.onnx"
    if binary.exists():
        return onnx.load(binary)
    return parse((HERE / f"{name}.onnxtxt").read_text(encoding="utf-8"))


def parse(text: str) -> onnx.ModelProto:
    """ONNX text with a header of declared constants -> a model.

    Raises:
        ValueError: A declaration cannot be read; the message quotes it.
        onnx.parser.ParseError: The text behind the header is no ONNX text.
    """
    lines = text.splitlines()
    comments = [line.strip() for line in lines if line.lstrip().startswith("//")]
    # Blank lines stand in for the comments: the parser's line numbers stay true.
    body = "\n".join("" if line.lstrip().startswith("//") else line for line in lines)
    model = onnx.parser.parse_model(body)
    for comment in comments:
        declared = _DECLARATION.fullmatch(comment)
        if declared:
            values = constant(declared[2])
            model.graph.initializer.append(numpy_helper.from_array(values, declared[1]))
    return model


def constant(declaration: str) -> NDArray[Any]:
    """The array that the right-hand side of a declaration stands for.

    Raises:
        ValueError: It is neither a generator call nor a literal.
    """
    typed = _TYPED_LITERAL.fullmatch(declaration)
    dtype, text = (typed[1], typed[2]) if typed else ("float32", declaration)
    try:
        tree = ast.parse(text, mode="eval").body
        if isinstance(tree, ast.Call):
            return _generate(tree)
        return np.asarray(ast.literal_eval(tree)).astype(_dtype(dtype))
    except (SyntaxError, TypeError, KeyError, ValueError) as error:
        raise ValueError(f"cannot read the declaration {declaration!r}: {error}") from error


def _generate(call: ast.Call) -> NDArray[Any]:
    options: dict[str | None, Any] = {
        k.arg: k.value.id if isinstance(k.value, ast.Name) else ast.literal_eval(k.value)
        for k in call.keywords
    }
    dtype = _dtype(options.pop("dtype", "float32"))
    kind = call.func.id if isinstance(call.func, ast.Name) else ""
    if kind == "full":
        return np.full(options["shape"], options["value"]).astype(dtype)
    rng, shape = np.random.default_rng(options["seed"]), options["shape"]
    if kind == "normal":
        normal: NDArray[np.float32] = rng.standard_normal(shape, dtype=np.float32)
        return (normal * np.float32(options.get("scale", 1.0))).astype(dtype)
    if kind == "uniform":
        low, high = np.float32(options["low"]), np.float32(options["high"])
        unit: NDArray[np.float32] = rng.random(shape, dtype=np.float32)
        return (low + (high - low) * unit).astype(dtype)
    if kind == "integers":
        whole: NDArray[Any] = rng.integers(options["low"], options["high"], shape, endpoint=True)
        return whole.astype(dtype)
    raise ValueError(f"no generator is called {kind!r}")


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))


def write_large(size: int, path: Path) -> int:
    """Write a chain of 6144 x 6144 FP32 MatMuls whose weights lie beside the model.

    ``x[rows, 6144] -> MatMul -> Relu -> MatMul -> ... -> y``; weights are normal with variance
    ``2 / 6144``, which keeps the scale of ``x`` through any number of layers (He initialisation).
    At most two layers (302 MB) are in memory.

    Args:
        size: Bytes of weights wanted; rounded to whole layers, at least one.
        path: The ``.onnx`` file; weights go to ``<path>.data``.

    Returns:
        The number of layers.
    """
    shape = (_LARGE_WIDTH, _LARGE_WIDTH)
    nbytes = _LARGE_WIDTH * _LARGE_WIDTH * 4
    layers = max(1, round(size / nbytes))
    data = path.with_name(path.name + ".data")
    nodes: list[NodeProto] = []
    initializers: list[TensorProto] = []
    tensor = "x"
    with data.open("wb") as file:
        for index in range(layers):
            weight = np.random.default_rng(index).standard_normal(shape, dtype=np.float32)
            weight *= np.float32(np.sqrt(2 / _LARGE_WIDTH))
            weight.tofile(file)
            initializers.append(_external(f"W{index}", shape, data.name, index * nbytes))
            last = index == layers - 1
            result = "y" if last else f"h{index}"
            nodes.append(
                helper.make_node("MatMul", [tensor, f"W{index}"], [result], f"matmul{index}")
            )
            if not last:
                tensor = f"a{index}"
                nodes.append(helper.make_node("Relu", [result], [tensor], f"relu{index}"))
    rows: list[str | int | None] = ["rows", _LARGE_WIDTH]
    graph = helper.make_graph(
        nodes,
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, rows)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, rows)],
        initializers,
    )
    opset = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return layers


def _external(name: str, shape: tuple[int, int], location: str, offset: int) -> TensorProto:
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)
    tensor.data_location = TensorProto.EXTERNAL
    length = shape[0] * shape[1] * 4
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _bytes(text: str) -> int:
    match = re.fullmatch(r"([0-9.]+)(KiB|MiB|GiB)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 3.4GiB")
    return round(float(match[1]) * _UNITS[match[2]])


def main(arguments: Sequence[str] | None = None) -> None:
    """Write every model, or the large one."""
    parser = argparse.ArgumentParser(description="Write the models as .onnx files.")
    parser.add_argument("out", type=Path, help="folder; with --large, the .onnx file")
    parser.add_argument("--large", type=_bytes, metavar="SIZE", help="bytes of weights: 3.4GiB")
    options = parser.parse_args(arguments)
    if options.large:
        layers = write_large(options.large, options.out)
        print(f"{options.out}: {layers} MatMuls of {_LARGE_WIDTH} x {_LARGE_WIDTH}")
        return
    options.out.mkdir(parents=True, exist_ok=True)
    for name in names():
        onnx.save(load(name), options.out / f"{name}.onnx")
        print(options.out / f"{name}.onnx")


if __name__ == "__main__":
    main()
