"""Best of N: several explanations of a vector are drawn and one is kept. What that costs and buys.

By fidelity, the one that the pair's own AR rebuilds best: what it gains there may be the AR's
alone, so another AR reads it too. By confidence, the one whose claims are worth most: for each
claim the chance that it is true less the chance that it is false.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from nlakit.claims.confidence import Calibrator, claim_features
from nlakit.core.fidelity import row_fidelity
from nlakit.engines.base import MAX_NEW_TOKENS, Completion, Sampling
from nlakit.errors import InputError
from nlakit.pair.pair import Pair

from .confidence import calibrator_for
from .eval_set import EvalSet
from .rows import ReadSample, check_documents, read_sample
from .section import Figure, Line, Section, claim_figures, fve_figure

COUNTS = (1, 4, 8)
ONE = "one drawn"
SAME_MOST, LOST_MOST = 0.9, 0.02
GAIN_LEAST, SHARED_LEAST = 0.05, 0.5
"""A gain in FVE worth a question, and the share of it that another AR has to see."""


def select(
    pair: Pair,
    eval_set: EvalSet,
    documents: int,
    seed: int,
    temperature: float = 1.0,
    counts: Sequence[int] = COUNTS,
) -> Section:
    """What the best of `counts` explanations of a row say, by each rule, and takes.

    Args:
        documents: held-out documents of `seed`, one position in each.
        counts: how many are drawn, each time anew, since it is timed.

    Raises:
        InputError: fewer than 2 documents, a temperature of 0, which draws nothing, or no count.
    """
    check_documents(documents)
    if temperature <= 0:
        raise InputError(f"Drawing takes a temperature above 0, found {temperature:g}.")
    if not counts or min(counts) < 1:
        raise InputError(f"Give at least one count of explanations, found {list(counts)}.")
    sample = read_sample(pair, eval_set, documents, seed, temperature)
    calibrator = calibrator_for(pair, eval_set, documents, seed, temperature)
    drawn = [_draw(sample, count, temperature, calibrator) for count in counts]
    greedy = _draw(sample, 1, 0.0, None).lines(sample, "greedy")
    lines = [*greedy, *(line for each in drawn for line in each.lines(sample))]
    return sample.section(
        "select",
        "what does the best of several explanations buy?",
        "Drawn at temperature "
        f"{temperature:g}. By fidelity: the pair's own AR rebuilds it best; so its FVE is what was "
        "selected for, and only the control AR's, trained on labels only, is evidence. By "
        "confidence: the sum over its claims of 2 c - 1, c the confidence. seconds: a place, "
        "all of it.",
        lines,
        suspicions=_suspicions(lines, drawn[-1]),
    )


@dataclass(frozen=True)
class _Drawn:
    """`count` explanations of each of N places.

    Attributes:
        groups: the explanations of each row.
        scores: of every rule, N x count; the highest is kept.
        seconds: a place, of writing them and of each rule's scores.
    """

    count: int
    groups: list[list[Completion]]
    scores: dict[str, Tensor]
    seconds: dict[str, float]

    @property
    def same(self) -> float:
        """Share of the places whose explanations are all alike."""
        return sum(len({each.text for each in group}) == 1 for group in self.groups) / len(
            self.groups
        )

    def lines(self, sample: ReadSample, single: str = ONE) -> list[Line]:
        """One for each rule; of a single explanation one in all, there being nothing to choose."""
        if self.count == 1:
            only = [group[0] for group in self.groups]
            return [_line(sample, single, only, self.seconds["written"])]
        found = []
        for rule, scores_NC in self.scores.items():
            best_N = scores_NC.argmax(1).tolist()
            kept = [group[best] for group, best in zip(self.groups, best_N, strict=True)]
            found.append(_line(sample, _name(self.count, rule), kept, self.seconds[rule]))
        return found


def _name(count: int, rule: str) -> str:
    return f"best of {count} by {rule}"


def _draw(
    sample: ReadSample, count: int, temperature: float, calibrator: Calibrator | None
) -> _Drawn:
    pair, num = sample.pair, len(sample.doc_ids)
    sampling = Sampling(count, temperature, max_new_tokens=MAX_NEW_TOKENS, seed=sample.seed)
    clock = [time.perf_counter()]
    answers = pair.engine.verbalize(sample.vectors_ND, sampling)
    completions = [each for group in answers for each in group]
    clock.append(time.perf_counter())
    vectors_RD = sample.vectors_ND.repeat_interleave(count, dim=0)
    h_hat_RD = pair.rebuild([each.text for each in completions])
    fidelity_R = row_fidelity(pair.errors_of(vectors_RD, h_hat_RD))
    clock.append(time.perf_counter())
    scores = {"fidelity": fidelity_R.view(num, count)}
    if calibrator is not None:
        worth_R = _worth(sample, completions, fidelity_R.tolist(), calibrator)
        scores["confidence"] = worth_R.view(num, count)
    clock.append(time.perf_counter())
    names = ("written", "fidelity", "confidence")
    seconds = {name: (at - clock[0]) / num for name, at in zip(names, clock[1:], strict=True)}
    return _Drawn(count, answers, scores, seconds)


def _worth(
    sample: ReadSample,
    completions: list[Completion],
    fidelities: list[float],
    calibrator: Calibrator,
) -> Tensor:
    """Per explanation the true claims that are to be expected less the false ones."""
    pair, verbalizer = sample.pair, sample.pair.verbalizer
    assert verbalizer is not None, "there is a calibrator, so there are probabilities"
    found = claim_features(verbalizer, pair.mean_D, completions, fidelities, sample.claims)
    return torch.tensor(
        [sum(2 * calibrator.confidence(each) - 1 for each in claims) for claims in found],
        dtype=torch.float64,
    )


def _line(sample: ReadSample, name: str, kept: Sequence[Completion], seconds: float) -> Line:
    pair, documents, texts = sample.pair, sample.doc_ids, [each.text for each in kept]
    figures = claim_figures(texts, sample.states, sample.claims, documents)
    figures["FVE"] = fve_figure(sample.errors(pair.engine.reconstruct, texts), documents)
    if pair.control_ar is not None:
        figures["control AR"] = fve_figure(sample.errors(pair.control_ar, texts), documents)
    figures["words"] = Figure(value=sum(len(text.split()) for text in texts) / len(texts))
    figures["seconds"] = Figure(value=seconds)
    return Line(name=name, figures=figures)


def _suspicions(lines: Sequence[Line], most: _Drawn) -> list[str]:
    """What is wrong with the best of `most.count`, held against one that was drawn."""
    if most.same >= SAME_MOST:
        return [
            f"Nothing to choose: in {most.same:.0%} of the places all {most.count} explanations "
            "are the same."
        ]
    by_name = {line.name: line.figures for line in lines}
    one = by_name.get(ONE)
    if one is None:
        return []
    rules = {rule: by_name.get(_name(most.count, rule)) for rule in most.scores}
    found = [
        _loses_truth(_name(most.count, rule), figures, one)
        for rule, figures in rules.items()
        if figures is not None
    ]
    if (best := rules["fidelity"]) is not None:
        found.append(_gains_alone(best, one))
    return [each for each in found if each is not None]


def _loses_truth(name: str, best: dict[str, Figure], one: dict[str, Figure]) -> str | None:
    if "precision" not in best:
        return None
    ours, other = best["precision"].value, one["precision"].value
    if ours is None or other is None or ours >= other - LOST_MOST:
        return None
    return f"Truth is lost: {name} has a precision of {ours:.0%}, one drawn {other:.0%}."


def _gains_alone(best: dict[str, Figure], one: dict[str, Figure]) -> str | None:
    own, other = (_gain(best, one, name) for name in ("FVE", "control AR"))
    if own is None or other is None or own < GAIN_LEAST or other >= SHARED_LEAST * own:
        return None
    return (
        f"Private gain: selecting by fidelity raises the FVE by {own:.3f}, that of an AR trained "
        f"on labels only by {other:.3f}."
    )


def _gain(best: dict[str, Figure], one: dict[str, Figure], name: str) -> float | None:
    values = [figures[name].value if name in figures else None for figures in (best, one)]
    return None if values[0] is None or values[1] is None else values[0] - values[1]
