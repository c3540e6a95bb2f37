"""A plan -> the quantized graph: the apply passes, and what the model says about itself."""

from __future__ import annotations

from qcompiler import __version__
from qcompiler import plan as products
from qcompiler.data.synthetic import WARNING
from qcompiler.graph import Graph
from qcompiler.passes.cast_interface import CastInterface
from qcompiler.passes.cast_precision import CastPrecision
from qcompiler.passes.drop_casts import DropCasts
from qcompiler.passes.insert_dynamic_qdq import InsertDynamicQdq
from qcompiler.passes.insert_qdq import InsertQdq
from qcompiler.passes.merge_qdq import MergeQdq
from qcompiler.passes.quantize_weights import QuantizeWeights
from qcompiler.pipeline import Pass, Pipeline, Step
from qcompiler.plan import QuantPlan
from qcompiler.scan import model_digest
from qcompiler.verify import check_onnx, check_qdq, require_valid


def passes_of(plan: QuantPlan) -> tuple[Pass, ...]:
    """The passes that carry a plan out, in order."""
    narrow = (CastPrecision(to=plan.base, keep=tuple(plan.keep)),) if plan.base != "float32" else ()
    interface = (CastInterface(to=plan.io), DropCasts()) if plan.io != "keep" else ()
    precision = (*narrow, *interface)
    dynamic = any(d.storage.dynamic for d in plan.activations)
    run_time = (InsertDynamicQdq(plan=plan),) if dynamic else ()
    return (InsertQdq(plan=plan), *run_time, QuantizeWeights(plan=plan), MergeQdq(), *precision)


def apply(graph: Graph, plan: QuantPlan) -> tuple[Step, ...]:
    """Carry out a plan on the prepared graph it was made for, in place; then check the result.

    Raises:
        InputError: The plan belongs to another model or was edited into nonsense.
        VerifyError: The result breaks an invariant.
    """
    products.require_digest(plan.model_digest, model_digest(graph), "plan")
    valid = check_onnx(graph) == ""
    steps = Pipeline(passes_of(plan)).run(graph)
    check_qdq(graph)
    if valid:
        require_valid(graph, "apply")
    graph.set_metadata("qcompiler.version", __version__)
    graph.set_metadata("qcompiler.target", plan.target)
    graph.set_metadata("qcompiler.recipe", plan.recipe)
    graph.set_metadata("qcompiler.plan_digest", plan.digest())
    if plan.synthetic:
        graph.set_metadata("qcompiler.warning", WARNING)
    return steps
