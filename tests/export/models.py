"""Models with odd inputs and outputs, as files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = list[int | str | None]


def typed(
    path: Path, elements: dict[str, tuple[int, Shape]], outputs: dict[str, str] | None = None
) -> Path:
    """Inputs of any type and shape, each copied to an output ``<name>_out``, or one named here."""
    names = outputs or {name: f"{name}_out" for name in elements}
    graph = helper.make_graph(
        [helper.make_node("Identity", [name], [names[name]]) for name in elements],
        "g",
        [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in elements.items()],
        [helper.make_tensor_value_info(names[n], k, shape) for n, (k, shape) in elements.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)]), path)
    return path


def chosen(path: Path) -> Path:
    """Two outputs of which one is an index: ``y = x W``, ``best = ArgMax(y)``."""
    weight = np.arange(12, dtype=np.float32).reshape(3, 4) - 5
    return _saved(
        path,
        "agraph (float[n, 3] x) => (float[n, 4] y, int64[n, 1] best) "
        "{ y = MatMul (x, w) best = ArgMax <axis = 1> (y) }",
        w=weight,
    )


def outside(folder: Path) -> Path:
    """``y = x W`` with W in ``weights/w.bin``."""
    folder.mkdir(parents=True, exist_ok=True)
    path = _saved(
        folder / "big.onnx",
        "agraph (float[n, 16] x) => (float[n, 16] y) { y = MatMul (x, w) }",
        w=np.eye(16, dtype=np.float32),
    )
    proto = onnx.load(path)
    (folder / "weights").mkdir()
    onnx.save_model(
        proto,
        path,
        save_as_external_data=True,
        location="weights/w.bin",
        size_threshold=0,
    )
    return path


def _saved(path: Path, text: str, **constants: Any) -> Path:
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]>\n{text}')
    proto.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in constants.items())
    onnx.save(proto, path)
    return path


FLOAT = TensorProto.FLOAT
