"""Triton model repositories: the exact text, what is refused, and nothing half-written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import onnx
import pytest
from onnx import TensorProto

from models import build
from qcompiler.engine import sidecar
from qcompiler.engine.ports import Port
from qcompiler.errors import InputError, UnsupportedError, UsageError
from qcompiler.export import triton
from qcompiler.export.triton import export
from qcompiler.export.triton_config import Serving
from tests.engine import engines
from tests.export.models import FLOAT, Shape, outside, typed


def files(folder: Path) -> list[str]:
    """Every file below a folder, hidden ones too."""
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def body(text: str) -> str:
    """A configuration without its comments."""
    return "".join(x for x in text.splitlines(keepends=True) if not x.startswith("#"))


def plan_of(
    folder: Path,
    library: str = "tensorrt 11.4.0.106",
    profile: tuple[str, str] | None = ("x:1x3x8x8", "x:32x3x8x8"),
    **fields: Any,
) -> Path:
    """A plan of TensorRT with facts about it, made by hand."""
    plan = folder / "net.plan"
    plan.write_bytes(b"ftrt, the plan")
    batch: Shape = ["n"] if profile else [4]
    said = dict(zip(("min-shapes", "max-shapes"), profile, strict=True)) if profile else {}
    facts = msgspec.structs.replace(
        engines.facts("mlp", plan.read_bytes()),
        library=library,
        capabilities=("SM90",),
        options=said,
        inputs=(Port("x", "float32", (*batch, 3, 8, 8)),),
        outputs=(Port("y", "bfloat16", (*batch, 10)),),
    )
    msgspec.structs.replace(facts, **fields).save(sidecar.beside(plan))
    return plan


PLAN = """\
name: "net"
platform: "tensorrt_plan"
max_batch_size: 32
input [
  {
    name: "x"
    data_type: TYPE_FP32
    dims: [ 3, 8, 8 ]
  }
]
output [
  {
    name: "y"
    data_type: TYPE_BF16
    dims: [ 10 ]
  }
]
dynamic_batching {
  preferred_batch_size: [ 8, 32 ]
  max_queue_delay_microseconds: 50
}
instance_group [
  {
    count: 2
    kind: KIND_GPU
  }
]
"""


def test_a_plan_is_served_as_its_facts_say(tmp_path: Path) -> None:
    serving = Serving(preferred=(32, 8), delay_us=50, instances=2)
    done = export(plan_of(tmp_path), tmp_path / "repo", serving=serving)
    assert done.files == ("config.pbtxt", "1/model.plan", "1/model.plan.json")
    assert files(tmp_path / "repo") == [f"net/{name}" for name in sorted(done.files)]
    text = (tmp_path / "repo/net/config.pbtxt").read_text()
    assert text == done.config
    assert body(text) == PLAN
    assert "# Built by tensorrt 11.4.0.106 for SM90: serve it with that very release." in text
    copied = tmp_path / "repo/net/1/model.plan"
    sidecar.require_plan(sidecar.read(sidecar.beside(copied)), copied)


def test_a_fixed_plan_is_not_batched(tmp_path: Path) -> None:
    done = export(plan_of(tmp_path, profile=None), tmp_path / "repo")
    assert (done.max_batch, done.unbatched) == (0, "the first axis of 'x' is fixed at 4")
    assert "max_batch_size: 0" in done.config
    assert "dims: [ 4, 3, 8, 8 ]" in done.config
    assert "dynamic_batching" not in done.config


TYPES = """\
name: "all"
backend: "onnxruntime"
max_batch_size: 0
input [
  {
    name: "a\\"\\nÃ"
    data_type: TYPE_BOOL
    dims: [ -1, 2 ]
  },
  {
    name: "scalar"
    data_type: TYPE_FP16
    dims: [ 1 ]
    reshape: { shape: [ ] }
  },
  {
    name: "text"
    data_type: TYPE_STRING
    dims: [ -1 ]
  },
  {
    name: "wide"
    data_type: TYPE_FP64
    dims: [ 2 ]
  }
]
output [
  {
    name: "a"
    data_type: TYPE_BOOL
    dims: [ -1, 2 ]
  },
  {
    name: "s"
    data_type: TYPE_FP16
    dims: [ 1 ]
    reshape: { shape: [ ] }
  },
  {
    name: "t"
    data_type: TYPE_STRING
    dims: [ -1 ]
  },
  {
    name: "w"
    data_type: TYPE_FP64
    dims: [ 2 ]
  }
]
"""


def test_types_scalars_and_names_with_quotes(tmp_path: Path) -> None:
    model = typed(
        tmp_path / "all.onnx",
        {
            'a"\nÃ': (TensorProto.BOOL, ["n", 2]),
            "scalar": (TensorProto.FLOAT16, []),
            "text": (TensorProto.STRING, [None]),
            "wide": (TensorProto.DOUBLE, [2]),
        },
        {'a"\nÃ': "a", "scalar": "s", "text": "t", "wide": "w"},
    )
    done = export(model, tmp_path / "repo")
    assert body(done.config) == TYPES
    assert done.unbatched == "'scalar' has no axes"


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (TensorProto.INT8, "TYPE_INT8"),
        (TensorProto.UINT8, "TYPE_UINT8"),
        (TensorProto.INT16, "TYPE_INT16"),
        (TensorProto.UINT16, "TYPE_UINT16"),
        (TensorProto.INT32, "TYPE_INT32"),
        (TensorProto.UINT32, "TYPE_UINT32"),
        (TensorProto.INT64, "TYPE_INT64"),
        (TensorProto.UINT64, "TYPE_UINT64"),
    ],
)
def test_integers(tmp_path: Path, kind: int, expected: str) -> None:
    model = typed(tmp_path / "m.onnx", {"x": (kind, ["n", 2])})
    assert export(model, tmp_path / "repo").config.count(f"data_type: {expected}\n") == 2


def test_a_batch_of_scalars_is_reshaped(tmp_path: Path) -> None:
    model = typed(tmp_path / "m.onnx", {"x": (FLOAT, ["n"])})
    config = export(model, tmp_path / "repo").config
    assert "max_batch_size: 8" in config
    assert config.count("dims: [ 1 ]\n    reshape: { shape: [ ] }") == 2
    assert config.endswith("dynamic_batching { }\n")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        (TensorProto.FLOAT8E4M3FN, "float8_e4m3fn, which Triton has no type for"),
        (TensorProto.FLOAT8E5M2, "float8_e5m2, which Triton has no type for"),
        (TensorProto.INT4, "int4, which Triton has no type for"),
        (TensorProto.FLOAT4E2M1, "float4_e2m1fn, which Triton has no type for"),
        (TensorProto.COMPLEX64, "complex64, which Triton has no type for"),
        (TensorProto.BFLOAT16, "bfloat16, which Triton's ONNX Runtime backend has no type for"),
    ],
)
def test_types_that_triton_lacks_are_refused(tmp_path: Path, kind: int, told: str) -> None:
    model = typed(tmp_path / "m.onnx", {"x": (kind, ["n", 2])})
    with pytest.raises(UnsupportedError, match="input 'x' is") as raised:
        export(model, tmp_path / "repo")
    assert told in raised.value.message
    assert files(tmp_path) == ["m.onnx"]


@pytest.mark.parametrize("dtype", ["float64", "int16", "uint16", "uint32", "uint64", "string"])
def test_types_that_a_plan_cannot_have_in_triton(tmp_path: Path, dtype: str) -> None:
    plan = plan_of(tmp_path, outputs=(Port("y", dtype, ("n", 2)),))
    with pytest.raises(UnsupportedError, match=r"output 'y' is .*TensorRT backend"):
        export(plan, tmp_path / "repo")


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"x": ["n", 2], "z": ["m", 2]}, "'n', that of 'z' 'm', so they may not be one batch"),
        ({"x": [None, 2]}, "the first axis of 'x' has no name, so it may not be the batch"),
        ({"x": ["n", 2], "z": [1, 2]}, "the first axis of 'z' is fixed at 1"),
    ],
)
def test_what_is_no_certain_batch_is_not_batched(
    tmp_path: Path, inputs: dict[str, Shape], reason: str
) -> None:
    model = typed(tmp_path / "m.onnx", {n: (FLOAT, shape) for n, shape in inputs.items()})
    done = export(model, tmp_path / "repo")
    assert done.max_batch == 0
    assert done.unbatched.endswith(reason)


def test_the_user_may_say_that_it_is_a_batch(tmp_path: Path) -> None:
    model = typed(tmp_path / "m.onnx", {"x": (FLOAT, [None, 2])})
    done = export(model, tmp_path / "repo", serving=Serving(max_batch=3))
    assert (done.max_batch, done.unbatched) == (3, "")
    done = export(model, tmp_path / "repo", serving=Serving(max_batch=0), overwrite=True)
    assert (done.max_batch, done.unbatched) == (0, "")
    assert "dims: [ -1, 2 ]" in done.config


@pytest.mark.parametrize(
    ("profile", "wanted", "told"),
    [
        (("x:1x3x8x8", "x:4x3x8x8"), 8, "the engine's profile ends at 4"),
        (("x:2x3x8x8", "x:4x3x8x8"), 4, "the engine's profile begins at 2"),
        (None, 4, "the first axis of 'x' is fixed at 4"),
    ],
)
def test_batches_outside_the_profile_are_refused(
    tmp_path: Path, profile: tuple[str, str] | None, wanted: int, told: str
) -> None:
    plan = plan_of(tmp_path, profile=profile)
    with pytest.raises(UnsupportedError, match=told):
        export(plan, tmp_path / "repo", serving=Serving(max_batch=wanted))


@pytest.mark.parametrize(
    ("serving", "told"),
    [
        (Serving(max_batch=-1), "must not be negative"),
        (Serving(max_batch=4, preferred=(5,)), "--preferred-batch 5 is not from 1 to 4"),
        (Serving(max_batch=0, delay_us=5), "nothing is batched"),
        (Serving(max_batch=1, preferred=(1,)), "nothing is batched"),
        (Serving(instances=0), "--instances must be at least 1"),
        (Serving(delay_us=-1), "--queue-delay-us must not be negative"),
    ],
)
def test_numbers_out_of_range(tmp_path: Path, serving: Serving, told: str) -> None:
    model = typed(tmp_path / "m.onnx", {"x": (FLOAT, ["n", 2])})
    with pytest.raises(UsageError, match=told):
        export(model, tmp_path / "repo", serving=serving)


@pytest.mark.parametrize("name", ["../up", "a b", ".hidden", "a/b", "é"])
def test_names_that_are_no_folder_of_triton(tmp_path: Path, name: str) -> None:
    model = typed(tmp_path / "m.onnx", {"x": (FLOAT, ["n", 2])})
    with pytest.raises(UsageError, match="cannot be the name"):
        export(model, tmp_path / "repo", name=name)


# ---------------------------------------------------------------------- plans


def test_a_plan_for_rtx_is_refused_unless_forced(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, library="tensorrt-rtx 1.7.1.116")
    with pytest.raises(UnsupportedError, match="cannot load a plan of TensorRT for RTX"):
        export(plan, tmp_path / "repo")
    assert not (tmp_path / "repo").exists()
    assert body(export(plan, tmp_path / "repo", force=True).config).startswith('name: "net"')


def test_a_plan_for_rtx_without_facts_is_known_by_its_first_bytes(tmp_path: Path) -> None:
    plan = tmp_path / "net.plan"
    plan.write_bytes(b"vtrt\0\0\0\0")
    with pytest.raises(UnsupportedError, match="cannot load a plan of TensorRT for RTX"):
        export(plan, tmp_path / "repo")


def test_a_plan_without_facts_takes_the_model_beside_it(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    sidecar.beside(plan).unlink()
    with pytest.raises(InputError, match="nothing says which inputs and outputs") as raised:
        export(plan, tmp_path / "repo")
    assert "net.onnx" in raised.value.hint
    typed(tmp_path / "net.onnx", {"x": (FLOAT, ["n", 2])})
    done = export(plan, tmp_path / "repo")
    assert done.files == ("config.pbtxt", "1/model.plan")
    assert "nothing proves" in done.notes[0]


def test_old_facts_take_the_model_they_name_if_it_is_the_same(tmp_path: Path) -> None:
    model = typed(tmp_path / "was.onnx", {"x": (FLOAT, ["n", 3, 8, 8])})
    fields: dict[str, Any] = {"inputs": (), "outputs": (), "model": model.name}
    plan = plan_of(tmp_path, **fields)
    with pytest.raises(InputError, match="is not the one it was built from"):
        export(plan, tmp_path / "repo")
    plan = plan_of(tmp_path, **fields, model_digest=sidecar.digest(model))
    done = export(plan, tmp_path / "repo")
    assert done.notes == ("inputs and outputs are those of was.onnx",)
    assert done.max_batch == 32


def test_a_plan_with_the_facts_of_another_is_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    plan.write_bytes(b"ftrt, another")
    with pytest.raises(InputError, match="is not the one that these facts describe"):
        export(plan, tmp_path / "repo")


# ---------------------------------------------------------------------- files


def test_weights_in_other_files_go_along(tmp_path: Path) -> None:
    model = outside(tmp_path / "in")
    done = export(model, tmp_path / "repo")
    folder = tmp_path / "repo/big/1/model.onnx"
    assert done.files == (
        "config.pbtxt",
        "1/model.onnx/model.onnx",
        "1/model.onnx/weights/w.bin",
    )
    assert (folder / "model.onnx").read_bytes() == model.read_bytes()
    onnx.checker.check_model(str(folder / "model.onnx"))


def test_other_versions_and_files_stay(tmp_path: Path) -> None:
    model, repo = tmp_path / "mlp.onnx", tmp_path / "repo"
    onnx.save(build.load("mlp"), model)
    export(model, repo)
    (repo / "mlp/labels.txt").write_text("a\nb\n")
    (repo / "mlp/1/mine.txt").write_text("mine")
    export(model, repo, version=2)
    kept = ["1/mine.txt", "1/model.onnx", "2/model.onnx", "config.pbtxt", "labels.txt"]
    assert files(repo / "mlp") == kept
    with pytest.raises(UsageError, match="would be replaced") as raised:
        export(model, repo, version=2)
    assert raised.value.where == str(repo / "mlp/2")
    with pytest.raises(UsageError, match="would be replaced") as raised:
        export(model, repo, version=3, serving=Serving(instances=2))
    assert raised.value.where == str(repo / "mlp/config.pbtxt")
    export(model, repo, version=1, serving=Serving(instances=2), overwrite=True)
    kept.remove("1/mine.txt")
    assert files(repo / "mlp") == kept
    assert "instance_group" in (repo / "mlp/config.pbtxt").read_text()


@pytest.mark.parametrize("existed", [True, False])
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, existed: bool
) -> None:
    model, repo = tmp_path / "mlp.onnx", tmp_path / "repo"
    onnx.save(build.load("mlp"), model)
    if existed:
        export(model, repo)
    before = files(tmp_path)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(triton, "copy_model", full)
    with pytest.raises(InputError, match="No space left"):
        export(model, repo, overwrite=True, serving=Serving(instances=3))
    assert files(tmp_path) == before
    assert repo.exists() is existed


def test_the_same_export_gives_the_same_bytes(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    for name in ("one", "two"):
        export(plan, tmp_path / name)
    one, two = tmp_path / "one", tmp_path / "two"
    assert files(one) == files(two)
    assert all((one / n).read_bytes() == (two / n).read_bytes() for n in files(one))
