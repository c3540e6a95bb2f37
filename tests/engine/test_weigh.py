"""INT8 is kept where the compiler's kernels say that it is faster, and nowhere else."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from models import build
from qcompiler import recipe as recipes
from qcompiler import targets
from qcompiler.engine import gpus, weigh
from qcompiler.engine.by_hand import pays
from qcompiler.engine.fixed import fixed, opt_shapes
from qcompiler.engine.shapes import Shapes
from qcompiler.engine.target_string import parse
from qcompiler.engine.trial import Trials, owners_of, placeholder
from qcompiler.engine.weigh import Question, quantized, weighed
from qcompiler.errors import BackendError, InputError, UsageError
from qcompiler.graph import Graph, label
from qcompiler.plan import Points
from qcompiler.prepare import prepare
from qcompiler.progress import Journal, Silent
from qcompiler.scan import scan
from tests.hand_made import graph

HALF = recipes.find("int8+fp16")
RTX = targets.find("tensorrt-rtx:sm89")
CARD = gpus.find("RTX 4090")
QUESTION = Question(parse("tensorrt-rtx:sm89"), CARD)


def _wide() -> Graph:
    """A convolution with much arithmetic a byte, and one with next to none."""
    return graph(
        """g (float[8,512,32,32] x) => (float[8,16,32,32] y) {
          [wide] a = Conv <pads = [1, 1, 1, 1]> (x, A)
          b = Relu (a)
          [thin] y = Conv (b, B)
        }""",
        A=(512, 512, 3, 3),
        B=(16, 512, 1, 1),
    )


def _thin() -> Graph:
    return graph(
        """g (float[N,16,64,64] x) => (float[N,16,64,64] y) {
          [one] a = Conv <pads = [1, 1, 1, 1]> (x, A)
          b = Relu (a)
          [two] y = Conv (b, B)
        }""",
        A=(16, 16, 3, 3),
        B=(16, 16, 1, 1),
    )


def _weighed(made: Graph, journal: Journal | None = None, **said: Any) -> Points:
    return weighed(
        made,
        scan(made, HALF, RTX),
        HALF,
        said.get("target", RTX),
        shapes=said.get("shapes", Shapes()),
        card=said.get("card"),
        journal=journal or Journal(Silent()),
    )


def test_a_wide_convolution_is_quantized_and_a_thin_one_is_not() -> None:
    found = _weighed(_wide())
    assert quantized(found) == {"wide"}
    assert found.skipped["thin"].startswith("slower than FP16 on this target: 1 such nodes take ")
    assert "(estimate, RTX 4090, kernels of tensorrt-rtx 1." in found.skipped["thin"]
    assert {p.tensor for p in found.activations} == {"x"}


def test_where_nothing_pays_nothing_is_quantized() -> None:
    """The demo: 16 to 64 channels never reach the ridge."""
    made, _ = prepare(build.load("resnet20"), RTX)
    found = _weighed(made)
    assert quantized(found) == set()
    assert (found.activations, found.weights) == ((), ())
    reasons = {r for r in found.skipped.values() if "INT8 is not faster than FP16" in r}
    assert len(reasons) == 1
    assert sum(r in reasons for r in found.skipped.values()) == 21


def test_the_answer_is_never_slower_than_float_by_the_estimate() -> None:
    made = _wide()
    work = Trials(fixed(made, Shapes()), HALF, QUESTION.engine, CARD)
    proposed = scan(made, HALF, RTX)
    none = work.run(scan(made, HALF, RTX, dict.fromkeys(quantized(proposed), "")))
    best = work.run(_weighed(made))
    assert best.seconds < none.seconds
    assert best.seconds <= work.run(proposed).seconds
    # Every kernel has its owner: the shares make up the whole, launches included.
    assert math.isclose(sum(best.by_node.values()), best.seconds, rel_tol=1e-9)


def test_other_targets_are_not_weighed() -> None:
    made = _thin()
    points = scan(made, HALF, targets.find("tensorrt"))
    target = targets.find("tensorrt")
    journal = Journal(Silent())
    same = weighed(made, points, HALF, target, shapes=Shapes(), card=None, journal=journal)
    assert same is points
    assert not journal.timings


@pytest.mark.parametrize("problem", ["missing", "large", "shapes"])
def test_without_a_compiler_the_roofline_judges_and_says_so(
    problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = Shapes()
    if problem == "missing":

        def absent(_target: object) -> str:
            raise BackendError("it is not installed")

        monkeypatch.setattr(type(QUESTION.engine), "require", absent)
    elif problem == "large":
        monkeypatch.setattr(weigh, "MOST_BYTES", 1)
    else:
        shapes = Shapes(opt={"nobody": (1,)})
    journal = Journal(Silent())
    made = _wide()
    found = _weighed(made, journal, shapes=shapes)
    assert quantized(found) == {"wide"}
    assert "nothing was compiled" in found.skipped["thin"]
    (warning,) = journal.warnings
    assert "without the compiler" in warning


def test_a_card_of_another_capability_is_refused() -> None:
    with pytest.raises(UsageError, match="RTX 3090 is SM86"):
        _weighed(_thin(), card="RTX 3090")


def test_a_capability_without_figures_is_told() -> None:
    journal = Journal(Silent())
    found = _weighed(_thin(), journal, target=targets.find("tensorrt-rtx:sm121"))
    assert quantized(found) == {"one", "two"}
    assert "no figures for a card" in journal.warnings[0]


def test_r3_a_convolution_pays_from_about_three_times_the_ridge_on() -> None:
    """K = k k C against 3 R16 / B, with the batch and the image so large that weights vanish."""

    def layer(channels: int) -> Graph:
        return graph(
            f"""g (float[64,{channels},64,64] x) => (float[64,{channels},62,62] y) {{
              y = Conv (x, W)
            }}""",
            W=np.zeros((channels, channels, 3, 3), np.float32),
        )

    ridge = CARD.rate("fp16") / (CARD.bandwidth * 1e9)
    low, high = (int(3 * ridge / 9 * factor) for factor in (0.5, 1.5))
    for channels, answer in ((low, False), (high, True)):
        made = layer(channels)
        assert pays(made, made.nodes[0], CARD) is answer


def test_a_slow_memory_makes_fewer_convolutions_pay() -> None:
    made = _wide()
    node = made.nodes[0]
    assert pays(made, node, CARD)
    assert not pays(made, node, replace(CARD, bandwidth=CARD.bandwidth / 100))


def test_dynamic_inputs_are_fixed_at_the_opt_shapes() -> None:
    made = _thin()
    assert opt_shapes(made, Shapes()) == {"x": (4, 16, 64, 64)}
    given = Shapes(opt={"x": (2, 16, 64, 64)})
    at = fixed(made, given)
    assert at.inputs[0].shape == [2, 16, 64, 64]
    assert at.outputs[0].shape == [2, 16, 64, 64]
    assert made.inputs[0].shape == ["N", 16, 64, 64]
    with pytest.raises(InputError):
        opt_shapes(made, Shapes(opt={"x": (2, 17, 64, 64)}))


def test_a_kernel_without_a_product_belongs_to_its_reader_or_else_to_its_maker() -> None:
    made = graph(
        """g (float[4,32] x) => (float[4,32] z, float[4,32] lone) {
          [before] a = Relu (x)
          [one] b = MatMul (a, W)
          [between] c = Tanh (b)
          [two] d = MatMul (c, V)
          [after] z = Sigmoid (d)
          [apart] lone = Neg (x)
        }""",
        W=(32, 32),
        V=(32, 32),
    )
    assert owners_of(made) == {"before": "one", "between": "two", "after": "two"}


def test_placeholders_are_equal_only_within_a_group() -> None:
    made = _wide()
    points = scan(made, HALF, RTX)
    plan = placeholder(made, points, HALF)
    assert plan.base == "float16"
    scales = [d.scale for d in plan.activations]
    assert len(set(scales)) == len({p.group for p in points.activations}) == 2
    assert {label(n) for n in made.nodes if n.op == "Conv"} == plan.quantized_nodes()
