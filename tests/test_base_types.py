"""The recipes fp16 and bf16 and what they compose: islands, inputs and outputs, and real builds."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto

from models import build
from qcompiler import driver
from qcompiler import plan as products
from qcompiler import recipe as recipes
from qcompiler.backends import tensorrt
from qcompiler.calibrate import Statistics
from qcompiler.data.synthetic import WARNING
from qcompiler.driver import Options, Result
from qcompiler.errors import UnsupportedError, UsageError
from qcompiler.load import load
from qcompiler.passes.cast_interface import CastInterface
from qcompiler.pipeline import Pipeline
from qcompiler.plan import QuantPlan
from tests.contract.running import session
from tests.hand_made import model, normal

# x / |x| with |x|^2 of 32 values around 1000: the sum of the squares is 3e7.
LARGE = """g (float[4,32] x) => (float[4,8] y) <float k = {1000}, int64[1] last = {-1}> {
  [first] h = MatMul (x, W)
  [grow] a = Mul (h, k)
  [square] b = Mul (a, a)
  [sum] c = ReduceSum (b, last)
  [root] d = Sqrt (c)
  [quotient] e = Div (a, d)
  [second] y = MatMul (e, V)
}"""
DATA = {"x": normal("data", (64, 32)) * 6}


def _large() -> ModelProto:
    return model(LARGE, W=(32, 32), V=(32, 8))


def _types(result: Result) -> list[int]:
    graph = result.model().graph
    return [v.type.tensor_type.elem_type for v in (*graph.input, *graph.output)]


def test_what_exceeds_65504_stays_finite_and_is_named() -> None:
    result = driver.compile(_large(), data=DATA, recipe="fp16")
    assert list(result.plan.keep) == ["square", "sum", "root"]
    assert result.report.kept == result.plan.keep
    assert "float16 ends at 65504" in result.plan.keep["square"]
    (output,) = result.report.outputs
    assert output.sqnr_db > 50
    types = {n.name: {str(t.dtype) for t in (*n.inputs, *n.outputs)} for n in result.graph.nodes}
    assert types["sum"] >= {"float32"}
    assert types["first"] == types["second"] == {"float16"}
    # Into the island, out of it, and the two of the border.
    assert sum(n.op == "Cast" for n in result.graph.nodes) == 4


def test_without_its_islands_the_same_graph_is_worthless() -> None:
    """The plan is edited: nothing is kept, and the report shows what a GPU would compute."""
    plan = driver.compile(_large(), data=DATA, recipe="fp16").plan
    bare = msgspec.structs.replace(plan, keep={})
    result = driver.compile(_large(), data=DATA, recipe="fp16", options=Options(plan=bare))
    assert result.report.outputs[0].sqnr_db < 3
    assert result.report.kept == {}


def test_a_plan_with_islands_is_read_back_and_carried_out(tmp_path: Path) -> None:
    first = driver.compile(_large(), data=DATA, recipe="fp16")
    products.save(first.plan, tmp_path / "plan.json")
    plan = products.read(tmp_path / "plan.json", QuantPlan)
    assert plan == first.plan
    again = driver.compile(_large(), recipe="fp16", options=Options(plan=plan))
    assert again.model() == first.model()


def test_saved_statistics_give_the_same_islands(tmp_path: Path) -> None:
    first = driver.compile(_large(), data=DATA, recipe="fp16")
    assert first.statistics is not None
    first.statistics.save(tmp_path / "stats.npz")
    stats = Statistics.read(tmp_path / "stats.npz")
    again = driver.compile(_large(), recipe="fp16", options=Options(statistics=stats))
    assert again.plan.keep == first.plan.keep


def test_islands_stand_beside_quantized_products() -> None:
    result = driver.compile(_large(), data=DATA, recipe="int8+fp16")
    assert {"square", "sum", "root"} <= set(result.plan.keep)
    assert result.plan.quantized_nodes() == {"first"}  # the other has 8 outputs: it does not pay
    for node in result.graph.nodes:
        source = result.graph.producer(node.inputs[0])
        assert not (node.op == "Cast" and source is not None and source.op == "DequantizeLinear")
    assert result.report.outputs[0].sqnr_db > 25


def test_made_up_data_are_mentioned_only_if_something_depends_on_them() -> None:
    harmless = driver.compile(build.load("mlp"), recipe="fp16")
    assert harmless.report.warnings == ()
    assert not harmless.plan.synthetic
    large = driver.compile(_large(), recipe="fp16")
    assert large.plan.keep
    assert large.plan.synthetic
    assert WARNING in large.report.warnings


def test_a_convolution_in_bfloat16() -> None:
    """Its schema takes bfloat16 from opset 22 on; ONNX Runtime cannot run it, and that is said."""
    data = {"x": normal("images", (8, 3, 8, 8))}
    text = """g (float[N,3,8,8] x) => (float[N,4,6,6] y) {
      c = Conv (x, W)
      y = Relu (c)
    }"""
    result = driver.compile(model(text, W=(4, 3, 3, 3)), data=data, recipe="bf16")
    assert result.graph.opset == 22
    assert [n.op for n in result.graph.nodes] == ["Cast", "Conv", "Relu", "Cast"]
    assert {t.data_type for t in result.model().graph.initializer} == {TensorProto.BFLOAT16}
    (output,) = result.report.outputs
    assert 35 < output.sqnr_db < 60
    assert output.sqnr_db_optimized is None
    (warning,) = result.report.warnings
    assert "no bfloat16 kernels" in warning
    assert "rounded to 16 bits" in warning


def test_a_recurrent_operator_in_float16_is_not_run_directly() -> None:
    text = """g (float[5,1,8] x) => (float[5,1,1,8] y) {
      y = LSTM <hidden_size = 8> (x, W, R)
    }"""
    source = model(text, W=(1, 32, 8), R=(1, 32, 8))
    result = driver.compile(source, data={"x": normal("steps", (4, 5, 1, 8))}, recipe="fp16")
    assert result.report.outputs[0].sqnr_db > 35
    assert "crashes on a float16 LSTM" in result.report.warnings[0]


@pytest.mark.parametrize("recipe", ["bf16", "int8+bf16"])
def test_bfloat16_is_refused_on_turing(recipe: str) -> None:
    with pytest.raises(UnsupportedError, match=r"tensorrt-rtx:sm75 is for 7\.5") as caught:
        driver.compile(build.load("mlp"), recipe=recipe, target="tensorrt-rtx:sm75")
    assert "fp16" in caught.value.hint


# ---------------------------------------------------------------------- inputs and outputs


def test_inputs_and_outputs_in_float16() -> None:
    text = "g (float[4,32] x) => (float[4,32] y) { y = MatMul (x, W) }"
    options = Options(io="float16")
    data = {"x": normal("data", (32, 32))}
    result = driver.compile(model(text, W=(32, 32)), data=data, recipe="fp16", options=options)
    assert [n.op for n in result.graph.nodes] == ["MatMul"]
    assert _types(result) == [TensorProto.FLOAT16] * 2
    assert result.plan.io == "float16"
    (output,) = result.report.outputs
    assert output.sqnr_db > 55
    assert output.sqnr_db_optimized is not None
    x = np.ones((4, 32), np.float16)
    assert session(result.model()).run(None, {"x": x})[0].dtype == np.float16


def test_a_cache_goes_out_and_in_without_casts() -> None:
    plain, narrow = (
        driver.compile(build.load("decoder_kv"), recipe="fp16", options=Options(io=io))
        for io in ("keep", "float16")
    )
    casts = [sum(n.op == "Cast" for n in r.graph.nodes) for r in (plain, narrow)]
    assert casts[0] - casts[1] >= 4
    assert set(_types(narrow)) & {TensorProto.FLOAT, TensorProto.FLOAT16} == {TensorProto.FLOAT16}
    assert all(o.sqnr_db > 45 for o in narrow.report.outputs)


def test_a_float16_model_for_a_program_with_float32() -> None:
    source = model("g (float16[2] x) => (float16[2] y) { y = Tanh (x) }")
    result = driver.compile(source, recipe="fp16", options=Options(io="float32"))
    assert _types(result) == [TensorProto.FLOAT] * 2
    assert [n.op for n in result.graph.nodes] == ["Cast", "Tanh", "Cast"]


@pytest.mark.parametrize("recipe", ["int8", "bf16", "int8+bf16", "fp8"])
def test_float16_at_the_border_of_something_else_makes_no_sense(recipe: str) -> None:
    with pytest.raises(UsageError, match="gain nothing") as caught:
        driver.compile(build.load("mlp"), recipe=recipe, options=Options(io="float16"))
    assert "--io-dtype keep" in caught.value.hint


CAPTURED = """g (float[2] x, bool c) => (float[2] y, float[2] z) {
  y = Neg (x)
  z = If (c) <
    then_branch = t () => (float[2] p) { p = Exp (y) },
    else_branch = e () => (float[2] q) { q = Identity (y) }
  >
}"""


def test_an_output_that_a_sub_graph_reads_in_float32_keeps_its_type() -> None:
    graph = load(model(CAPTURED))
    graph.infer()
    with pytest.raises(UnsupportedError, match="a sub-graph reads it") as caught:
        Pipeline((CastInterface(to="float16"),)).run(graph)
    assert caught.value.where == "y"


def test_an_output_that_a_sub_graph_reads_in_float16() -> None:
    result = driver.compile(model(CAPTURED), recipe="fp16", options=Options(io="float16"))
    assert _types(result) == [TensorProto.FLOAT16, TensorProto.BOOL, *[TensorProto.FLOAT16] * 2]


def test_a_recipe_says_it_too(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = "mine"\nquantize = false\nbase = "float16"\nio = "float16"\n')
    assert recipes.find(str(path)).io == "float16"
    result = driver.compile(build.load("mlp"), recipe=str(path))
    assert set(_types(result)) == {TensorProto.FLOAT16}


# ---------------------------------------------------------------------- TensorRT for RTX


@pytest.mark.parametrize("name", ["attention", "branch_if", "decoder_kv", "residual", "resnet20"])
@pytest.mark.parametrize("recipe", ["bf16", "int8+bf16"])
def test_bfloat16_builds_for_ada_and_not_for_turing(name: str, recipe: str, tmp_path: Path) -> None:
    options = Options(force=True)
    result = driver.compile(build.load(name), recipe=recipe, options=options)
    path = tmp_path / "model.onnx"
    onnx.save(result.model(), path)
    assert tensorrt.build(path, capability="SM89").accepted
    refused = tensorrt.build(path, capability="SM75")
    assert (refused.accepted, refused.stage) == (False, "build")


def test_an_island_costs_no_kernel(tmp_path: Path) -> None:
    """Pointwise float32 between Casts, with 16-bit products around it (placement rule R8)."""
    text = """g (float[64,256] x) => (float[64,256] y) {
      a = MatMul (x, W)
      [gelu] b = Gelu (a)
      y = MatMul (b, V)
    }"""
    kernels = []
    for keep in ({}, {"gelu": "for the test"}):
        source = model(text, W=(256, 256), V=(256, 256))
        first = driver.compile(source, recipe="fp16")
        plan = msgspec.structs.replace(first.plan, keep=keep)
        result = driver.compile(source, recipe="fp16", options=Options(plan=plan))
        path = tmp_path / "model.onnx"
        onnx.save(result.model(), path)
        verdict = tensorrt.build(path, capability="SM89", keep_log=True)
        listing = verdict.log[verdict.log.index("Layers:") :]
        kernels.append(listing.count("LayerType:"))
    assert kernels[0] == kernels[1] > 0


def test_what_onnxruntime_has_no_16_bit_kernel_for_is_written_with_a_warning() -> None:
    """TensorRT has one; the figures are those of the simulation in float32."""
    text = """g (float[4] x, float[2] u) => (float[4] y) <int64[2,1] at = {1, 3}> {
      h = Neg (x)
      s = ScatterND <reduction = "add"> (h, at, u)
      y = Neg (s)
    }"""
    data = {"x": normal("x", (16, 4)), "u": normal("u", (16, 2))}
    report = driver.compile(model(text), data=data, recipe="fp16", target="tensorrt").report
    assert any("MLFloat16 data type is not supported" in w for w in report.warnings)
    (output,) = report.outputs
    assert output.sqnr_db > 50
    assert output.sqnr_db_optimized is None
