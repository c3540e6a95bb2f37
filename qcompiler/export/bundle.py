"""A model with everything that another machine needs to check, run and rebuild it.

::

    manifest.json                        versions, digests, target, tolerances
    model/MODEL.onnx                     and the files of its external data
    engine/MODEL.plan, MODEL.plan.json   the engine and the facts about it
    quantization/plan.json               every scale, to quantize the source the same way again
    golden/test_data_set_0/input_0.pb    inputs and outputs, laid out like ONNX's own test data

Nothing is changed on the way in: the digests are those of the files that were given.
"""

from __future__ import annotations

import platform
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from qcompiler import __version__, weights
from qcompiler import plan as products
from qcompiler.backends import onnxruntime as ort
from qcompiler.compare import outputs_of
from qcompiler.data.dataset import Dataset
from qcompiler.data.open import ImageOptions, open_data
from qcompiler.data.synthetic import synthetic
from qcompiler.engine import sidecar
from qcompiler.engine.sidecar import Sidecar
from qcompiler.errors import InputError, UnsupportedError, UsageError
from qcompiler.export import golden, manifest
from qcompiler.export.folder import replaced
from qcompiler.export.manifest import Entry, Manifest, Source, Tolerance
from qcompiler.export.model_files import copy_model
from qcompiler.graph import Graph
from qcompiler.inputs import input_specs
from qcompiler.load import load
from qcompiler.progress import Progress, Silent

ZIP = ".zip"
# The oldest time a zip can hold, so that two exports have the same bytes.
_TIME = (1980, 1, 1, 0, 0, 0)
_READABLE = 0o644 << 16


@dataclass(frozen=True)
class Contents:
    """What goes into a bundle besides the model.

    Attributes:
        plan: An engine built from the model, with its facts beside it.
        quantization: The plan that ``qcompiler plan`` or ``compile --keep`` wrote.
        source: The float model, to be compared with; it stays out.
        data: Golden inputs; made up without it.
        samples: How many of them.
        seed: Of inputs that are made up.
        images: How a folder of images becomes inputs.
        custom_ops: Libraries with custom operators; they stay out.
    """

    plan: Path | None = None
    quantization: Path | None = None
    source: Path | None = None
    data: str | Path | None = None
    samples: int = 4
    seed: int = 0
    images: ImageOptions = ImageOptions()  # noqa: RUF009  (frozen)
    custom_ops: Sequence[Path] = field(default=())


def export(
    model: Path, output: Path, contents: Contents, progress: Progress | None = None
) -> Manifest:
    """Write a bundle; it appears complete or not at all, in place of what had its name.

    Args:
        model: ONNX file.
        output: ``.zip`` for a file, anything else for a folder.
        contents: What else goes in.
        progress: Told what happens.

    Raises:
        UsageError: ``samples`` is below 1.
        InputError: A file cannot be read, or belongs to another model; the data do not fit.
        UnsupportedError: ONNX Runtime cannot load the model.
        BackendError: It cannot run it.
    """
    progress = progress or Silent()
    if contents.samples < 1:
        raise UsageError("--samples must be at least 1")
    graph = load(model, strict=False)
    graph.infer()
    facts = None if contents.plan is None else _facts(contents.plan, model)
    output = output.absolute()
    if output.suffix != ZIP:
        with replaced(output) as folder:
            return _fill(folder, model, graph, contents, facts, progress)
    with weights.atomic(output) as file, tempfile.TemporaryDirectory(dir=output.parent) as where:
        made = _fill(Path(where), model, graph, contents, facts, progress)
        _pack(Path(where), file)
    return made


def refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Check the output before any work is done.

    Raises:
        UsageError: It exists and must not be replaced: without ``overwrite`` nothing may, with it
            a file, an empty folder, or a folder that is a bundle.
    """
    output = output.absolute()
    if not output.parent.is_dir():
        raise UsageError(
            "the folder does not exist",
            where=str(output.parent),
            hint="create it or choose another path",
        )
    if not output.exists():
        return
    if not overwrite:
        raise UsageError(
            "the output exists", where=str(output), hint="pass --overwrite or another path"
        )
    if output.is_dir() and (output.suffix == ZIP or not _is_ours(output)):
        raise UsageError(
            "this folder is no bundle, and its files would be lost",
            where=str(output),
            hint="choose another path",
        )


def _is_ours(folder: Path) -> bool:
    return (folder / manifest.NAME).is_file() or not any(folder.iterdir())


def _facts(plan: Path, model: Path) -> Sidecar:
    """The facts about an engine that was built from this very model."""
    facts = sidecar.read(sidecar.beside(plan))
    sidecar.require_plan(facts, plan)
    if facts.model_digest != sidecar.digest(model):
        raise InputError(
            f"the engine was built from another model than {model.name}: {facts.model}",
            where=str(plan),
            hint="build it from this model, or pass the model that it was built from",
        )
    return facts


def _fill(
    folder: Path,
    model: Path,
    graph: Graph,
    contents: Contents,
    facts: Sidecar | None,
    progress: Progress,
) -> Manifest:
    quantization = _quantization(contents, graph)
    placed = _copy(folder, model, contents)
    dataset = _dataset(graph, contents)
    progress.begin("golden")
    try:
        samples = _samples(dataset, contents.samples)
        tolerances = _golden(folder, placed.model, samples, contents, progress)
    finally:
        progress.end()
    for note in dataset.notes:
        progress.warn(note)
    made = Manifest(
        model=placed.model,
        plan=placed.plan,
        quantization=placed.quantization,
        target=quantization.target if quantization else graph.metadata.get("qcompiler.target", ""),
        library=facts.library if facts else "",
        capabilities=facts.capabilities if facts else (),
        source=_source(contents.source),
        data=Path(dataset.source).name,
        synthetic=dataset.synthetic,
        samples=len(samples),
        tolerances=tolerances,
        versions=versions(),
        machine=platform.machine(),
        files=_entries(folder),
    )
    (folder / manifest.NAME).write_bytes(products.encode(made))
    return made


def _golden(
    folder: Path,
    model: str,
    samples: Sequence[Mapping[str, NDArray[Any]]],
    contents: Contents,
    progress: Progress,
) -> tuple[Tolerance, ...]:
    """Run the samples, write them with their outputs, and derive the tolerances."""
    custom = contents.custom_ops
    with ort.OrtSession(folder / model, custom_ops=custom) as session:
        whole = outputs_of(session, samples, progress.update)
    outputs = [golden.tensors(found) for found in whole]
    for name in sorted(set(whole[0]) - set(outputs[0])):
        progress.warn(f"output {name!r} is no tensor, so there is no golden one of it")
    if not outputs[0]:
        raise UnsupportedError(
            "no output of the model is a tensor, so nothing can be compared",
            where=model,
            hint="let the model end in tensors, not in sequences or maps",
        )
    for number, (feeds, found) in enumerate(zip(samples, outputs, strict=True)):
        golden.save(folder, number, feeds, found)
    return golden.tolerances(
        folder / model, outputs, samples, source=contents.source, custom_ops=custom
    )


def versions() -> dict[str, str]:
    """Versions of what computes golden outputs."""
    return {
        "qcompiler": __version__,
        "onnx": onnx.__version__,
        "onnxruntime": ort.version().split()[1],
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


class _Placed(NamedTuple):
    """Paths in the bundle; empty for what is not in it."""

    model: str
    plan: str = ""
    quantization: str = ""


def _copy(folder: Path, model: Path, contents: Contents) -> _Placed:
    """Copy what was given."""
    (folder / "model").mkdir()
    copy_model(model, folder / "model", model.name)
    placed = _Placed(f"model/{model.name}")
    if contents.plan is not None:
        (folder / "engine").mkdir()
        for path in (contents.plan, sidecar.beside(contents.plan)):
            shutil.copyfile(path, folder / "engine" / path.name)
        placed = placed._replace(plan=f"engine/{contents.plan.name}")
    if contents.quantization is not None:
        (folder / "quantization").mkdir()
        placed = placed._replace(quantization="quantization/plan.json")
        shutil.copyfile(contents.quantization, folder / placed.quantization)
    return placed


def _quantization(contents: Contents, graph: Graph) -> products.QuantPlan | None:
    """The quantization plan, if it is the one that the model says it was made with.

    Raises:
        InputError: The model names another one.
    """
    if contents.quantization is None:
        return None
    found = products.read(contents.quantization, products.QuantPlan)
    named = graph.metadata.get("qcompiler.plan_digest")
    if named is not None and named != found.digest():
        raise InputError(
            "the model was made with another quantization plan",
            where=str(contents.quantization),
            hint="pass the plan.json that `compile --keep` wrote with this model",
        )
    return found


def _source(source: Path | None) -> Source | None:
    return None if source is None else Source(source.name, sidecar.digest(source))


def _dataset(graph: Graph, contents: Contents) -> Dataset:
    specs = input_specs(graph)
    if contents.data is None:
        return synthetic(specs, seed=contents.seed, samples=contents.samples)
    return open_data(contents.data, specs, images=contents.images, limit=contents.samples)


def _samples(dataset: Dataset, count: int) -> list[Mapping[str, NDArray[Any]]]:
    samples: list[Mapping[str, NDArray[Any]]] = []
    for feeds in dataset:
        samples.append({name: np.array(value) for name, value in feeds.items()})
        if len(samples) == count:
            break
    if not samples:
        raise InputError("the data hold no sample", where=dataset.source)
    return samples


def _entries(folder: Path) -> dict[str, Entry]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {
        p.relative_to(folder).as_posix(): Entry(sidecar.digest(p), p.stat().st_size) for p in files
    }


def _pack(folder: Path, file: Path) -> None:
    """Into a zip, without compression (weights and engines have little to give), names sorted."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), _TIME)
            info.external_attr = _READABLE
            info.file_size = path.stat().st_size
            with path.open("rb") as source, archive.open(info, "w") as target:
                shutil.copyfileobj(source, target, 1 << 20)
