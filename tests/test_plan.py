"""The products that people read and edit: round trips, refusals, and what an edit does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from models import build
from qcompiler import plan as products
from qcompiler import targets
from qcompiler.apply import apply
from qcompiler.errors import InputError
from qcompiler.plan import Decision, Point, Points, QuantPlan, Slot, Storage
from qcompiler.prepare import prepare
from tests.compiled import compiled

STORAGE = Storage("int8", None)
DECISION = Decision(
    "x", (Slot("n", 0, "activation"),), STORAGE, "float32", 0.5, 0, "calibrated", ""
)


def applied(plan: QuantPlan, name: str = "residual") -> ModelProto:
    """What a plan makes of a model."""
    graph, _ = prepare(build.load(name), targets.find(plan.target))
    apply(graph, plan)
    return graph.proto()


def _constants(model: ModelProto) -> dict[str, Any]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def _changed(a: ModelProto, b: ModelProto) -> set[str]:
    left, right = _constants(a), _constants(b)
    assert left.keys() == right.keys()
    assert [n.SerializeToString() for n in a.graph.node] == [
        n.SerializeToString() for n in b.graph.node
    ]
    return {k for k in left if left[k].tobytes() != right[k].tobytes()}


def _edit(plan: QuantPlan, part: str, index: int, **changes: Any) -> QuantPlan:
    """A plan with one decision changed, by way of its JSON, as a person does it."""
    document = json.loads(products.encode(plan))
    document[part][index].update(changes)
    return msgspec.convert(document, QuantPlan)


# ---------------------------------------------------------------------- files


@pytest.mark.parametrize("name", build.names())
def test_points_and_plan_survive_their_files(name: str, tmp_path: Path) -> None:
    result = compiled(name)
    for product in (result.points, result.plan):
        path = tmp_path / "product.json"
        products.save(product, path)
        found: Points | QuantPlan = products.read(path, type(product))
        assert found == product
        assert products.encode(found) == path.read_bytes()


def test_json_is_sorted_and_ends_with_a_newline() -> None:
    plan = QuantPlan("d", "t", "r", False, (), (), {"b": "2", "a": "1"})
    text = products.encode(plan).decode()
    assert text.endswith("}\n")
    assert text.index('"a"') < text.index('"b"')


def test_the_digest_is_of_the_bytes() -> None:
    plan = QuantPlan("d", "t", "r", False, (DECISION,), (), {})
    same = QuantPlan("d", "t", "r", False, (DECISION,), (), {})
    other = msgspec.structs.replace(plan, synthetic=True)
    assert plan.digest() == same.digest() != other.digest()


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"version": 99}, "version 99 of a QuantPlan, expected 1"),
        ({}, "version None of a QuantPlan"),
        ({"version": 1}, "not a valid QuantPlan: Object missing required field"),
        ([], "not a valid QuantPlan: Expected `object`"),
    ],
)
def test_another_version_or_another_document_is_refused(
    document: object, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match=told) as caught:
        products.read(path, QuantPlan)
    assert caught.value.where == str(path)
    assert caught.value.hint


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    data = products.encode(compiled().plan)
    path = tmp_path / "plan.json"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="not a valid QuantPlan: Input data was truncated"):
        products.read(path, QuantPlan)


def test_a_misspelt_key_is_refused(tmp_path: Path) -> None:
    document = json.loads(products.encode(compiled().plan))
    document["activations"][0]["Scale"] = 1.0
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="unknown field `Scale`"):
        products.read(path, QuantPlan)


def test_points_are_no_plan(tmp_path: Path) -> None:
    products.save(compiled().points, tmp_path / "points.json")
    with pytest.raises(InputError, match="not a valid QuantPlan"):
        products.read(tmp_path / "points.json", QuantPlan)


def test_a_missing_file_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the QuantPlan: No such file"):
        products.read(tmp_path / "none.json", QuantPlan)


def test_saving_into_a_folder_that_does_not_exist_is_the_callers_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write here"):
        products.save(compiled().plan, tmp_path / "none" / "plan.json")


# ---------------------------------------------------------------------- carrying out


def test_the_same_plan_gives_the_same_bytes_and_those_of_the_compilation() -> None:
    plan = compiled().plan
    once, twice = (applied(plan).SerializeToString(deterministic=True) for _ in range(2))
    assert once == twice == compiled().model().SerializeToString(deterministic=True)


def test_a_plan_for_another_model_is_refused() -> None:
    graph, _ = prepare(build.load("mlp"), targets.find("tensorrt"))
    with pytest.raises(InputError, match="the plan belongs to another model"):
        apply(graph, compiled().plan)


def test_a_plan_for_other_weights_is_refused() -> None:
    proto = build.load("residual")
    values = numpy_helper.to_array(proto.graph.initializer[0]).copy()
    values.reshape(-1)[0] += 1
    proto.graph.initializer[0].CopyFrom(
        numpy_helper.from_array(values, proto.graph.initializer[0].name)
    )
    graph, _ = prepare(proto, targets.find("tensorrt"))
    with pytest.raises(InputError, match="the plan belongs to another model"):
        apply(graph, compiled().plan)


def test_an_edited_activation_scale_changes_that_constant_only() -> None:
    plan = compiled().plan
    scale = plan.activations[0].scale
    assert isinstance(scale, float)
    edited = _edit(plan, "activations", 0, scale=scale * 2)
    assert _changed(applied(plan), applied(edited)) == {f"{plan.activations[0].tensor}_scale"}


def test_an_edited_weight_scale_changes_that_weight_only() -> None:
    plan = compiled().plan
    weight = plan.weights[1]
    assert isinstance(weight.scale, tuple)
    edited = _edit(plan, "weights", 1, scale=[weight.scale[0] * 2, *weight.scale[1:]])
    assert _changed(applied(plan), applied(edited)) == {
        f"{weight.tensor}_q",
        f"{weight.tensor}_scale",
    }


def test_a_node_that_is_moved_to_skipped_stays_float() -> None:
    plan = compiled().plan
    node = plan.weights[1].slots[0].node
    edited = msgspec.structs.replace(plan, skipped={**plan.skipped, node: "by hand"})
    assert edited.quantized_nodes() == plan.quantized_nodes() - {node}
    by_name = {n.name: n for n in applied(edited).graph.node}
    original = {n.name: n for n in build.load("residual").graph.node}
    assert list(by_name[node].input) == list(original[node].input)
    for other in edited.quantized_nodes():
        assert by_name[other].input[1].endswith("_dq")


def test_a_plan_whose_nodes_are_all_skipped_changes_nothing_but_metadata() -> None:
    plan = compiled(recipe="int8").plan
    slots = [s.node for d in (*plan.activations, *plan.weights) for s in d.slots]
    edited = msgspec.structs.replace(plan, skipped=dict.fromkeys(slots, "by hand"))
    graph, _ = prepare(build.load("residual"), targets.find("tensorrt"))
    before = graph.proto()
    apply(graph, edited)
    after = graph.proto()
    assert after.graph == before.graph


@pytest.mark.parametrize(
    ("part", "changes", "told"),
    [
        ("activations", {"scale": 0.0}, "scale must be finite and positive"),
        ("activations", {"scale": -1.0}, "scale must be finite and positive"),
        ("activations", {"scale": [0.1, 0.2], "zero_point": [0, 0]}, "quantized per tensor"),
        ("activations", {"zero_point": 3}, "the plan has the zero point 3"),
        ("activations", {"zero_point": [0, 0]}, "the plan has the zero point"),
        ("activations", {"dtype": "float16"}, "a float16 scale for a float32 tensor"),
        ("activations", {"tensor": "nothing"}, "a tensor that the model does not have"),
        (
            "activations",
            {"slots": [{"node": "no", "index": 0, "role": "activation"}]},
            "'no' does not read",
        ),
        ("activations", {"slots": [{"node": "/stem/Conv", "index": 9, "role": "skip"}]}, "input 9"),
        ("weights", {"tensor": "image"}, "a weight that the model does not have"),
        ("weights", {"scale": [0.1, 0.2]}, "the plan has 2 scales, the weight needs"),
        ("weights", {"storage": {"format": "int8", "axis": 9}}, "axis 9 is out of range"),
        ("weights", {"storage": {"format": "int7", "axis": 0}}, "unknown format 'int7'"),
        ("weights", {"dtype": "float16"}, "a float16 scale for a float32 tensor"),
    ],
)
def test_nonsense_in_a_plan_is_the_editors_error(
    part: str, changes: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        applied(_edit(compiled().plan, part, 0, **changes))


@pytest.mark.parametrize(
    ("zero_point", "symmetric", "good"),
    [
        (0, True, True),
        (1, True, False),
        (255, False, True),
        (256, False, False),
        (-1, False, False),
    ],
)
def test_b04_zero_points(zero_point: int, symmetric: bool, good: bool) -> None:
    storage = Storage("int8" if symmetric else "uint8", None, symmetric)
    decision = msgspec.structs.replace(DECISION, storage=storage, zero_point=zero_point)
    if good:
        assert int(decision.qparams().zero_point) == zero_point
        return
    with pytest.raises(InputError) as caught:
        decision.qparams()
    assert caught.value.where == "x"
    assert caught.value.hint


def test_a_zero_point_serves_all_channels() -> None:
    decision = msgspec.structs.replace(DECISION, storage=Storage("int8", 0), scale=(0.5, 0.25))
    np.testing.assert_array_equal(decision.qparams().zero_point, np.zeros(2, np.int8))


def test_every_proposed_node_is_decided_or_skipped() -> None:
    for name in build.names():
        result = compiled(name)
        entries = (*result.points.activations, *result.points.weights)
        proposed = {s.node for p in entries for s in p.slots} | set(result.points.skipped)
        decided = {
            s.node for d in (*result.plan.activations, *result.plan.weights) for s in d.slots
        }
        assert proposed == decided | set(result.plan.skipped)


def test_point_is_a_value() -> None:
    point = Point("x", (Slot("n", 0, "activation"),), STORAGE, "x", "float32")
    assert hash(point) == hash(Point("x", (Slot("n", 0, "activation"),), STORAGE, "x", "float32"))
