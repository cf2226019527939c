"""What a claim is, whoever wrote the explanation and whoever checks it. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Verdict = Literal["true", "false", "uncheckable"]


@dataclass(frozen=True, slots=True)
class Claim:
    """`explanation[start:end]` says that `kind` is `value`."""

    kind: str
    value: str
    start: int
    end: int


class Extent(NamedTuple):
    """`explanation[start:end]` is what the claim was free to say; `wordings` equally likely ways.

    So the probability that a model which learned from the teacher gives to the claim is `wordings`
    times what it gives to these characters, at most 1.
    """

    start: int
    end: int
    wordings: int


class Fact(NamedTuple):
    """What is true of one kind at a row, and could be claimed.

    Attributes:
        values: each of them is true; a kind such as the subject words has several.
        counts: False for what goes without saying: it enters the line of its kind only.
        planned: whether it is fixed at the row, but not written yet.
    """

    values: tuple[str, ...]
    counts: bool = True
    planned: bool = False
