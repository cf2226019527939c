"""Where a pair reads well: its FVE and truth by the token that is read, and by what is said of it.

One figure over all positions hides that some are read and others are not. Held apart are the kinds
of tokens, and for each kind of claim the positions at which it was said rightly, said wrongly, and
not said. What a wrong claim still rebuilds tells how near it misses; what silence leaves tells what
abstention costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from nlakit.claim import Claim, Verdict
from nlakit.core.fidelity import RowErrors

from .claims import verdicts
from .rows import ReadSample
from .section import Figure, Line, Section, claim_figures, fve_figure, share

FEWEST = 10
"""Fewer positions than this make no line: their interval would say nothing."""

TokenKind = Literal["word", "piece of a word", "number", "mark", "blank", "special"]
TOKEN_KINDS: tuple[TokenKind, ...] = (
    "word", "piece of a word", "number", "mark", "blank", "special",
)  # fmt: skip

_Found = Sequence[tuple[Claim, Verdict]]
_SAID: dict[str, Callable[[Sequence[Verdict]], bool]] = {
    "true": lambda said: bool(said) and "false" not in said and "true" in said,
    "false": lambda said: "false" in said,
    "not said": lambda said: not said,
}
"""Of the verdicts on one kind at a position; what nobody can check is in none of them."""


def where(sample: ReadSample) -> Section:
    """FVE, truth and number of claims in each group of positions, and its share of all."""
    rows = range(len(sample.doc_ids))
    kinds = [token_kind(sample.pair.target.tokenizer, each) for each in _token_ids(sample)]
    groups = {"all": list(rows)}
    groups |= {
        f"token: {kind}": [row for row in rows if kinds[row] == kind] for kind in TOKEN_KINDS
    }
    if sample.states is not None:
        texts = zip(sample.reading.texts, sample.states, strict=True)
        groups |= said_groups([verdicts(text, each, sample.claims) for text, each in texts])
    kept = {name: found for name, found in groups.items() if len(found) >= FEWEST}
    left_out = [name for name, found in groups.items() if 0 < len(found) < FEWEST]
    notes = (f"fewer than {FEWEST} positions: {', '.join(left_out)}",) if left_out else ()
    return sample.section(
        "where",
        "where does it read well?",
        "share: of all positions. FVE: of the group's own distance from the mean. claims: said at "
        "a position. KIND: true, where all that was said of it is; false, where some is not.",
        [_line(sample, name, found) for name, found in kept.items()],
        notes=notes,
    )


def said_groups(found: Sequence[_Found]) -> dict[str, list[int]]:
    """Rows at which a kind was said rightly, wrongly or not at all, for each kind ever said."""
    kinds = dict.fromkeys(claim.kind for row in found for claim, _ in row)
    return {
        f"{kind}: {name}": [
            row
            for row, claims in enumerate(found)
            if holds([verdict for claim, verdict in claims if claim.kind == kind])
        ]
        for kind in kinds
        for name, holds in _SAID.items()
    }


def token_kind(tokenizer: Any, token_id: int) -> TokenKind:
    """What a token is by its text; a word's first token stands behind a blank."""
    if token_id in tokenizer.all_special_ids:
        return "special"
    text = tokenizer.decode([token_id])
    inner = text.strip()
    if not inner:
        return "blank"
    if any(each.isalpha() for each in inner):
        # Some tokenizers decode a word alone without its blank, of which its name keeps a mark.
        named = str(tokenizer.convert_ids_to_tokens(token_id))
        return "word" if text[0].isspace() or named[0] in "Ġ▁" else "piece of a word"
    return "number" if any(each.isdigit() for each in inner) else "mark"


def _token_ids(sample: ReadSample) -> list[int]:
    rows = zip(sample.sample.tokens, sample.sample.positions, strict=True)
    return [ids[position] for ids, position in rows]


def _line(sample: ReadSample, name: str, rows: Sequence[int]) -> Line:
    at = torch.tensor(rows)
    documents = [sample.doc_ids[row] for row in rows]
    texts = [sample.reading.texts[row] for row in rows]
    errors = RowErrors(*(each[at] for each in sample.reading.errors))
    chosen = set(rows)
    figures: dict[str, Figure] = {
        "share": share([row in chosen for row in range(len(sample.doc_ids))], sample.doc_ids),
        "FVE": fve_figure(errors, documents),
    }
    if sample.states is not None:
        states = [sample.states[row] for row in rows]
        truth = claim_figures(texts, states, sample.claims, documents)
        figures["precision"] = truth["precision"]
        figures["claims"] = share([len(sample.claims.find(text)) for text in texts], documents)
    return Line(name=name, figures=figures)
