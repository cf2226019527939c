"""Baselines of explanations: who reads the text, the next tokens, the neighbours or the logits.

One of them looks for a text of which the activation could be (`inversion`). None of them verbalizes
an activation. What an explanation says beyond them is what an NLA adds; a
reader of the whole text is the upper bound of what can be said at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from nlakit.claims.system import ClaimSystem, State
from nlakit.data.extraction import Progress
from nlakit.models.patch import continuations
from nlakit.models.target import Target

from .cause import BANK_DOCUMENTS, BANK_SEED, nearest_rows
from .claims import verdicts
from .eval_set import EvalRows, TextReader
from .inversion import Inverted, Search, invert
from .lens_words import lens_texts
from .rows import ReadSample
from .section import Line, Section, claim_figures, fve_figure, share

CONTINUATION_TOKENS, ROWS_PER_PASS = 32, 64
BANK_POSITIONS = 32
"""Prefixes of each of the bank's documents, at most: an activation holds the end of its text most
of all, so they differ nearly as much as documents do."""
ADDS_LEAST = 0.05
UNLABELLED = (
    "Nobody has labels of these texts, so readers of the text, the nearest label and the label of "
    "an inverted text are left out."
)
UPPER_BOUNDS = ("teacher, sees the text", "keywords of the text")
NEAREST, INVERTED = "label of the nearest activation", "label of an inverted prefix"


def baselines(
    sample: ReadSample,
    bank_documents: int = BANK_DOCUMENTS,
    search: Search | None = None,
    progress: Progress | None = None,
) -> Section:
    """The claims and the FVE of each reader's texts, beside the explanations.

    Args:
        bank_documents: training documents whose prefixes are the nearest neighbour and the start
            of an inversion.
        search: how far an inversion looks around its start.
        progress: told how many places were inverted.
    """
    bank = _Bank.of(sample, bank_documents)
    found = _invert_all(sample, bank, search or Search(), progress)
    reader = sample.eval_set.reader
    readers = {
        "explanation": sample.reading.texts,
        **({} if reader is None else _by_text(sample, reader, bank, found.texts)),
        "logit lens": lens_texts(sample),
    }
    lines = [_line(sample, name, texts) for name, texts in readers.items()]
    rebuilt = {NEAREST: bank.rows.vectors_ND, INVERTED: found.vectors_ND}
    lines = [
        _with_match(sample, line, rebuilt[line.name]) if line.name in rebuilt else line
        for line in lines
    ]
    others = [sample.reading.texts[other] for other in sample.other_documents()]
    lines.append(_line(sample, "another document's explanation", others, floor=True))
    return sample.section(
        "baselines",
        "what does it add to baselines?",
        "FVE: of the reader's text, read by the pair's AR. explanation adds: share of the "
        "explanation's true claims that the reader does not make. match: FVE of the activation "
        "of the text that was found instead. The teacher is the upper bound; the nearest "
        f"activation is of one of {bank.size:,} prefixes of {bank_documents:,} training documents; "
        "inversion then changes the last tokens of that prefix until its activation matches, in "
        f"{found.seconds:.2f} s a place, and the teacher labels it.",
        lines,
        suspicions=_suspicions(lines),
        notes=() if reader is not None else (UNLABELLED,),
    )


def _by_text(
    sample: ReadSample, reader: TextReader, bank: _Bank, inverted: Sequence[str]
) -> dict[str, list[str]]:
    """What is written of texts: of the rows' own, and of those with activations like theirs."""
    return {
        "teacher, sees the text": reader.labels(sample.sample),
        "keywords of the text": [reader.keywords(text) for text in sample.prefixes],
        "keywords of the target's continuation": _continued(sample, reader),
        NEAREST: reader.labels(bank.rows),
        INVERTED: reader.relabelled(bank.rows, inverted),
    }


class _Bank(NamedTuple):
    """For each row the nearest of a bank's prefixes, by cosine.

    Attributes:
        rows: the nearest, one a row.
        size: how many prefixes the bank has.
    """

    rows: EvalRows
    size: int

    @classmethod
    def of(cls, sample: ReadSample, documents: int) -> _Bank:
        target = sample.pair.target
        bank = sample.eval_set.sample(target, "train", BANK_SEED, documents, BANK_POSITIONS)
        chosen = nearest_rows(bank.vectors_ND, sample.vectors_ND)
        return cls(bank.take(chosen), len(bank.vectors_ND))


class _Inversions(NamedTuple):
    """What was found for each row: the text, its activation; and seconds that a row took."""

    texts: list[str]
    vectors_ND: Tensor
    seconds: float


def _invert_all(
    sample: ReadSample, bank: _Bank, search: Search, progress: Progress | None
) -> _Inversions:
    target, began = sample.pair.target, time.perf_counter()
    found: list[Inverted] = []
    for vector_D, start in zip(sample.vectors_ND, bank.rows.prompts, strict=True):
        found.append(invert(target, vector_D, start, search))
        if progress is not None:
            progress(len(found), len(sample.vectors_ND))
    return _Inversions(
        [_text_of(target, each.ids) for each in found],
        torch.stack([each.activation_D for each in found]),
        (time.perf_counter() - began) / len(found),
    )


def _text_of(target: Target, ids: Sequence[int]) -> str:
    own = list(ids[1:]) if ids[0] == target.tokenizer.bos_token_id else list(ids)
    return str(target.tokenizer.decode(own, clean_up_tokenization_spaces=False))


def _continued(sample: ReadSample, reader: TextReader) -> list[str]:
    """Readings of what the target itself writes next, without the text before."""
    target, ids = sample.pair.target, sample.sample.prompts
    written: list[list[int]] = []
    for start in range(0, len(ids), ROWS_PER_PASS):
        chunk = ids[start : start + ROWS_PER_PASS]
        written += continuations(target, chunk, max_new_tokens=CONTINUATION_TOKENS)
    texts = [str(target.tokenizer.decode(row)) for row in written]
    return [reader.keywords(text, ending=False) if text.strip() else "" for text in texts]


def _line(sample: ReadSample, name: str, texts: Sequence[str], floor: bool = False) -> Line:
    documents = sample.doc_ids
    figures = claim_figures(texts, sample.states, sample.claims, documents)
    figures["FVE"] = fve_figure(sample.errors(sample.pair.engine.reconstruct, texts), documents)
    if name != "explanation" and sample.states is not None:
        rows = zip(sample.reading.texts, texts, sample.states, strict=True)
        missing = [missed_claims(*row, sample.claims) for row in rows]
        names = [document for document, row in zip(documents, missing, strict=True) for _ in row]
        figures["explanation adds"] = share([each for row in missing for each in row], names)
    return Line(name=name, figures=figures, floor=floor)


def _with_match(sample: ReadSample, line: Line, vectors_ND: Tensor) -> Line:
    errors = sample.pair.errors_of(sample.vectors_ND, vectors_ND)
    match = {"match": fve_figure(errors, sample.doc_ids)}
    return line.model_copy(update={"figures": line.figures | match})


def missed_claims(explanation: str, other: str, state: State, system: ClaimSystem) -> list[bool]:
    """Per true claim of an explanation: whether `other` fails to make it."""
    there = {(each.kind, each.value) for each in system.find(other)}
    right = [each for each, verdict in verdicts(explanation, state, system) if verdict == "true"]
    return [(each.kind, each.value) not in there for each in right]


def _suspicions(lines: Sequence[Line]) -> list[str]:
    if "recall" not in lines[0].figures:
        return []
    own = lines[0].figures["recall"].value or 0.0
    found = []
    for line in lines[1:]:
        recall, adds = line.figures["recall"].value or 0.0, line.figures["explanation adds"].value
        if line.floor:
            if adds is not None and adds < ADDS_LEAST:
                share_of_all = f"{1 - adds:.0%} of what is true in it is in another's explanation."
                found.append(f"Says the same of all: {share_of_all}")
        elif line.name not in UPPER_BOUNDS and recall >= own:
            found.append(f"Adds nothing to {line.name}: recall {own:.0%}, there {recall:.0%}.")
    return found
