"""A model -> a Triton model repository: ``NAME/config.pbtxt`` and ``NAME/VERSION/model.…``.

An ONNX model is served by the backend ``onnxruntime``; with weights in other files it becomes the
folder ``model.onnx/`` that Triton asks for then. A plan of TensorRT is served as
``tensorrt_plan``, with the facts about it beside it. A plan of *TensorRT for RTX* is refused:
Triton's TensorRT backend links TensorRT's own runtime (``libnvinfer``), and an engine can be loaded
only by the library that built it.
"""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from qcompiler import __version__
from qcompiler.backends.tensorrt import RTX
from qcompiler.engine import shapes, sidecar
from qcompiler.engine.ports import ports
from qcompiler.engine.sidecar import Sidecar
from qcompiler.errors import InputError, UnsupportedError, UsageError
from qcompiler.export.folder import replaced
from qcompiler.export.model_files import copy_model, external_files
from qcompiler.export.triton_config import (
    ONNXRUNTIME,
    TENSORRT,
    Backend,
    Interface,
    Serving,
    batch,
    config,
)
from qcompiler.load import load

CONFIG = "config.pbtxt"
# First bytes of a plan of TensorRT for RTX (1.7); those of TensorRT are others.
_RTX_MAGIC = b"vtrt"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: ``REPOSITORY/NAME``.
        files: The files in it that this export wrote, relative, the configuration first.
        config: Text of ``config.pbtxt``.
        max_batch: Most requests in one batch; 0 for none.
        unbatched: Why nothing is batched, if the user did not ask for that.
        notes: What the user must know besides.
    """

    folder: Path
    files: tuple[str, ...]
    config: str
    max_batch: int
    unbatched: str
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Served:
    """A model that is ready to be served."""

    file: Path
    backend: Backend
    interface: Interface
    comments: tuple[str, ...]
    notes: tuple[str, ...] = ()


def export(
    model: Path,
    repository: Path,
    *,
    name: str = "",
    version: int = 1,
    serving: Serving = Serving(),  # noqa: B008 - frozen
    force: bool = False,
    overwrite: bool = False,
) -> Exported:
    """Write a model into a repository; the folder ``NAME`` appears complete or not at all.

    Other versions in the folder stay. A configuration that differs from the one that is there is
    replaced only with ``overwrite``, because all versions share it.

    Args:
        model: ``.onnx``, or a plan: anything else.
        repository: Made if it does not exist; its parent must.
        name: Of the model; the file's name up to its last dot without one.
        version: Folder of this version.
        serving: What the user says about serving.
        force: Write a plan of TensorRT for RTX all the same.
        overwrite: Replace the version and the configuration that are there.

    Raises:
        UsageError: Something exists already, or an option is out of range.
        InputError: The model cannot be read, or the folder not be written.
        UnsupportedError: Triton cannot serve this.
    """
    name = name or model.stem
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot be the name of a model in Triton",
            hint="pass --name with letters, digits, _, - and .",
        )
    if version < 1:
        raise UsageError("--version must be at least 1; Triton ignores other folders")
    served = _onnx(model) if model.suffix == ".onnx" else _plan(model, force=force)
    max_batch, unbatched = batch(served.interface, serving.max_batch)
    text = config(name, served.backend, served.interface, max_batch, serving, served.comments)
    folder = repository / name
    _refuse_existing(folder, version, text, overwrite=overwrite)
    files = _write(served, folder, version, text)
    return Exported(folder, files, text, max_batch, unbatched, served.notes)


def _onnx(model: Path) -> _Served:
    graph = load(model, strict=False)
    graph.infer()
    interface = Interface(ports(graph.inputs), ports(graph.outputs))
    comment = f"Written by qcompiler {__version__} for {model.name}."
    return _Served(model, ONNXRUNTIME, interface, (comment,))


def _plan(plan: Path, *, force: bool) -> _Served:
    try:
        with plan.open("rb") as stream:
            magic = stream.read(len(_RTX_MAGIC))
    except OSError as error:
        raise InputError(
            f"cannot read the plan: {error.strerror}", where=str(plan), hint="check the path"
        ) from error
    path = sidecar.beside(plan)
    facts = sidecar.read(path) if path.is_file() and path != plan else None
    if facts is not None:
        sidecar.require_plan(facts, plan)
    if magic == _RTX_MAGIC or (facts is not None and facts.library.split()[0] == RTX.name):
        _refuse_rtx(plan, force=force)
    interface, note = _interface(plan, facts)
    comments = [f"Written by qcompiler {__version__} for {plan.name}."]
    if facts is not None:
        where = f" for {', '.join(facts.capabilities)}" if facts.capabilities else ""
        comments.append(f"Built by {facts.library}{where}: serve it with that very release.")
    return _Served(plan, TENSORRT, interface, tuple(comments), (note,) if note else ())


def _refuse_rtx(plan: Path, *, force: bool) -> None:
    if not force:
        raise UnsupportedError(
            f"Triton cannot load a plan of {RTX.title}; its backend runs plans of TensorRT",
            where=str(plan),
            hint="export the ONNX model instead, or build it with --target tensorrt on the GPU "
            "that shall serve it; --force writes the plan all the same, for a backend of your own",
        )


def _interface(plan: Path, facts: Sidecar | None) -> tuple[Interface, str]:
    """Inputs and outputs of a plan, and what is uncertain about them."""
    if facts is not None and facts.outputs:
        return Interface(facts.inputs, facts.outputs, _batches(facts)), ""
    model = plan.with_name(facts.model) if facts is not None else plan.with_suffix(".onnx")
    if not model.is_file():
        raise InputError(
            "nothing says which inputs and outputs this plan has",
            where=str(plan),
            hint=f"qcompiler build writes {sidecar.beside(plan).name}; or put the model that the "
            f"plan was built from beside it, as {model.name}",
        )
    if facts is not None and sidecar.digest(model) != facts.model_digest:
        raise InputError(
            "the model beside the plan is not the one it was built from",
            where=str(model),
            hint="build the plan again",
        )
    graph = load(model, strict=False)
    graph.infer()
    batches = None if facts is None else _batches(facts)
    found = Interface(ports(graph.inputs), ports(graph.outputs), batches)
    sure = "" if facts is not None else "; nothing proves that the plan was built from it"
    return found, f"inputs and outputs are those of {model.name}{sure}"


def _batches(facts: Sidecar) -> tuple[int, int] | None:
    """Smallest and largest first axis that the profile allows every dynamic input."""
    low, high = (facts.options.get(f"{which}-shapes") for which in ("min", "max"))
    if not isinstance(low, str) or not isinstance(high, str):
        return None
    least, most = (
        [shape[0] for shape in shapes.parse([text]).values() if shape] for text in (low, high)
    )
    return (max(least), min(most)) if least and most else None


def _refuse_existing(folder: Path, version: int, text: str, *, overwrite: bool) -> None:
    parent = folder.parent.parent
    if not parent.is_dir():
        raise UsageError(
            "the folder does not exist",
            where=str(parent),
            hint="create it or choose another repository",
        )
    if overwrite:
        return
    written = folder / CONFIG
    if (folder / str(version)).exists():
        taken = folder / str(version)
    elif written.is_file() and written.read_bytes() != text.encode():
        taken = written
    elif folder.exists() and not folder.is_dir():
        taken = folder
    else:
        return
    raise UsageError(
        "this exists, and would be replaced",
        where=str(taken),
        hint="pass --overwrite, or another --version or --name",
    )


def _write(served: _Served, folder: Path, version: int, text: str) -> tuple[str, ...]:
    made = not folder.parent.exists()
    folder.parent.mkdir(exist_ok=True)
    try:
        with replaced(folder) as fresh:
            if folder.is_dir():
                _keep(folder, fresh, version)
            (fresh / CONFIG).write_bytes(text.encode())
            place = fresh / str(version)
            place.mkdir()
            if served.backend is ONNXRUNTIME:
                _place_onnx(served.file, place)
            else:
                _place_plan(served.file, place)
            files = sorted(p.relative_to(fresh).as_posix() for p in place.rglob("*") if p.is_file())
    except BaseException:
        if made:
            folder.parent.rmdir()
        raise
    return (CONFIG, *files)


def _keep(folder: Path, fresh: Path, version: int) -> None:
    """What the folder holds besides this version and the configuration, as links to its files."""

    def left_out(where: str, _: list[str]) -> set[str]:
        return {str(version), CONFIG} if Path(where) == folder else set()

    shutil.copytree(folder, fresh, copy_function=_link, ignore=left_out, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)


def _place_onnx(model: Path, place: Path) -> None:
    if external_files(model):
        place = place / "model.onnx"
        place.mkdir()
    copy_model(model, place, "model.onnx")


def _place_plan(plan: Path, place: Path) -> None:
    shutil.copyfile(plan, place / "model.plan")
    if sidecar.beside(plan).is_file():
        shutil.copyfile(sidecar.beside(plan), place / "model.plan.json")
