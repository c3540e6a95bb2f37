"""What a finished graph is worth: the same samples through it and through the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from qcompiler.backends import onnxruntime as ort
from qcompiler.compare import Distance, compare, outputs_of
from qcompiler.data.spec import InputSpec
from qcompiler.errors import BackendError, UnsupportedError
from qcompiler.evaluate import Evaluation
from qcompiler.graph import Graph
from qcompiler.options import Options
from qcompiler.progress import Journal
from qcompiler.report import Metric, OutputError
from qcompiler.running import fed, judged, obstacle, runnable

Source = str | Path | bytes | ModelProto


@dataclass(frozen=True)
class Judge:
    """Compares a finished graph with the original.

    Attributes:
        source: The original model.
        held_out: Samples that were not calibrated on.
        narrow: Inputs that are 16 bits wide in the original.
        logits: Outputs whose divergence is wanted.
        options: Custom operators, and who is told of the progress.
        journal: Told the stages, and what is odd.
    """

    source: Source
    held_out: Sequence[Mapping[str, Any]]
    narrow: frozenset[str]
    logits: frozenset[str]
    options: Options
    journal: Journal

    def verify(self, graph: Graph, base: str) -> tuple[OutputError, ...]:
        """How far its outputs are from the original's, over the samples that were held out.

        Args:
            graph: The finished graph.
            base: Element type of its float tensors.
        """
        if not self.held_out:
            return ()
        with self.journal.stage("verify"):
            return self._compare(graph, base)

    def _compare(self, graph: Graph, base: str) -> tuple[OutputError, ...]:
        why = obstacle(graph, base)
        custom, update = self.options.custom_ops, self.options.progress.update
        optimized: dict[str, Distance] = {}
        with judged(graph, base, self.narrow) as model:
            if why:
                self.journal.warn(_not_run(why, verified=model is not None))
            if model is None:
                return ()
            with ort.OrtSession(_original(self.source), custom_ops=custom) as session:
                expected = outputs_of(session, self.held_out, update)
            with ort.OrtSession(model, custom_ops=custom) as session:
                feeds = fed(model, self.held_out)
                plain = compare(expected, session, feeds, update, logits=self.logits)
        with runnable(graph) as model:
            try:
                if not why:
                    with ort.OrtSession(model, level="all", custom_ops=custom) as session:
                        feeds = fed(model, self.held_out)
                        optimized = compare(expected, session, feeds, update)
            except (BackendError, UnsupportedError) as error:
                self.journal.warn(f"with its graph optimizations on, {error.message}")
        found = tuple(OutputError.of(n, pair, optimized.get(n)) for n, pair in plain.items())
        broken = [o for o in found if o.breaks_when_optimized]
        if broken:
            self.journal.warn(
                f"with its graph optimizations on, ONNX Runtime computes something else "
                f"(output {broken[0].output}: {broken[0].sqnr_db_optimized:.0f} dB instead of "
                f"{broken[0].sqnr_db:.0f} dB); run the model with them off"
            )
        return found

    def evaluate(
        self,
        graph: Graph,
        specs: tuple[InputSpec, ...],
        base: str,
        evaluation: Evaluation | None,
    ) -> Metric | None:
        """The user's metric of the original and of the finished graph, if there is one.

        Args:
            graph: The finished graph.
            specs: The inputs of the original.
            base: Element type of its float tensors.
            evaluation: Data and how to score them.
        """
        if evaluation is None:
            return None
        custom, update = self.options.custom_ops, self.options.progress.update
        with self.journal.stage("evaluate"), judged(graph, base, self.narrow) as model:
            if model is None:
                self.journal.warn(_not_run(obstacle(graph, base), verified=False))
                return None
            with ort.OrtSession(_original(self.source), custom_ops=custom) as session:
                name, before, samples = evaluation.score(session, specs, update)
            with ort.OrtSession(model, custom_ops=custom) as session:
                _, after, _ = evaluation.score(session, specs, update)
        return Metric(name, before, after, samples)


def _not_run(why: str, *, verified: bool) -> str:
    how = "figures are of the same graph in float32, every tensor rounded to 16 bits"
    return f"the result was not run as it is: {why}; {how if verified else 'nothing was verified'}"


def _original(source: Source) -> ModelProto | bytes | Path:
    """The user's model as ONNX Runtime loads it."""
    return Path(source) if isinstance(source, str) else source
