"""Abstention: the AV of a grounded pair learns to leave out what it is unsure of.

Grounding keeps the claims that a judge finds likely. But an AV writes whatever is likelier than
each single wording of what might come instead, however unsure; so after RL it reads documents that
no stage has trained on. How sure it was of a claim, and whether the claim is true, gives a
calibrator; what that finds too unlikely leaves the AV's own words, and the AV is trained on what is
left. So it learns to be silent by what it can tell itself, and not by what the text turned out to
say.

    written-00000.jsonl   what it wrote of some of the activations, and what is known of each claim
    abstained.json        for people: claims kept and left out, by kind and truth
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from nlakit.claim import Claim, Verdict
from nlakit.claims.confidence import Calibrator, ClaimFeatures, claim_features, fit_calibrator
from nlakit.claims.system import ClaimSystem
from nlakit.config import FrozenModel, validate_json
from nlakit.console import notice
from nlakit.core.fidelity import row_errors
from nlakit.core.scale import resolve_scale
from nlakit.data.datasets import PairSet, StoredRows, training_variance
from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine
from nlakit.errors import InputError

from . import distributed
from .config import MIN_LABELS, RlConfig
from .pair_models import mean_vector
from .run import ABSTAINED_NAME, RunDirectory, write_json
from .sft import train_verbalizer
from .world import World
from .writing import written_lines


class WrittenClaim(FrozenModel):
    """A claim of an explanation: the features of `ClaimFeatures`, and whether it is true."""

    kind: str
    value: str
    start: int
    end: int
    logprob: float
    lowest: float
    information: float
    fidelity: float
    verdict: Verdict

    @classmethod
    def of(cls, found: ClaimFeatures, verdict: Verdict) -> WrittenClaim:
        claim = found.claim
        return cls(
            kind=claim.kind, value=claim.value, start=claim.start, end=claim.end,
            logprob=found.logprob, lowest=found.lowest, information=found.information,
            fidelity=found.fidelity, verdict=verdict,
        )  # fmt: skip

    @property
    def features(self) -> ClaimFeatures:
        claim = Claim(self.kind, self.value, self.start, self.end)
        return ClaimFeatures(claim, self.logprob, self.lowest, self.information, self.fidelity)


class Written(FrozenModel):
    """What the AV wrote of an activation."""

    explanation: str
    claims: tuple[WrittenClaim, ...]


def abstain(world: World, rl: RlConfig, run: RunDirectory, start: tuple[Path, Path]) -> None:
    """Train the AV on its own explanations without what it was unsure of; saves `model/`.

    Args:
        rl: how explanations were written in RL.
        start: AV and AR as RL left them.

    Where its claims are all true, or all false, or there are none, it stays as it is.

    Raises:
        InputError: too few explanations are left.
        ResumeError: another process trains in this directory.
    """
    if run.done is not None:
        return
    config = world.recipe.abstention
    assert config is not None, "the stage of a recipe without one is never made"
    found = world.abstention_rows()
    written = _written(world, rl, start, found, run.path)
    try:
        calibrator = calibrator_of(written)
    except InputError as error:
        notice(f"Nothing is left out of what the AV of {world.recipe.name} writes: {error}")
        verbalizer = world.models.verbalizer(start[0])
        distributed.save(verbalizer, verbalizer.model, run.path / "model")
        run.finish({"steps": 0})
        return
    least = config.least_confidence
    texts = [left_of(each, calibrator, least, world.claims) for each in written]
    if distributed.is_first():
        write_json(run.path / ABSTAINED_NAME, _counts(written, calibrator, least))
    rows = [row for row, text in enumerate(texts) if text]
    if len(rows) < MIN_LABELS:
        raise InputError(
            f"[abstention] leaves {len(rows)} of {len(texts)} explanations anything to say with "
            f"least_confidence = {least:g}; training needs {MIN_LABELS}. Give a "
            "lower one, or more documents."
        )
    lessons = PairSet(found.vectors_ND[rows], [texts[row] for row in rows], found.rows.take(rows))
    train_verbalizer(
        world.models.verbalizer(start[0]),
        lessons,
        config.training(len(rows)),
        world.recipe.settings,
        run,
        world.claims.find,
    )


# -- what it writes ------------------------------------------------------------------------------
def _written(
    world: World, rl: RlConfig, start: tuple[Path, Path], found: StoredRows, directory: Path
) -> list[Written]:
    """Greedy explanations of all activations, with what is known of their claims."""
    lines = written_lines(
        directory,
        len(found.vectors_ND),
        "explanations to abstain in",
        lambda: _Writer(world, rl, start, found),
    )
    return [validate_json(Written, line) for line in lines]


class _Writer:
    """The pair as RL left it, and who checks its claims."""

    def __init__(
        self, world: World, rl: RlConfig, start: tuple[Path, Path], found: StoredRows
    ) -> None:
        self.world, self.found, self.system = world, found, world.claims
        self.engine: LocalEngine = world.models.engine(*start, rl.vectors * rl.group, frozen=True)
        self.sampling = Sampling(max_new_tokens=rl.max_new_tokens)
        vectors_ND = world.pairs().vectors
        self.mean_D = mean_vector(vectors_ND)
        self.norm = resolve_scale("sqrt_d_model", vectors_ND.shape[1])
        self.variance = training_variance(vectors_ND, self.mean_D, self.norm)

    def __call__(self, rows: range) -> list[str]:
        """One line a row."""
        own = distributed.share(len(rows))
        made = self._own(list(rows[own.start : own.stop]))
        return distributed.gathered([each.model_dump_json() for each in made])

    def _own(self, rows: list[int]) -> list[Written]:
        if not rows:
            return []
        vectors_ND = self.found.vectors_ND[rows]
        checker = self.system.known()
        groups = self.engine.verbalize(vectors_ND, self.sampling)
        completions = [group[0] for group in groups]
        rebuilt_ND = self.engine.reconstruct([each.text for each in completions]).float().cpu()
        errors = row_errors(vectors_ND, rebuilt_ND, self.mean_D, self.norm)
        fidelities = (1 - errors.mse_N / self.variance).tolist()
        found = claim_features(
            self.engine.verbalizer, self.mean_D, completions, fidelities, self.system
        )
        states = self.world.states_of(self.found.rows.take(rows))
        return [
            Written(
                explanation=completion.text,
                claims=tuple(
                    WrittenClaim.of(each, checker.check(each.claim, state)) for each in features
                ),
            )
            for completion, features, state in zip(completions, found, states, strict=True)
        ]


# -- what is left of it --------------------------------------------------------------------------
def calibrator_of(written: Iterable[Written]) -> Calibrator:
    """How likely a claim is true by what the AV gives away of it.

    Raises:
        InputError: all that can be checked are true, or all false.
    """
    claims = (each for row in written for each in row.claims if each.verdict != "uncheckable")
    checked = list(claims)
    return fit_calibrator(
        [each.features for each in checked], [each.verdict == "true" for each in checked]
    )


def left_of(
    written: Written, calibrator: Calibrator, least_confidence: float, system: ClaimSystem
) -> str:
    """An explanation without the claims that are less likely true than that; "" if none is left."""
    without = system.without
    assert without is not None, "the recipe asks for labels that can leave a claim out"
    unsure = [
        each.features.claim
        for each in written.claims
        if calibrator.confidence(each.features) < least_confidence
    ]
    return without(written.explanation, unsure) if unsure else written.explanation


def _counts(
    written: Iterable[Written], calibrator: Calibrator, least_confidence: float
) -> dict[str, int | dict[str, int]]:
    """For people: explanations, and claims by kind and by whether they are true."""
    counted: dict[str, Counter[str]] = {"kept": Counter(), "left_out": Counter()}
    rows = list(written)
    for each in (claim for row in rows for claim in row.claims):
        is_kept = calibrator.confidence(each.features) >= least_confidence
        counted["kept" if is_kept else "left_out"][f"{each.kind} {each.verdict}"] += 1
    return {"explanations": len(rows)} | {
        name: dict(sorted(found.items())) for name, found in counted.items()
    }
