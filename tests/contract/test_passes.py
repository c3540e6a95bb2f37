"""The battery: what every pass promises, on every model; passes and models are discovered."""

from __future__ import annotations

import importlib
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from models import build
from qcompiler.emit import emit
from qcompiler.graph import Graph
from qcompiler.load import load
from qcompiler.pipeline import Effect, Pass, Pipeline, find_pass, pass_names
from qcompiler.verify import check_onnx, check_qdq, check_structure
from tests import strategies
from tests.contract.running import Feeds, assert_same_function, feeds_for, session
from tests.golden import golden_paths, read_golden


def _stands_alone(name: str) -> bool:
    """Whether a pass needs nothing but the graph; the others are tested with their plan."""
    return all(
        f.default is not MISSING or f.default_factory is not MISSING
        for f in fields(find_pass(name))
    )


PASSES = [name for name in pass_names() if _stands_alone(name)]
MODELS = [*build.names(), *strategies.names()]


@cache
def _model(name: str) -> ModelProto:
    return build.load(name) if name in build.names() else strategies.small_model(name)


@cache
def _feeds(name: str) -> Feeds:
    return feeds_for(session(_model(name)))


def _fresh(name: str) -> Graph:
    graph = load(_model(name))
    graph.infer()
    return graph


def _bytes(graph: Graph) -> bytes:
    return bytes(graph.proto().SerializeToString(deterministic=True))


def _declarations(model: ModelProto) -> list[bytes]:
    """What a pass must not touch: inputs, outputs, and everything said about the model."""
    values = (*model.graph.input, *model.graph.output)
    texts = [v.SerializeToString(deterministic=True) for v in values]
    props = sorted(f"{p.key}={p.value}" for p in model.metadata_props)
    return [*texts, *(p.encode() for p in props), model.producer_name.encode()]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", PASSES)
def test_a_pass_keeps_its_promises(name: str, model: str) -> None:
    """Valid, declared as before, done after one run, reproducible, and the same function."""
    entry = find_pass(name)()
    graph = _fresh(model)
    before = graph.proto()
    valid = check_onnx(graph) == ""
    (step,) = Pipeline((entry,)).run(graph)
    after = graph.proto()
    check_structure(after)
    check_qdq(graph)
    assert _declarations(after) == _declarations(before)
    if step.rewrites == 0:
        assert _bytes(graph) == before.SerializeToString(deterministic=True)
        return
    assert not valid or check_onnx(graph) == ""
    (again,) = Pipeline((entry,)).run(graph)
    assert again.rewrites == 0
    assert _bytes(graph) == after.SerializeToString(deterministic=True)
    twin = _fresh(model)
    Pipeline((entry,)).run(twin)
    assert _bytes(twin) == _bytes(graph)
    if entry.effect is Effect.EXACT:
        assert_same_function(before, after, _feeds(model))


def _prepare() -> tuple[Pass, ...]:
    """Every EXACT pass of the phase, ordered by what each wants before it."""
    left = {n: find_pass(n)() for n in PASSES if find_pass(n).phase == "prepare"}
    out: list[Pass] = []
    while left:
        ready = next(n for n, p in left.items() if not set(p.after) & set(left))
        out.append(left.pop(ready))
    return tuple(out)


@pytest.mark.parametrize("model", MODELS)
def test_all_prepare_passes_together(model: str) -> None:
    """One after the other they still compute the same function."""
    graph = _fresh(model)
    before = graph.proto()
    Pipeline(_prepare()).run(graph)
    check_structure(graph.proto())
    assert _declarations(graph.proto()) == _declarations(before)
    assert_same_function(before, graph.proto(), _feeds(model))


@pytest.mark.parametrize("model", ["conv_bn_relu", "shared_weight", "opset_9"])
def test_weights_on_disk_or_in_memory_give_the_same_model(model: str, tmp_path: Path) -> None:
    """Where constants live changes where they are written, not what is written."""
    memory, disk = _fresh(model), _fresh(model)
    disk.spill()
    for graph in (memory, disk):
        Pipeline(_prepare()).run(graph)
    emit(disk, tmp_path / "disk.onnx")
    reloaded = load(tmp_path / "disk.onnx")
    for tensor, twin in zip(memory.constants(), reloaded.constants(), strict=True):
        a, b = memory.values(tensor), reloaded.values(twin)
        assert tensor.name == twin.name
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


# Models that cannot be run to compare: an operator that no runtime has, a division by zero, a
# Dropout that drops; an attention mask shorter than the keys, which ONNX Runtime 1.32 refuses, and
# a grouped ConvTranspose with a bias, which onnx.reference 1.23 does not know (their own tests are
# in tests/passes/test_expand_attention.py and test_fold_batch_norm.py).
_NOT_RUNNABLE = {
    "convert_opset/group_norm",
    "convert_opset/only_the_version",
    "drop_identity/dropout_training",
    "expand_attention/short_mask",
    "fold_batch_norm/conv_transpose_groups",
    "fold_constants/failing_node",
}


@pytest.mark.parametrize("path", golden_paths(), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_what_a_golden_shows_is_exact(path: Path) -> None:
    """A golden fixes the text of a rewrite; this runs it, so that the text cannot be wrong."""
    golden = read_golden(path)
    if f"{path.parent.name}/{path.stem}" in _NOT_RUNNABLE or not golden.fires:
        return
    if any(p.effect is not Effect.EXACT for p in golden.passes):
        return
    graph = load(golden.model)
    graph.infer()
    before = graph.proto()
    Pipeline(golden.passes).run(graph)
    assert_same_function(before, graph.proto(), feeds_for(session(before)))


@pytest.mark.parametrize("name", pass_names())
def test_a_pass_explains_itself(name: str) -> None:
    """The file says what and why, the class gives the algebra, and ``run`` says what it counts."""
    entry = find_pass(name)
    module = importlib.import_module(entry.__module__)
    text = module.__doc__ or ""
    assert len(text.split()) > 40
    assert "->" in text + (entry.__doc__ or "") or "=" in text
    assert entry.__doc__
    assert entry.run.__doc__
    assert entry.phase in ("prepare", "apply", "tidy")
    assert set(entry.after) <= set(pass_names())
