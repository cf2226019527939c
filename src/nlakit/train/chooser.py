"""The choice of a checkpoint in joint RL."""

from __future__ import annotations

from nlakit.engines.base import PolicyEngine
from nlakit.models.reconstructor import Reconstructor

from . import distributed
from .evaluation import HeldOut, Scores
from .run import RunDirectory, read_json, write_json


class Chooser:
    """Keeps the best checkpoint so far by the stated rule, and its figures, on disk.

    Best is the highest held-out FVE among the checkpoints whose claim precision is at most
    `precision_slack` below the warm start's.
    """

    def __init__(
        self,
        run: RunDirectory,
        held_out: HeldOut,
        engine: PolicyEngine,
        frozen: Reconstructor,
        precision_slack: float,
    ):
        self.held_out, self.engine, self.frozen = held_out, engine, frozen
        self.precision_slack = precision_slack
        self.directory = run.path / "best"
        self.run = run

    def start(self) -> None:
        """Measure the warm start, the first candidate, unless an earlier try has."""
        is_measured = (self.directory / "warm_start.json").exists()
        distributed.wait()
        if not is_measured:
            self.directory.mkdir(parents=True, exist_ok=True)
            scores = self._scores()
            self._keep(0, scores)
            if distributed.is_first():
                write_json(self.directory / "warm_start.json", scores.record())
            self.run.log({"step": 0, **scores.record()})
        distributed.wait()

    def consider(self, step: int) -> dict[str, float]:
        """Measure the pair and keep it if it is the best so far, as the first process finds."""
        scores = self._scores()
        is_best = distributed.is_first() and self._is_best(scores)
        if distributed.total(float(is_best)) > 0:
            self._keep(step, scores)
        distributed.wait()
        return scores.record()

    def _is_best(self, scores: Scores) -> bool:
        warm = read_json(self.directory / "warm_start.json")
        lowest = warm.get("held_out_precision", 0.0) - self.precision_slack
        precise = scores.precision is None or scores.precision >= lowest
        return precise and scores.fve > self.record()["held_out_fve"]

    def record(self) -> dict[str, float]:
        """Step and figures of the best checkpoint."""
        return read_json(self.directory / "best.json")

    def _scores(self) -> Scores:
        return self.held_out.scores(self.engine, self.frozen)

    def _keep(self, step: int, scores: Scores) -> None:
        av, ar = self.engine.verbalizer, self.engine.reconstructor
        distributed.save(av, av.model, self.directory / "av")
        distributed.save(ar, ar.backbone, self.directory / "ar")
        if distributed.is_first():
            write_json(self.directory / "best.json", {"step": step, **scores.record()})
