"""A graph -> files, atomically."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from onnx import TensorProto, numpy_helper

from qcompiler import weights
from qcompiler.graph import Graph


def emit(graph: Graph, path: Path) -> list[Path]:
    """Write a model; a large one with its weights in ``<name>.data`` beside it.

    Files appear under their names only when they are complete and on the disk; the data file
    before the model that points into it. If the second cannot take its name, the first gives its
    own back, so that what was there before still belongs together.

    Args:
        graph: What to write.
        path: Where; an existing file is replaced.

    Returns:
        The files written, the model first.

    Raises:
        InputError: The folder cannot be written.
    """
    if not graph.is_large:
        with weights.atomic(path) as temporary:
            temporary.write_bytes(graph.proto().SerializeToString(deterministic=True))
        return [path]
    data = path.with_name(f"{path.name}.data")
    model = graph.proto(skeleton=True)
    declared = {t.name for t in graph.inputs}
    kept = [v for v in model.graph.input if v.name in declared]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    del model.graph.initializer[:]
    with (
        _restored_on_failure(data),
        weights.atomic(path) as temporary,
        weights.atomic(data) as temporary_data,
    ):
        side_car = weights.SideCar(temporary_data, data.name)
        for proto, folder in graph.initializers():
            stays = weights.stored_bytes(proto) <= weights.INLINE_BYTES
            stored = _inline(proto, folder) if stays else side_car.put(proto, folder)
            model.graph.initializer.append(stored)
        side_car.close()
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    return [path, data]


def _inline(proto: TensorProto, folder: Path | None) -> TensorProto:
    """A small constant as part of the model file, where shape inference can read it."""
    if proto.data_location != TensorProto.EXTERNAL:
        return proto
    return numpy_helper.from_array(weights.read(proto, folder), proto.name)


@contextmanager
def _restored_on_failure(path: Path) -> Iterator[None]:
    """Put back the file of this name, or its absence, if the block fails."""
    before = path.with_name(f".{path.name}.{os.getpid()}.old")
    existed = path.exists()
    if existed:
        try:
            os.link(path, before)
        except OSError:  # a file system without hard links
            shutil.copyfile(path, before)
    try:
        yield
    except BaseException:
        if existed:
            before.replace(path)
        else:
            path.unlink(missing_ok=True)
        raise
    finally:
        before.unlink(missing_ok=True)
