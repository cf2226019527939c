"""A reading of somebody's own text with a verdict on each claim, where the pair's can be checked.

The kind of text, who speaks and what was asked come with the text; what may follow is asked of the
target.
"""

from __future__ import annotations

from collections.abc import Sequence

from nlakit.claim import Claim, Verdict
from nlakit.claims.system import ClaimSystem
from nlakit.data.corpora import CorpusDocument
from nlakit.data.corpus_extraction import NEXT_TOKENS, Readable, read_at
from nlakit.data.labels import places_of
from nlakit.errors import InputError
from nlakit.models.target import Encoded, Target
from nlakit.reading import Reading

from .claims import verdicts


def checked_claims(
    target: Target,
    system: ClaimSystem,
    document: CorpusDocument,
    encoded: Encoded,
    reading: Reading,
) -> list[list[tuple[Claim, Verdict]]]:
    """The claims of each row of a reading of a document, in order, with a verdict on each.

    Args:
        document: the text or the messages; its id may name the kind of text before a hyphen.
        encoded: the document as the target read it.

    Raises:
        InputError: claims of that system can be checked in documents of its own world only.
    """
    checker = system.known()
    if checker.states_of is None:
        raise InputError(
            f"Claims of {system.name!r} explanations can be checked in documents of their own "
            "world only; this is another text."
        )
    positions = [row.position for row in reading]
    rows = read_at(target, [Readable(document, encoded)], [positions], NEXT_TOKENS).rows
    states = checker.states_of(list(places_of(rows)))
    pairs = zip(reading, states, strict=True)
    return [verdicts(row.explanation, state, system) for row, state in pairs]


def counted(found: Sequence[tuple[Claim, Verdict]]) -> dict[Verdict, list[str]]:
    """Claims as "kind value", by verdict."""
    by_verdict: dict[Verdict, list[str]] = {"true": [], "false": [], "uncheckable": []}
    for claim, verdict in found:
        by_verdict[verdict].append(f"{claim.kind} {claim.value}")
    return by_verdict
