"""What survives when an explanation is read, rebuilt and read again, up to 20 times.

A code drifts to where its own AV and AR agree; what is left there is what they are sure of, which
need not be what was true.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nlakit.claims.system import ClaimSystem

from .readings import read_rows
from .rows import ReadSample
from .section import Figure, Line, Section, claim_figures, fve_figure, share

TRIPS = 20
REPORTED = (1, 2, 3, 5, 10, 20)
FORGOTTEN = 0.5


def round_trips(sample: ReadSample, trips: int = TRIPS) -> Section:
    """Claims, words and vectors after each number of trips text → ĥ → text."""
    first = sample.reading
    lines, texts, h_hat_ND = [_line(sample, 0, first.texts, first.h_hat_ND)], [], first.h_hat_ND
    for trip in range(1, trips + 1):
        reading = read_rows(
            sample.pair, sample.pair.engine, h_hat_ND, sample.temperature, sample.seed
        )
        texts, h_hat_ND = reading.texts, reading.h_hat_ND
        if trip in REPORTED or trip == trips:
            lines.append(_line(sample, trip, texts, h_hat_ND))
    others = sample.other_documents()
    swapped = [first.texts[other] for other in others]
    lines.append(_floor(sample, swapped, first.h_hat_ND[others]))
    return sample.section(
        "round-trips",
        "what survives text → ĥ → text",
        "claims kept: share of the first explanation's claims that are still made. same words: "
        "explanations that are as they were at first. cosine: of ĥ with the first ĥ.",
        lines,
        suspicions=_suspicions(lines),
    )


def claims_kept(first: str, later: str, system: ClaimSystem) -> float | None:
    """Share of the claims of `first` that `later` makes too; None where there are none."""
    before = {(each.kind, each.value) for each in system.find(first)}
    after = {(each.kind, each.value) for each in system.find(later)}
    return len(before & after) / len(before) if before else None


def _line(sample: ReadSample, trip: int, texts: Sequence[str], h_hat_ND: Tensor) -> Line:
    return Line(name=f"after {trip}", figures=_figures(sample, texts, h_hat_ND))


def _floor(sample: ReadSample, texts: Sequence[str], h_hat_ND: Tensor) -> Line:
    figures = _figures(sample, texts, h_hat_ND)
    return Line(name="another document's explanation", figures=figures, floor=True)


def _figures(sample: ReadSample, texts: Sequence[str], h_hat_ND: Tensor) -> dict[str, Figure]:
    first, documents = sample.reading, sample.doc_ids
    rows = zip(first.texts, texts, strict=True)
    kept = [claims_kept(*row, sample.claims) for row in rows]
    same = [a == b for a, b in zip(first.texts, texts, strict=True)]
    cosine_N = torch.cosine_similarity(first.h_hat_ND, h_hat_ND, dim=-1)
    return {
        "claims kept": share(
            [value or 0.0 for value in kept], documents, [value is not None for value in kept]
        ),
        "same words": share(same, documents),
        "cosine": share(cosine_N.tolist(), documents),
        "FVE": fve_figure(sample.pair.errors_of(sample.vectors_ND, h_hat_ND), documents),
        **claim_figures(texts, sample.states, sample.claims, documents),
    }


def _suspicions(lines: Sequence[Line]) -> list[str]:
    """Held against the first and the last trip, and the floor, which is the last line."""
    once, last, floor = (lines[at].figures["claims kept"].value for at in (1, -2, -1))
    found = []
    if once is None:
        found.append("Nothing to keep: the explanations make no claims.")
    elif once < FORGOTTEN:
        found.append(f"Unstable: after one trip {once:.0%} of the claims are left.")
    if last is not None and floor and last <= floor + 0.02:
        found.append(
            f"Says the same of all: {floor:.0%} of the claims are in another document's "
            f"explanation too, {last:.0%} in its own after the last trip."
        )
    return found
