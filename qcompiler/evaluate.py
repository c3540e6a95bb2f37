"""A task metric, measured on the original and the compiled model alike.

* an ``.npz`` with the model's inputs and ``labels`` scores a classifier: top-1 accuracy;
* an ``.npz`` with ``tokens`` scores a causal language model: perplexity over consecutive windows;
* ``script.py:function`` scores anything: the function gets a ``run(feeds) -> outputs`` and returns
  a number, or a name and a number.
"""

from __future__ import annotations

import importlib.util
import math
import traceback
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from qcompiler.backends.onnxruntime import OrtSession
from qcompiler.data.spec import InputSpec, Role
from qcompiler.errors import InputError, QCompilerError, UsageError

Array = NDArray[Any]
_T = TypeVar("_T")
Update = Callable[[int, int], None]
Score = tuple[str, float, int]
# Samples that run together; a classifier with a free batch axis takes this many at once.
_BATCH = 64
_WINDOW = 256
_WINDOWS = 64


class Evaluation(Protocol):
    """Something that scores a model, given as a session that runs it as it is written."""

    def score(self, session: OrtSession, specs: Sequence[InputSpec], update: Update) -> Score:
        """Name of the metric, its value, and the number of samples."""


def open_evaluation(source: str) -> Evaluation:
    """The evaluation that a command line names.

    Args:
        source: ``data.npz`` or ``script.py[:function]``.

    Raises:
        InputError: No such file, or it holds neither ``labels`` nor ``tokens``.
    """
    script, _, function = source.rpartition(":")
    if source.endswith(".py") or script.endswith(".py"):
        return Scripted(Path(script or source), function if script else "evaluate")
    path = Path(source)
    try:
        with path.open("rb") as stream, NpzFile(stream, allow_pickle=False) as file:
            arrays = {k: file[k] for k in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(
            f"cannot read the evaluation data: {error}",
            where=source,
            hint="pass an .npz with inputs and `labels`, one with `tokens`, or script.py:function",
        ) from error
    if "labels" in arrays:
        return Labelled(arrays.pop("labels"), arrays, source)
    if "tokens" in arrays:
        return Tokens(arrays["tokens"], source)
    raise InputError(
        f"found {', '.join(sorted(arrays)) or 'nothing'}, expected `labels` or `tokens`",
        where=source,
        hint="a classifier needs its inputs and `labels`, a language model needs `tokens`",
    )


@dataclass(frozen=True)
class Labelled:
    """Top-1 accuracy of a classifier.

    Attributes:
        labels: int [n].
        inputs: Input name -> array whose first axis is the sample.
        source: For messages.
    """

    labels: Array
    inputs: Mapping[str, Array]
    source: str

    def score(self, session: OrtSession, specs: Sequence[InputSpec], update: Update) -> Score:
        """Top-1 accuracy, 0 to 1.

        Raises:
            InputError: Inputs do not fit the model, or no output has one score per class.
        """
        count = len(self.labels)
        if self.labels.ndim != 1:
            raise InputError(
                f"labels has shape {list(self.labels.shape)}, expected one class number a sample",
                where=self.source,
                hint="of one-hot labels take labels.argmax(1)",
            )
        for spec in specs:
            found = self.inputs.get(spec.name)
            if found is None or len(found) != count:
                what = "is missing" if found is None else f"has {len(found)} samples"
                raise InputError(
                    f"input {spec.name!r} {what}, labels has {count}",
                    where=self.source,
                    hint="every input of the model needs one entry a label",
                )
        fixed = next((s.shape[0] for s in specs if s.shape and isinstance(s.shape[0], int)), None)
        batch = fixed or _BATCH
        right = seen = 0
        for start in range(0, count - (count % fixed if fixed else 0), batch):
            part = slice(start, start + batch)
            out = session.run({n: a[part] for n, a in self.inputs.items()})
            labels = self.labels[part]
            right += int((self._classes(out, len(labels)) == labels).sum())
            seen += len(labels)
            update(seen, count)
        if not seen:
            raise InputError(
                f"{count} samples do not fill one batch of {batch}",
                where=self.source,
                hint="pass at least one batch of samples",
            )
        return "top1", right / seen, seen

    def _classes(self, outputs: Mapping[str, Array], batch: int) -> Array:
        for value in outputs.values():
            if value.dtype.kind == "f" and value.ndim >= 2 and value.shape[0] == batch:
                found: Array = value.reshape(batch, -1).argmax(1)
                return found
        raise InputError(
            "no output of the model has one float score per class",
            where=self.source,
            hint="measure it with --eval script.py:function",
        )


@dataclass(frozen=True)
class Tokens:
    """Perplexity of a causal language model over consecutive windows of 256 tokens (64 at most).

    Attributes:
        tokens: int [n].
        source: For messages.
    """

    tokens: Array
    source: str

    def score(self, session: OrtSession, specs: Sequence[InputSpec], update: Update) -> Score:
        """Exp of the mean negative log-likelihood of the next token.

        Raises:
            InputError: The model has no token input, or no output is [batch, window, vocabulary].
        """
        ids = next((s for s in specs if s.role is Role.TOKENS), None)
        if ids is None:
            raise InputError(
                "the model has no input of token ids",
                where=self.source,
                hint="measure it with --eval script.py:function",
            )
        length = ids.shape[-1] if ids.shape and isinstance(ids.shape[-1], int) else _WINDOW
        windows = min(_WINDOWS, (len(self.tokens) - 1) // length)
        if windows < 1:
            raise InputError(
                f"{len(self.tokens)} tokens, one window needs {length + 1}",
                where=self.source,
                hint="pass a longer text",
            )
        loss = 0.0
        for i in range(windows):
            window = self.tokens[i * length : (i + 1) * length + 1].astype(np.int64)
            out = session.run(_feeds(specs, ids, window[None, :-1]))
            loss += self._loss(out, window[1:])
            update(i + 1, windows)
        return "perplexity", math.exp(loss / (windows * length)), windows

    def _loss(self, outputs: Mapping[str, Array], targets: Array) -> float:
        logits = next(
            (v for v in outputs.values() if v.ndim == 3 and v.shape[1] == len(targets)), None
        )
        if logits is None:
            raise InputError(
                "no output of the model is [batch, window, vocabulary]",
                where=self.source,
                hint="measure it with --eval script.py:function",
            )
        wide = logits[0].astype(np.float64)
        wide -= wide.max(-1, keepdims=True)
        chosen = np.take_along_axis(wide, targets[:, None], -1)[:, 0]
        return float((np.log(np.exp(wide).sum(-1)) - chosen).sum())


def _feeds(specs: Sequence[InputSpec], ids: InputSpec, window: Array) -> dict[str, Array]:
    """Feeds for one window: an empty cache, a mask of ones, positions that count up."""
    feeds: dict[str, Array] = {}
    for spec in specs:
        if spec.name == ids.name:
            feeds[spec.name] = window.astype(spec.dtype)
        elif spec.role is Role.CACHE:
            axis = spec.length_axis
            shape = [
                0 if k == axis else d if isinstance(d, int) else 1
                for k, d in enumerate(spec.shape or ())
            ]
            feeds[spec.name] = np.zeros(shape, spec.dtype)
        elif spec.role is Role.MASK:
            feeds[spec.name] = np.ones(window.shape, spec.dtype)
        elif spec.dtype.kind in "iu":
            feeds[spec.name] = np.arange(window.shape[1], dtype=spec.dtype)[None]
        else:
            shape = [d if isinstance(d, int) else 1 for d in spec.shape or ()]
            feeds[spec.name] = np.zeros(shape, spec.dtype)
    return feeds


@dataclass(frozen=True)
class Scripted:
    """A user's function ``f(run) -> float | (name, float)``; ``run(feeds)`` gives the outputs.

    Attributes:
        path: Python file, run with the user's rights.
        function: Its name in that file.
    """

    path: Path
    function: str

    def score(self, session: OrtSession, specs: Sequence[InputSpec], update: Update) -> Score:
        """What the function returns.

        Raises:
            InputError: No such file or function, or it returned no number.
        """
        function = self._load()
        runs = 0

        def run(feeds: Mapping[str, Array]) -> dict[str, Array]:
            nonlocal runs
            runs += 1
            update(runs, 0)
            return session.run(feeds)

        found = self._guarded(lambda: function(run))
        name, value = found if isinstance(found, tuple) else (self.function, found)
        if not isinstance(value, (int, float, np.number)):
            raise InputError(
                f"{self.function} returned {type(value).__name__}, expected a number",
                where=str(self.path),
                hint="return a float, or a name and a float",
            )
        return str(name), float(value), runs

    def _load(self) -> Callable[[Callable[[Mapping[str, Array]], dict[str, Array]]], Any]:
        if not self.path.is_file():
            raise InputError("no such script", where=str(self.path), hint="check the path")
        spec = importlib.util.spec_from_file_location("qcompiler_user_evaluation", self.path)
        if spec is None or spec.loader is None:
            raise UsageError("not a Python file", where=str(self.path), hint="pass a .py file")
        module, loader = importlib.util.module_from_spec(spec), spec.loader
        self._guarded(lambda: loader.exec_module(module))
        function = getattr(module, self.function, None)
        if not callable(function):
            names = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
            raise InputError(
                f"no function {self.function!r}; found {', '.join(names) or 'none'}",
                where=str(self.path),
                hint="name it: --eval script.py:function",
            )
        found: Callable[..., Any] = function
        return found

    def _guarded(self, call: Callable[[], _T]) -> _T:
        """Call the user's code; what it raises is the user's to mend, with the line."""
        try:
            return call()
        except QCompilerError:
            raise
        except Exception as error:  # foreign code may raise anything
            lines = [
                f.lineno
                for f in traceback.extract_tb(error.__traceback__)
                if f.filename == str(self.path)
            ]
            raise InputError(
                f"{type(error).__name__}: {error}",
                where=f"{self.path}, line {lines[-1]}" if lines else str(self.path),
                hint="the script failed; mend it",
            ) from error
