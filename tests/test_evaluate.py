"""Task metrics: the three kinds of scorer and what is wrong with one."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.errors import InputError
from qcompiler.evaluate import Evaluation, Scripted, open_evaluation
from qcompiler.inputs import input_specs
from qcompiler.load import load
from tests.hand_made import f32, model

# Two scores a sample: the class is 1 where the second number is the larger.
CLASSIFIER = "g (float[N,2] x) => (float[N,2] y) { y = Identity (x) }"
X = f32([[0, 1], [1, 0], [3, 2], [2, 3], [1, 2]])
LABELS = np.array([1, 0, 0, 0, 1])  # the fourth is wrong


def _score(evaluation: Evaluation, made: ModelProto) -> tuple[tuple[str, float, int], list[Any]]:
    loaded = load(made)
    loaded.infer()
    seen: list[Any] = []
    result = evaluation.score(
        OrtSession(made), input_specs(loaded), lambda done, total: seen.append((done, total))
    )
    return result, seen


def _npz(folder: Path, **arrays: Any) -> str:
    path = folder / "eval.npz"
    np.savez(path, **arrays)
    return str(path)


def test_top1_of_a_classifier(tmp_path: Path) -> None:
    evaluation = open_evaluation(_npz(tmp_path, x=X, labels=LABELS))
    assert _score(evaluation, model(CLASSIFIER)) == (("top1", 0.8, 5), [(5, 5)])


def test_a_fixed_batch_drops_the_incomplete_rest(tmp_path: Path) -> None:
    evaluation = open_evaluation(_npz(tmp_path, x=X, labels=LABELS))
    fixed = model(CLASSIFIER.replace("N", "2"))
    assert _score(evaluation, fixed) == (("top1", 0.75, 4), [(2, 5), (4, 5)])


def test_too_few_samples_for_a_fixed_batch(tmp_path: Path) -> None:
    evaluation = open_evaluation(_npz(tmp_path, x=X, labels=LABELS))
    with pytest.raises(InputError, match="5 samples do not fill one batch of 8"):
        _score(evaluation, model(CLASSIFIER.replace("N", "8")))


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"z": X, "labels": LABELS}, "input 'x' is missing, labels has 5"),
        ({"x": X[:4], "labels": LABELS}, "input 'x' has 4 samples, labels has 5"),
        ({"x": X, "labels": LABELS[:, None]}, r"labels has shape \[5, 1\]"),
        ({"x": X, "labels": np.eye(2)[LABELS]}, r"labels has shape \[5, 2\]"),
    ],
)
def test_data_that_do_not_fit_the_classifier(
    tmp_path: Path, arrays: dict[str, Any], told: str
) -> None:
    evaluation = open_evaluation(_npz(tmp_path, **arrays))
    with pytest.raises(InputError, match=told) as caught:
        _score(evaluation, model(CLASSIFIER))
    assert caught.value.where == str(tmp_path / "eval.npz")
    assert caught.value.hint


def test_a_model_without_scores_is_no_classifier(tmp_path: Path) -> None:
    evaluation = open_evaluation(_npz(tmp_path, x=X, labels=LABELS))
    text = "g (float[N,2] x) => (int64[N,2] y) { y = Cast <to = 7> (x) }"
    with pytest.raises(InputError, match="no output of the model has one float score per class"):
        _score(evaluation, model(text))


# Logits that do not look at the token: every next token has the probability of its row entry.
LANGUAGE = """g (int64[B,S] ids) => (float[B,S,4] y) { y = Gather (T, ids) }"""
TABLE = np.log(f32([[0.5, 0.25, 0.125, 0.125]] * 4))


def test_perplexity_of_a_language_model(tmp_path: Path) -> None:
    tokens = np.resize(np.array([0, 1, 2, 3]), 257)
    evaluation = open_evaluation(_npz(tmp_path, tokens=tokens))
    (name, value, windows), seen = _score(evaluation, model(LANGUAGE, T=TABLE))
    # Each of 0, 1, 2, 3 comes equally often: the mean of 1, 2, 3 and 3 bits.
    assert (name, windows, seen) == ("perplexity", 1, [(1, 1)])
    assert value == pytest.approx(2**2.25, rel=1e-6)


def test_a_fixed_length_is_the_window(tmp_path: Path) -> None:
    evaluation = open_evaluation(_npz(tmp_path, tokens=np.zeros(26, np.int64)))
    made = model(LANGUAGE.replace("B,S", "1,8"), T=TABLE)
    (_, value, windows), _ = _score(evaluation, made)
    assert windows == 3
    assert value == pytest.approx(2, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "count", "told"),
    [
        (LANGUAGE, 256, "256 tokens, one window needs 257"),
        (CLASSIFIER, 300, "no input of token ids"),
        (
            LANGUAGE.replace("4] y", "4,1] y")
            .replace("y = G", "e = G")
            .replace("}", "y = Unsqueeze (e, last) }"),
            300,
            r"no output of the model is \[batch, window, vocabulary\]",
        ),
    ],
)
def test_text_that_does_not_fit_the_model(tmp_path: Path, text: str, count: int, told: str) -> None:
    evaluation = open_evaluation(_npz(tmp_path, tokens=np.zeros(count, np.int64)))
    made = model(text, T=TABLE, last=np.array([3], np.int64))
    with pytest.raises(InputError, match=told):
        _score(evaluation, made)


def test_a_cache_is_fed_empty_and_a_mask_with_ones(tmp_path: Path) -> None:
    text = """g (int64[B,S] ids, int64[B,S] keep, float[B,2,P,4] past)
    => (float[B,S,4] y, float[B,2,Q,4] all) {
      e = Gather (T, ids)
      f = Cast <to = 1> (keep)
      one = Unsqueeze (f, last)
      y = Mul (e, one)
      k = Unsqueeze (e, first)
      two = Concat <axis = 1> (k, k)
      all = Concat <axis = 2> (past, two)
    }"""
    evaluation = open_evaluation(_npz(tmp_path, tokens=np.zeros(257, np.int64)))
    made = model(text, T=TABLE, last=np.array([2], np.int64), first=np.array([1], np.int64))
    assert _score(evaluation, made)[0][1] == pytest.approx(2, rel=1e-6)


# ---------------------------------------------------------------------- scripts


def _script(folder: Path, body: str) -> Path:
    path = folder / "score.py"
    path.write_text(f"import numpy as np\n{body}\n")
    return path


GOOD = """
def evaluate(run):
    return float(run({"x": np.float32([[1, 2]])})["y"].sum())
def named(run):
    run({"x": np.float32([[1, 2]])})
    return "error", np.float32(run({"x": np.float32([[3, 4]])})["y"].sum())
"""


@pytest.mark.parametrize(
    ("suffix", "result"),
    [
        ("", ("evaluate", 3.0, 1)),
        (":evaluate", ("evaluate", 3.0, 1)),
        (":named", ("error", 7.0, 2)),
    ],
)
def test_a_script_scores_anything(
    tmp_path: Path, suffix: str, result: tuple[str, float, int]
) -> None:
    evaluation = open_evaluation(f"{_script(tmp_path, GOOD)}{suffix}")
    assert _score(evaluation, model(CLASSIFIER))[0] == result


@pytest.mark.parametrize(
    ("body", "told", "line"),
    [
        ("def other(run): return 1", "no function 'evaluate'; found other", 0),
        ("x = 1", "no function 'evaluate'; found none", 0),
        ("def evaluate(run): return 'good'", "evaluate returned str, expected a number", 0),
        ("def evaluate(run):\n    return 1 / 0", "ZeroDivisionError: division by zero", 3),
        ("raise ValueError('no data')", "ValueError: no data", 2),
        ("def evaluate(run) return 1", "SyntaxError", 0),
    ],
)
def test_a_script_that_fails_is_the_users_to_mend(
    tmp_path: Path, body: str, told: str, line: int
) -> None:
    path = _script(tmp_path, body)
    with pytest.raises(InputError, match=told) as caught:
        _score(open_evaluation(str(path)), model(CLASSIFIER))
    assert caught.value.where == (f"{path}, line {line}" if line else str(path))
    assert caught.value.hint


def test_a_missing_script(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such script"):
        _score(Scripted(tmp_path / "none.py", "evaluate"), model(CLASSIFIER))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "No such file"),
        (b"", "File is not a zip file"),
        (b"junk", "File is not a zip file"),
        (b"PK\x03\x04 truncated", "File is not a zip file"),
    ],
)
def test_a_file_that_cannot_be_read(tmp_path: Path, content: bytes | None, told: str) -> None:
    path = tmp_path / "eval.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=told):
        open_evaluation(str(path))


def test_a_single_array_is_no_evaluation(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    with pytest.raises(InputError, match="cannot read the evaluation data"):
        open_evaluation(str(tmp_path / "x.npy"))


def test_pickles_are_not_run(tmp_path: Path) -> None:
    path = _npz(tmp_path, labels=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="cannot read the evaluation data"):
        open_evaluation(path)


def test_a_file_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found x, expected `labels` or `tokens`"):
        open_evaluation(_npz(tmp_path, x=X))


def test_scores_are_computed_stably(tmp_path: Path) -> None:
    """Logits in the thousands overflow exp in float64 unless the largest is taken off first."""
    evaluation = open_evaluation(_npz(tmp_path, tokens=np.zeros(257, np.int64)))
    (_, value, _), _ = _score(evaluation, model(LANGUAGE, T=TABLE + np.float32(4000)))
    # float32 holds 4000 to 2^-12: the logits are off by half of that.
    assert math.log(value) == pytest.approx(math.log(2), abs=2**-12)
