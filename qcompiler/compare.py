"""Two models on the same feeds: how far apart their outputs are."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from qcompiler.backends.onnxruntime import OrtSession

Feeds = Mapping[str, NDArray[Any]]


class Distance(NamedTuple):
    """How far one output is from the reference, over all samples together.

    Attributes:
        sqnr_db: ``10 log10(signal / noise)``; infinite if equal.
        cosine: Cosine similarity.
        divergence: Of logits, the mean over all tokens of ``KL(p || p') = sum p (ln p - ln p')``
            in nats, ``p = softmax(y)``; None of anything else. A text that the reference finds as
            likely as it says has ``exp(KL)`` times its perplexity with the model under test.
    """

    sqnr_db: float
    cosine: float
    divergence: float | None = None


class Sums:
    """Running sums of one output over samples, in float64; its shape must not change."""

    def __init__(self) -> None:
        self.signal = self.noise = self.product = self.energy = 0.0

    def add(self, reference: NDArray[Any], test: NDArray[Any]) -> None:
        """Add one sample, as the reference and as the model under test gave it."""
        r, t = reference.astype(np.float64).reshape(-1), test.astype(np.float64).reshape(-1)
        if r.shape != t.shape:
            self.noise = math.inf
            return
        usable = np.isfinite(r) & np.isfinite(t)
        same = (r == t) | (np.isnan(r) & np.isnan(t))
        if not (usable | same).all():
            self.noise = math.inf
        r, t = r[usable], t[usable]
        d = r - t
        self.signal += float(r @ r)
        self.noise += float(d @ d)
        self.product += float(r @ t)
        self.energy += float(t @ t)

    def sqnr_db(self) -> float:
        """10 log10(signal / noise); inf if equal, -inf if only one of them is finite somewhere."""
        if self.noise == 0:
            return math.inf
        if not math.isfinite(self.noise) or self.signal == 0:
            return -math.inf
        return 10 * math.log10(self.signal / self.noise)

    def cosine(self) -> float:
        """Cosine similarity; 1 if both are zero."""
        norm = math.sqrt(self.signal * self.energy)
        return self.product / norm if norm else float(self.signal == self.energy)


class Tokens:
    """Running mean of the divergence of logits, ``[..., V]``."""

    def __init__(self) -> None:
        self.nats, self.count = 0.0, 0

    def add(self, reference: NDArray[Any], test: NDArray[Any]) -> None:
        """Add one sample; logits that are not finite make the sum infinite."""
        p, q = _log_softmax(reference), _log_softmax(test)
        self.nats += float((np.exp(p) * (p - q)).sum()) if p.shape == q.shape else math.inf
        self.count += p.size // max(p.shape[-1], 1)

    def mean(self) -> float:
        """Nats a token; infinite if one was not finite."""
        return self.nats / self.count if self.count and math.isfinite(self.nats) else math.inf


def _log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    y = logits.astype(np.float64)
    with np.errstate(invalid="ignore"):  # infinite logits give NaN, which counts as infinitely far
        y = y - y.max(-1, keepdims=True)
    return np.asarray(y - np.log(np.exp(y).sum(-1, keepdims=True)))


def outputs_of(
    session: OrtSession,
    samples: Sequence[Feeds],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, NDArray[Any]]]:
    """What a model gives for each sample, kept to be compared with.

    One model is loaded at a time, because two of a large one may not fit into memory.
    """
    found = []
    for done, feeds in enumerate(samples, 1):
        found.append(session.run(feeds))
        progress(done, len(samples))
    return found


def compare(
    expected: Sequence[Mapping[str, NDArray[Any]]],
    session: OrtSession,
    samples: Sequence[Feeds],
    progress: Callable[[int, int], None] = lambda done, total: None,
    *,
    logits: Collection[str] = (),
) -> dict[str, Distance]:
    """Run a model on the same samples as the reference.

    Args:
        expected: The outputs of the reference, one entry a sample.
        session: A model with the same inputs and outputs.
        samples: Feeds.
        progress: Called with samples done and all.
        logits: Outputs whose divergence is wanted.

    Returns:
        Output -> distance. Outputs that hold no numbers are left out.
    """
    sums: dict[str, Sums] = {}
    tokens = {name: Tokens() for name in logits}
    for done, (feeds, reference) in enumerate(zip(samples, expected, strict=True), 1):
        found = session.run(feeds)
        for name, value in reference.items():
            if isinstance(value, np.ndarray) and value.dtype.kind in "fiubV":
                sums.setdefault(name, Sums()).add(value, found[name])
            if name in tokens:
                tokens[name].add(value, found[name])
        progress(done, len(samples))
    return {
        name: Distance(s.sqnr_db(), s.cosine(), tokens[name].mean() if name in tokens else None)
        for name, s in sums.items()
    }
