"""Same-document suffix prediction: which of several continuations follows a position.

The others are taken from the same document, so what it is about tells none of them apart, and from
behind the position, since what stands before it a reader of the text would only have to copy.
The target itself chooses: it says of each continuation how much likelier a note makes it, be the
note an explanation or what a baseline writes there. No other model is asked.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.errors import InputError
from nlakit.models.families import backbone_of, head_of
from nlakit.models.target import Target

from .lens_words import lens_texts
from .rows import ReadSample
from .section import Line, Section, share

CANDIDATES, SUFFIX_TOKENS = 10, 8
TOP = 3
NOTE = "Notes on a text that was cut off:\n{note}\n\nHow the text goes on:\n"
OURS, OTHER, THE_TEXT = "explanation", "another document's explanation", "the text itself"
NEARLY = 0.02


@dataclass(frozen=True)
class Trial:
    """A position, and what might follow it.

    Attributes:
        row: of the sample.
        suffixes: token ids of `CANDIDATES` continuations, the true one first.
    """

    row: int
    suffixes: list[list[int]]


def suffix_prediction(
    sample: ReadSample, candidates: int = CANDIDATES, suffix_tokens: int = SUFFIX_TOKENS
) -> Section:
    """Share of positions whose continuation is told from others of the document, by note.

    Args:
        candidates: continuations to choose from, the true one included.
        suffix_tokens: length of each.

    Raises:
        InputError: no document is long enough for so many.
    """
    trials = make_trials(sample, candidates, suffix_tokens)
    if not trials:
        raise InputError(
            f"No document goes on for {candidates} different stretches of {suffix_tokens} tokens "
            "behind its position. Give longer documents."
        )
    others = sample.other_documents()
    texts = sample.reading.texts
    notes = {
        OURS: texts,
        **_of_the_text(sample),
        "last token alone": [f'It ends on "{token}".' for token in _last_tokens(sample)],
        "logit lens, as text": lens_texts(sample),
        OTHER: [texts[other] for other in others],
    }
    target = sample.pair.target
    prior = [suffix_logprobs(target, _noted(target, ""), trial.suffixes) for trial in trials]
    lines = []
    for name, written in notes.items():
        contexts = [_noted(target, written[trial.row]) for trial in trials]
        lines.append(_line(sample, name, trials, _gains(target, contexts, trials, prior)))
    prompts = [sample.sample.prompts[trial.row] for trial in trials]
    lines.append(_line(sample, THE_TEXT, trials, _gains(target, prompts, trials, prior)))
    left_out = len(texts) - len(trials)
    return sample.section(
        "suffix",
        "does it tell what follows?",
        f"right: positions of which the true continuation of {suffix_tokens} tokens, among "
        f"{candidates} from there on in the same document, gains most by the note; among the first "
        f"{TOP}: the same of the {TOP} that gain most. Gain: the target's log-probability of a "
        "continuation with the note, less that without one. Guessing is right in "
        f"{1 / candidates:.0%}.",
        lines,
        suspicions=_suspicions(lines, 1 / candidates),
        notes=(f"{left_out} positions too near their document's end are left out.",)
        if left_out
        else (),
    )


def make_trials(sample: ReadSample, candidates: int, suffix_tokens: int) -> list[Trial]:
    """The rows whose documents have as many stretches behind the true one."""
    trials = []
    rows = zip(sample.sample.tokens, sample.sample.positions, strict=True)
    for row, (ids, position) in enumerate(rows):
        true = position + 1
        if true + suffix_tokens > len(ids):
            continue
        stretches = (
            tuple(ids[start : start + suffix_tokens])
            for start in range(true + suffix_tokens, len(ids) - suffix_tokens + 1)
        )
        # What is written twice is one candidate.
        others = dict.fromkeys(stretches)
        own = tuple(ids[true : true + suffix_tokens])
        others.pop(own, None)
        if len(others) < candidates - 1:
            continue
        rng = random.Random(f"{sample.seed}/{sample.doc_ids[row]}/suffix")
        chosen = [own, *rng.sample(list(others), candidates - 1)]
        trials.append(Trial(row, [list(each) for each in chosen]))
    return trials


@torch.no_grad()
def suffix_logprobs(
    target: Target, context: Sequence[int], suffixes: Sequence[Sequence[int]]
) -> Float[Tensor, " K"]:
    """Log-probability of each of K token sequences of one length after the same context."""
    backbone, head = backbone_of(target.model), head_of(target.model)
    device = target.model.device
    context_1T = torch.tensor([list(context)], device=device)
    read = backbone(input_ids=context_1T, use_cache=True)
    suffixes_KS = torch.tensor([list(each) for each in suffixes], device=device)
    first_V = head(read.last_hidden_state[0, -1]).float().log_softmax(-1)
    logprobs_K = first_V[suffixes_KS[:, 0]]
    if suffixes_KS.shape[1] > 1:
        cache = read.past_key_values
        cache.batch_repeat_interleave(len(suffixes_KS))
        hidden_KSD = backbone(
            input_ids=suffixes_KS[:, :-1], past_key_values=cache, use_cache=True
        ).last_hidden_state
        later_KSV = head(hidden_KSD).float().log_softmax(-1)
        later_KS = later_KSV.gather(-1, suffixes_KS[:, 1:, None])[..., 0]
        logprobs_K = logprobs_K + later_KS.sum(-1)
    return logprobs_K.cpu()


def _noted(target: Target, note: str) -> list[int]:
    return list(target.encode(NOTE.format(note=note)).ids)


def _gains(
    target: Target,
    contexts: Sequence[Sequence[int]],
    trials: Sequence[Trial],
    prior: Sequence[Tensor],
) -> list[Tensor]:
    """Of each trial's candidates, how much likelier its context makes them."""
    return [
        suffix_logprobs(target, context, trial.suffixes) - before_K
        for context, trial, before_K in zip(contexts, trials, prior, strict=True)
    ]


def _of_the_text(sample: ReadSample) -> dict[str, list[str]]:
    """What a reader of the text writes, whole, and its claims of what the document is about."""
    reader, system = sample.eval_set.reader, sample.claims
    if reader is None:
        return {}
    labels = reader.labels(sample.sample)
    found = {"teacher's label": labels}
    if system.without is not None and system.topical:
        found["topic alone"] = [
            system.without(
                label, [each for each in system.find(label) if each.kind not in system.topical]
            )
            for label in labels
        ]
    return found


def _last_tokens(sample: ReadSample) -> list[str]:
    decode = sample.pair.target.tokenizer.decode
    return [str(decode([prompt[-1]])).strip() for prompt in sample.sample.prompts]


def _line(sample: ReadSample, name: str, trials: Sequence[Trial], gains: Sequence[Tensor]) -> Line:
    documents = [sample.doc_ids[trial.row] for trial in trials]
    # Candidates that gain more than the true one: a tie does not count for it.
    above = [int((gain_K[1:] >= gain_K[0]).sum()) for gain_K in gains]
    return Line(
        name=name,
        figures={
            "right": share([each == 0 for each in above], documents),
            f"among the first {TOP}": share([each < TOP for each in above], documents),
        },
        floor=name == OTHER,
    )


def _suspicions(lines: Sequence[Line], chance: float) -> list[str]:
    right = {line.name: line.figures["right"].value or 0.0 for line in lines}
    ours, last = right[OURS], right["last token alone"]
    if ours <= max(right[OTHER], chance) + NEARLY:
        return [
            f"Nothing of what follows: the explanations tell the continuation at {ours:.0%} of the "
            f"positions, another document's in {right[OTHER]:.0%}, guessing in {chance:.0%}."
        ]
    if ours <= last + NEARLY:
        return [
            f"No more than the last token: the explanations tell the continuation at {ours:.0%} of "
            f"the positions, the last token alone in {last:.0%}."
        ]
    return []
