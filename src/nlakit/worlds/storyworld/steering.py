"""Steering by an edited rhyme: does the target rhyme on the word that was put into its explanation?

A trial is a held-out couplet whose second line has not been ended yet, read at a place where its
rhyme is planned. The rhyme that the explanation names is replaced by another one of the world's;
the direction that this gives the reconstruction is added at the site, at that token alone or from
there on, and the target goes on.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.core.scale import to_norm
from nlakit.evals.rows import ReadSample, check_documents, read_sample, read_vectors
from nlakit.evals.section import Figure, Line, Section, share
from nlakit.models.patch import continuations, next_logprobs
from nlakit.pair.pair import Pair
from nlakit.pair.steer import edit_direction, steering_vector
from nlakit.split import Split
from nlakit.storyworld import lexicon as lex
from nlakit.storyworld.claims import parse
from nlakit.storyworld.document import Fact
from nlakit.storyworld.grammar import generate

from .documents import EncodedDocument, readable_documents
from .eval_set import StoryworldSet, rows_at

ALPHAS, ALPHAS_ONCE = (0.25, 0.5, 0.75), (0.5, 1.0, 2.0)
"""Strengths from the place on, and at its token alone."""
PLACES = ("line end", "before the hint")
BANK_SEED, BANK_DOCUMENTS = 70_005, 400
UNRELATED_SEED, UNRELATED_DOCUMENTS = 70_006, 40
LINE_TOKENS, ROWS_PER_PASS = 28, 64
WANTED, CHANCE_MOST, SHIFT_LEAST = 0.5, 0.1, 0.05
RHYMES = tuple(rhyme.second for rhyme in lex.RHYMES)


@dataclass(frozen=True)
class Trial:
    """One edit.

    Attributes:
        row: of the readings.
        ids: tokens up to the place that is steered.
        planned: the rhyme that the text asks for.
        said, wanted: what the explanation says, and what it is made to say.
    """

    row: int
    ids: list[int]
    planned: str
    said: str
    wanted: str
    original: str
    edited: str


def steering(
    pair: Pair,
    documents: int,
    seed: int,
    alphas: Sequence[float] = ALPHAS,
    alphas_once: Sequence[float] = ALPHAS_ONCE,
    bank_documents: int = BANK_DOCUMENTS,
) -> Section:
    """Share of edited rhymes that the target then writes, by place, strength and direction.

    Args:
        documents: held-out couplets, one trial in each.
        alphas: strengths, as shares of the activation's norm, of what is added from the place on.
        alphas_once: the same of what is added at its token alone.
        bank_documents: training couplets behind the difference of means.

    Raises:
        InputError: fewer than 2 documents.
    """
    check_documents(documents)
    unrelated = read_sample(pair, StoryworldSet(), UNRELATED_DOCUMENTS, UNRELATED_SEED)
    strengths = [(each, False) for each in alphas] + [(each, True) for each in alphas_once]
    lines: list[Line] = []
    for place in PLACES:
        sample, ids, rhymes = _couplets(pair, place, documents, seed)
        trials = make_trials(sample, ids, rhymes)
        lines.append(_editable(sample, trials, place))
        if trials:
            directions = _directions(pair, trials, rhyme_means(pair, place, bank_documents), seed)
            lines += _lines(sample, trials, directions, strengths, place, unrelated)
    return sample.section(
        "steer",
        "does an edited rhyme become the rhyme?",
        "success: the line ends on the word that the explanation was made to say. undone: it ends "
        "on another than the planned one. KL: nats at the next token of unrelated texts, to whose "
        "last activation the same direction was added. shift: length of the edit's direction "
        "between unit vectors; near 0 the AR makes nothing of the word. alpha: share of the "
        "activation's norm that is added, from the place on, or at its one token.",
        lines,
        suspicions=_suspicions(lines),
    )


def couplet_place(encoded: EncodedDocument, fact: Fact, place: str) -> int:
    """The token of a place between a rhyme's plan and the rhyme: the last that ends by it.

    "line end" is the line break before the second line, "before the hint" the last token of the
    name that opens it; after that comes a word that already depends on the rhyme.
    """
    text = encoded.document.text
    line_end = text.index("\n", fact.start) + 1
    name_end = text.find(" ", line_end)
    end = line_end if place == "line end" else name_end if name_end > 0 else line_end
    return max(at for at, (a, b) in enumerate(encoded.offsets) if a < b <= end)


def couplet_documents(
    pair: Pair, seed: int, split: Split, num: int
) -> list[tuple[EncodedDocument, list[Fact]]]:
    """Couplets with the plans of their rhymes."""
    made = (each for each in generate(seed, split) if each.genre == "couplet")
    found = islice(readable_documents(pair.target, made), num)
    return [(each, [f for f in each.document.facts if f.kind == "rhyme"]) for each in found]


def _couplets(
    pair: Pair, place: str, num: int, seed: int
) -> tuple[ReadSample, list[list[int]], list[str]]:
    """Readings of the first rhyme's place of each couplet, tokens so far, and the rhyme."""
    found = couplet_documents(pair, seed, "heldout", num)
    documents, facts = [each for each, _ in found], [plans[0] for _, plans in found]
    places = [couplet_place(each, fact, place) for each, fact in zip(documents, facts, strict=True)]
    rows = rows_at(pair.target, documents, [[at] for at in places])
    sample = read_vectors(pair, StoryworldSet(), rows, seed)
    return sample, rows.prompts, [fact.value for fact in facts]


def make_trials(sample: ReadSample, ids: Sequence[list[int]], rhymes: Sequence[str]) -> list[Trial]:
    """A trial of each row whose explanation names a rhyme; the wanted word is neither that one nor
    the planned one."""
    trials = []
    for row, (text, planned) in enumerate(zip(sample.reading.texts, rhymes, strict=True)):
        claim = next((each for each in parse(text) if each.kind == "rhyme"), None)
        if claim is None:
            continue
        rng = random.Random(f"{sample.doc_ids[row]}/steer")
        wanted = rng.choice([word for word in RHYMES if word not in (planned, claim.value)])
        edited = text[: claim.start] + wanted + text[claim.end :]
        trials.append(Trial(row, ids[row], planned, claim.value, wanted, text, edited))
    return trials


def _directions(
    pair: Pair, trials: Sequence[Trial], means: dict[str, Tensor], seed: int
) -> dict[str, Float[Tensor, "N D"]]:
    """Per trial the edit's direction, a random one, and the difference of two rhymes' means."""
    edits_ND = edit_direction(
        pair.engine, [each.original for each in trials], [each.edited for each in trials]
    )
    noise_ND = torch.randn(edits_ND.shape, generator=torch.Generator().manual_seed(seed))
    zero_D = torch.zeros(edits_ND.shape[1])
    apart_ND = torch.stack(
        [means.get(each.wanted, zero_D) - means.get(each.planned, zero_D) for each in trials]
    )
    return {"edit": edits_ND, "random direction": noise_ND, "difference of means": apart_ND}


def rhyme_means(pair: Pair, place: str, documents: int) -> dict[str, Float[Tensor, " D"]]:
    """Mean activation at a place of training couplets, by the rhyme that is planned there."""
    found = couplet_documents(pair, BANK_SEED, "train", documents)
    places = [sorted({couplet_place(each, f, place) for f in plans}) for each, plans in found]
    rows = rows_at(pair.target, [each for each, _ in found], places)
    vectors: dict[str, list[Tensor]] = {}
    values = [{couplet_place(each, f, place): f.value for f in plans} for each, plans in found]
    names = [value[at] for value, ats in zip(values, places, strict=True) for at in ats]
    for name, vector_D in zip(names, rows.vectors_ND, strict=True):
        vectors.setdefault(name, []).append(vector_D)
    return {name: torch.stack(each).mean(0) for name, each in vectors.items()}


def _editable(sample: ReadSample, trials: Sequence[Trial], place: str) -> Line:
    rows = {each.row for each in trials}
    named = [row in rows for row in range(len(sample.doc_ids))]
    return Line(name=f"{place}: names a rhyme", figures={"share": share(named, sample.doc_ids)})


def _lines(
    sample: ReadSample,
    trials: Sequence[Trial],
    directions: dict[str, Tensor],
    strengths: Sequence[tuple[float, bool]],
    place: str,
    unrelated: ReadSample,
) -> list[Line]:
    untouched = Line(
        name=f"{place}: untouched",
        figures=_outcomes(sample, trials, None, once=True),
        floor=True,
    )
    lines = [untouched]
    side_effects = _SideEffects(unrelated)
    for name, directions_ND in directions.items():
        for alpha, once in strengths:
            added_ND = _added(sample, trials, directions_ND, alpha)
            figures = _outcomes(sample, trials, added_ND, once=once)
            figures["KL"] = Figure(value=side_effects.of(directions_ND, alpha))
            if name == "edit":
                figures["shift"] = Figure(value=directions_ND.norm(dim=-1).mean().item())
            where = f"{name} at one token" if once else name
            full = f"{place}: {where}, alpha {alpha:g}"
            lines.append(Line(name=full, figures=figures, floor=name == "random direction"))
    return lines


def _added(
    sample: ReadSample, trials: Sequence[Trial], directions_ND: Tensor, alpha: float
) -> Float[Tensor, "N D"]:
    pairs = zip(directions_ND, trials, strict=True)
    return torch.stack(
        [steering_vector(each_D, sample.vectors_ND[trial.row], alpha) for each_D, trial in pairs]
    )


def _outcomes(
    sample: ReadSample, trials: Sequence[Trial], added_ND: Tensor | None, *, once: bool
) -> dict[str, Figure]:
    ends = rhyme_words(sample.pair, [each.ids for each in trials], added_ND, once=once)
    documents = [sample.doc_ids[each.row] for each in trials]
    pairs = list(zip(ends, trials, strict=True))
    return {
        "success": share([end == trial.wanted for end, trial in pairs], documents),
        "undone": share([end != trial.planned for end, trial in pairs], documents),
    }


def rhyme_words(
    pair: Pair, ids: Sequence[list[int]], added_ND: Float[Tensor, "N D"] | None, *, once: bool
) -> list[str]:
    """The last word of the line that the target goes on to write after each sequence.

    Args:
        once: as in `continuations`.
    """
    words = []
    for start in range(0, len(ids), ROWS_PER_PASS):
        part = slice(start, start + ROWS_PER_PASS)
        added_BD = None if added_ND is None else added_ND[part]
        written = continuations(
            pair.target, ids[part], added_BD, max_new_tokens=LINE_TOKENS, once=once
        )
        words += [line_end(str(pair.target.tokenizer.decode(row))) for row in written]
    return words


def line_end(text: str) -> str:
    """The last word of a text's first line; "" where there is none."""
    first = re.split(r"[.\n]", text.lstrip(), maxsplit=1)[0]
    words = re.findall(r"[\w'-]+", first)
    return words[-1] if words else ""


class _SideEffects:
    """What a direction does to texts that have nothing to do with it."""

    def __init__(self, unrelated: ReadSample) -> None:
        self.sample = unrelated
        self.ids = unrelated.sample.prompts
        self.clean_NV = next_logprobs(unrelated.pair.target, self.ids)

    def of(self, directions_MD: Tensor, alpha: float) -> float:
        """Mean KL(untouched ‖ steered) at the next token, nats; directions are used in turn."""
        vectors_ND = self.sample.vectors_ND
        rows = torch.arange(len(vectors_ND)) % len(directions_MD)
        norm_N1 = vectors_ND.norm(dim=-1, keepdim=True)
        added_ND = alpha * norm_N1 * to_norm(directions_MD[rows], 1.0)
        steered_NV = next_logprobs(self.sample.pair.target, self.ids, vectors_ND + added_ND)
        return (self.clean_NV.exp() * (self.clean_NV - steered_NV)).sum(-1).mean().item()


def _suspicions(lines: Sequence[Line]) -> list[str]:
    edited, noise = _best(lines, ": edit"), _best(lines, ": random direction")
    shifts = [each.figures["shift"].value for each in lines if "shift" in each.figures]
    found = []
    if edited < WANTED:
        found.append(f"Edited rhymes are taken up in at most {edited:.0%} of the trials.")
    if noise > CHANCE_MOST:
        found.append(f"A random direction does the same in up to {noise:.0%}.")
    if shifts and max(shift or 0.0 for shift in shifts) < SHIFT_LEAST:
        found.append("The AR makes next to nothing of the rhyme's word: see `shift`.")
    if not shifts:
        found.append("No explanation names a rhyme, so none can be edited.")
    return found


def _best(lines: Sequence[Line], name: str) -> float:
    """The greatest success of the lines with `name` in theirs."""
    values = [each.figures["success"].value for each in lines if name in each.name]
    return max((value or 0.0 for value in values), default=0.0)
