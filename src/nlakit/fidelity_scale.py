"""The one scale on which every fidelity is shown: its axis, its floors, its words.

Terminal, notebook, page, doctor and reports take their words from here, so that none can contradict
another. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

GradeKey = Literal["faithful", "partly", "weak", "doubtful", "worse", "none"]
GradeWord = Literal[
    "faithful",
    "partly",
    "weak",
    "do not believe",
    "worse than knowing nothing",
    "no baseline",
]

ABOUT = (
    "Fidelity compares the activation that the words reconstruct with the real one: 1 is a perfect "
    "match.",
    "The floors are what a reader that knows nothing about this token reaches, on the same scale; "
    "only a fidelity above all of them says anything.",
    "The axis runs from the worst floor to 1; a value beyond its end stands at the end, with an "
    "arrow.",
    "FVE, the fraction of variance explained, is the same measure over many activations, and "
    "neither says that each claim in the words is true.",
)
"""What is shown, in four sentences, wherever somebody asks."""

FLOOR_LABELS = {
    "mean": "the mean activation",
    "shuffled": "another document's explanation",
    "empty": "an empty explanation",
    "generic": "one sentence for every text",
    "zero_vector": "what is said of a zero vector",
}
NO_FLOOR = 0.0
"""Stands for the best floor where none was measured: the error of the plain training mean."""
LOWEST_AXIS = -1.0
"""The axis's low end where no floors are known: unrelated vectors at the usual variances."""


@dataclass(frozen=True)
class Grade:
    """A word for a range of fidelities, and how to show it."""

    key: GradeKey
    word: GradeWord
    threshold: float
    """Lowest fidelity of the grade, before the floors are considered."""
    meaning: str
    terminal: str
    html: str


FAITHFUL = Grade(
    "faithful", "faithful", 0.8,
    "The words alone reconstruct this activation almost completely.", "green", "#1a7f37",
)  # fmt: skip
PARTLY = Grade(
    "partly", "partly", 0.5,
    "The words carry much of this activation, and miss or blur some of it.", "yellow", "#8a6d00",
)  # fmt: skip
WEAK = Grade(
    "weak", "weak", 0.2, "The words carry only a little of this activation.",
    "dark_orange", "#b35900",
)  # fmt: skip
DOUBTFUL = Grade(
    "doubtful", "do not believe", float("-inf"),
    "Hardly above what a reader that knows nothing reaches. Take the words for made up.",
    "red", "#c0262d",
)  # fmt: skip
WORSE = Grade(
    "worse", "worse than knowing nothing", float("-inf"),
    "Below what a reader that knows nothing reaches. The words describe something else.",
    "red", "#8b1a20",
)  # fmt: skip
UNGRADED = Grade(
    "none", "no baseline", float("-inf"),
    "No mean of training activations is known, so the number is a bare cosine and has no grade.",
    "default", "#555555",
)  # fmt: skip
GRADES = (FAITHFUL, PARTLY, WEAK, DOUBTFUL, WORSE)
"""Best first."""


def grade_named(word: str) -> Grade:
    """The grade with this word. Raises `KeyError` for a word that is no grade's."""
    return {each.word: each for each in (*GRADES, UNGRADED)}[word]


def scale_note(floors: Mapping[str, float]) -> str:
    """One line below a table of fidelities: the ends of the scale, and the floors on it."""
    told = FidelityScale(floors).told_floors()
    reached = f"; knowing nothing reaches: {told}" if told else ""
    return f"fidelity: 1 is a perfect match{reached}"


@dataclass(frozen=True)
class FidelityScale:
    """The scale of one pair.

    Attributes:
        floors: FVE that knowing nothing reaches, by name; empty where nobody measured it.
    """

    floors: Mapping[str, float] = field(default_factory=dict)

    @property
    def knowing_nothing(self) -> float:
        """The best floor: what an explanation has to beat."""
        return max(self.floors.values(), default=NO_FLOOR)

    @property
    def low(self) -> float:
        """Where the axis begins: at the worst floor, and below 0 in any case."""
        return min([*self.floors.values(), 0.0]) if self.floors else LOWEST_AXIS

    def grade(self, fidelity: float) -> Grade:
        """The grade of a fidelity. A value that is not a number is worse than knowing nothing."""
        if not fidelity >= self.knowing_nothing:
            return WORSE
        return next(each for each in GRADES if fidelity >= each.threshold)

    def share(self, fidelity: float) -> float:
        """Where a fidelity lies on the axis: 0 at its low end, 1 at fidelity 1; cut at both."""
        share = (fidelity - self.low) / (1 - self.low)
        return min(1.0, max(0.0, share)) if share == share else 0.0

    def is_outside(self, fidelity: float) -> bool:
        """Whether a fidelity lies below the axis, and has to be shown as lying there."""
        return not fidelity >= self.low

    def told_floors(self) -> str:
        """The floors in words, best first: `mean −0.49, generic −0.84`; empty without floors."""
        ordered = sorted(self.floors.items(), key=lambda item: -item[1])
        return ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in ordered)
