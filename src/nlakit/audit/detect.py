"""Detectors over a project, with what keeps a finding honest beside it.

Any of many readings says anything sooner or later, an explanation may quote its text, and an NLA
may say the same of every text. So each transcript's hits stand beside

* the rate at other transcripts' positions, and `1 - (1 - rate)^n`: that any of n hits at that rate;
* other transcripts' readings, as many of them (`cross`);
* the transcript's own text: a hit that the text before it supports is an echo, and not counted;
* the target's own continuation of the transcript, where it is asked for.

p is that of at least as many unsupported hits by chance; q is the false discovery rate.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Literal, NamedTuple

import torch
from scipy import stats

from nlakit.evals.bootstrap import Interval, ratio_interval

from .detectors import Asker, Detector, Verdict
from .index import EVERYTHING, Filters, ReadingRow
from .project import Project

LEVEL = 0.05
DONORS = 200
Label = Literal["found", "echo", "unspecific", "none", "untested"]
LABELS: dict[Label, str] = {
    "found": "more unsupported hits than other transcripts explain (q <= 0.05)",
    "echo": "every hit is supported by the transcript's own text before it",
    "unspecific": "hits that other transcripts have as often",
    "untested": "hits, and no other transcript to compare with",
    "none": "no hit",
}

Continue = Callable[[Sequence[str]], dict[str, str]]
"""What the target itself goes on to write after each transcript, by the transcript's id."""


class Finding(NamedTuple):
    """A detector at one transcript.

    Attributes:
        n: readings that were judged; `unjudged` more could not be.
        hits, unsupported: readings with a yes; those that the text before them does not support.
        rate: unsupported hits a position.
        others: the same rate at all other transcripts; None where there are none.
        floor: that any of n hits at that rate.
        cross: share of other transcripts of which n readings have an unsupported hit.
        text, continuation: whether the transcript's own text, and what the target writes next,
            has a yes; None: not asked.
        positions: of the unsupported hits.
    """

    transcript: str
    name: str
    n: int
    unjudged: int
    hits: int
    unsupported: int
    rate: float
    any: bool
    others: float | None
    floor: float | None
    cross: float | None
    text: bool
    continuation: bool | None
    p: float | None
    q: float | None
    label: Label
    positions: tuple[int, ...]


class Share(NamedTuple):
    """A share with its interval; None where too few were seen."""

    value: float
    low: float | None
    high: float | None


class Detected(NamedTuple):
    """A detector at all transcripts.

    Attributes:
        any: transcripts with an unsupported hit; `found` those labelled so.
        rate: unsupported hits a position, interval by transcript.
        floor: the mean floor of `any`; what chance alone would reach.
        text, continuation: transcripts whose text, or continuation, has a yes.
    """

    name: str
    kind: str
    sha256: str
    any: Share
    found: Share
    rate: Share
    floor: float | None
    text: Share
    continuation: Share | None
    labels: dict[Label, int]
    transcripts: tuple[Finding, ...]

    def to_json(self) -> dict[str, Any]:
        """As `nlakit detect --json` prints it."""
        shares = ("any", "found", "rate", "text")
        made = {**self._asdict(), **{name: getattr(self, name)._asdict() for name in shares}}
        made["continuation"] = self.continuation and self.continuation._asdict()
        return {**made, "transcripts": [each._asdict() for each in self.transcripts]}


class _Seen(NamedTuple):
    """What one transcript's readings and text say to a detector."""

    name: tuple[str, str]
    verdicts: list[Verdict]
    unsupported: list[bool]
    positions: list[int]
    text: bool

    @property
    def judged(self) -> int:
        return sum(each is not None for each in self.verdicts)

    @property
    def num_unsupported(self) -> int:
        return sum(self.unsupported)


def detect(
    project: Project,
    detector: Detector,
    asked: Asker,
    filters: Filters = EVERYTHING,
    continue_: Continue | None = None,
    seed: int = 0,
) -> Detected:
    """Ask a detector of every reading of a project.

    Args:
        continue_: gives the target's own continuations; None: they are not looked at.
        seed: decides which other transcripts are compared with.
    """
    seen, texts = _ask_all(project, asked, filters)
    continued = _continuations(seen, asked, continue_)
    p_values = [_p_value(each, seen) for each in seen]
    q_values = _q_values(p_values)
    findings = tuple(
        _finding(each, seen, p, q, continued.get(each.name[0]), random.Random(f"{seed}/{i}"))
        for i, (each, p, q) in enumerate(zip(seen, p_values, q_values, strict=True))
    )
    return _summary(detector, seen, findings, bool(texts) and continue_ is not None)


def _ask_all(
    project: Project, asked: Asker, filters: Filters
) -> tuple[list[_Seen], dict[str, str]]:
    with project.index() as index:
        rows = index.readings(filters)
        texts = {each.id: each.text for each in index.transcripts()}
    verdicts = asked.verdicts([row.explanation for row in rows])
    paired = zip(rows, verdicts, strict=True)
    groups = groupby(paired, key=lambda each: each[0].transcript)
    return [_see(list(group), asked, texts) for _, group in groups], texts


def _see(group: list[tuple[ReadingRow, Verdict]], asked: Asker, texts: dict[str, str]) -> _Seen:
    first = group[0][0]
    supported_from = asked.first_in(texts[first.transcript])
    unsupported = [
        bool(verdict) and (supported_from is None or row.char_end < supported_from)
        for row, verdict in group
    ]
    return _Seen(
        (first.transcript, first.name),
        [verdict for _, verdict in group],
        unsupported,
        [row.position for row, _ in group],
        supported_from is not None,
    )


def _continuations(
    seen: Sequence[_Seen], asked: Asker, continue_: Continue | None
) -> dict[str, bool]:
    if continue_ is None:
        return {}
    written = continue_([each.name[0] for each in seen])
    return {name: asked.first_in(text) is not None for name, text in written.items()}


# -- statistics ------------------------------------------------------------------------------------
def _others_rate(one: _Seen, seen: Sequence[_Seen]) -> float | None:
    """The rate of unsupported hits elsewhere, never 0: half a hit more was perhaps missed."""
    judged = sum(each.judged for each in seen) - one.judged
    if judged == 0:
        return None
    hits = sum(each.num_unsupported for each in seen) - one.num_unsupported
    return (hits + 0.5) / (judged + 1)


def _p_value(one: _Seen, seen: Sequence[_Seen]) -> float | None:
    rate = _others_rate(one, seen)
    if rate is None:
        return None
    if not one.num_unsupported:
        return 1.0
    return float(stats.binom.sf(one.num_unsupported - 1, one.judged, rate))


def _q_values(p_values: Sequence[float | None]) -> list[float | None]:
    known = [p for p in p_values if p is not None]
    adjusted = iter(stats.false_discovery_control(known).tolist() if known else [])
    return [None if p is None else next(adjusted) for p in p_values]


def any_over_grid(rate: float, n: int) -> float:
    """That any of n readings hits where each does at a rate: `1 - (1 - rate)^n`."""
    return 1 - (1 - rate) ** n


def _cross(one: _Seen, seen: Sequence[_Seen], rng: random.Random) -> float | None:
    """Share of other transcripts of which as many readings have an unsupported hit."""
    others = [each for each in seen if each.name != one.name]
    if not others:
        return None
    donors = others if len(others) <= DONORS else rng.sample(others, DONORS)
    drawn = (rng.sample(d.unsupported, min(len(one.verdicts), len(d.unsupported))) for d in donors)
    return sum(any(each) for each in drawn) / len(donors)


def _finding(
    one: _Seen,
    seen: Sequence[_Seen],
    p: float | None,
    q: float | None,
    continuation: bool | None,
    rng: random.Random,
) -> Finding:
    rate = _others_rate(one, seen)
    hits = sum(bool(each) for each in one.verdicts)
    return Finding(
        transcript=one.name[0],
        name=one.name[1],
        n=one.judged,
        unjudged=len(one.verdicts) - one.judged,
        hits=hits,
        unsupported=one.num_unsupported,
        rate=one.num_unsupported / one.judged if one.judged else 0.0,
        any=one.num_unsupported > 0,
        others=rate,
        floor=None if rate is None else any_over_grid(rate, one.judged),
        cross=_cross(one, seen, rng),
        text=one.text,
        continuation=continuation,
        p=p,
        q=q,
        label=_label(hits, one.num_unsupported, q),
        positions=tuple(p for p, hit in zip(one.positions, one.unsupported, strict=True) if hit),
    )


def _label(hits: int, unsupported: int, q: float | None) -> Label:
    if not hits:
        return "none"
    if not unsupported:
        return "echo"
    if q is None:
        return "untested"
    return "found" if q <= LEVEL else "unspecific"


def _summary(
    detector: Detector, seen: Sequence[_Seen], findings: tuple[Finding, ...], continued: bool
) -> Detected:
    floors = [each.floor for each in findings if each.floor is not None]
    labels = [each.label for each in findings]
    return Detected(
        name=detector.name,
        kind=detector.kind,
        sha256=detector.sha256,
        any=share([each.any for each in findings]),
        found=share([label == "found" for label in labels]),
        rate=_rate(seen),
        floor=sum(floors) / len(floors) if floors else None,
        text=share([each.text for each in findings]),
        continuation=share([bool(each.continuation) for each in findings]) if continued else None,
        labels={label: labels.count(label) for label in LABELS},
        transcripts=findings,
    )


def share(values: Sequence[bool]) -> Share:
    """A share of transcripts with Wilson's interval."""
    if not values:
        return Share(0.0, None, None)
    found = stats.binomtest(sum(values), len(values)).proportion_ci(method="wilson")
    return Share(sum(values) / len(values), float(found.low), float(found.high))


def _rate(seen: Sequence[_Seen]) -> Share:
    hits = torch.tensor([float(each.num_unsupported) for each in seen])
    judged = torch.tensor([float(each.judged) for each in seen])
    if not float(judged.sum()):
        return Share(0.0, None, None)
    value = float(hits.sum() / judged.sum())
    if len(seen) < 2:
        return Share(value, None, None)
    interval: Interval = ratio_interval(hits, judged, [each.name[0] for each in seen])
    return Share(value, interval.low, interval.high)


def hits_of(found: Detected, label: Label = "found") -> Iterator[Finding]:
    """The transcripts of a label, the surest first."""
    chosen = (each for each in found.transcripts if each.label == label)
    yield from sorted(chosen, key=lambda each: (each.q or 0.0, -each.rate))
