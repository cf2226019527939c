"""What every engine can do, and the values that go in and out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from nlakit.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from nlakit.models.target import Encoded

OnText = Callable[[int, int, str], None]
"""Called with (row, sample, explanation so far) after each token."""


@dataclass(frozen=True)
class Sampling:
    """How explanations are drawn.

    Attributes:
        samples: explanations per vector.
        temperature: 0 takes the likeliest token each time.
        top_p: only the smallest set of likeliest tokens with this mass can be drawn.
        max_new_tokens: an answer that is not closed by then is cut.
        seed: with a row's place and the sample's number, it decides the row's text.

    Raises:
        InputError: a number out of its range.
    """

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 120
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.samples >= 1, "samples", self.samples, "1 or more")
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "1 or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        is_number = math.isfinite(self.temperature) and self.temperature >= 0
        _require(is_number, "temperature", self.temperature, "0 or a positive number")


@dataclass(frozen=True)
class Completion:
    """One answer of the verbalizer.

    Attributes:
        text: the explanation, without tags; where `closed` is False, what there was of it.
        raw_text: the whole answer.
        ids: its tokens, the tag and EOS included where it got that far.
        logprobs: per token, under the model at temperature 1, whatever it was drawn at.
        closed: whether both tags are there.
    """

    text: str
    raw_text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    closed: bool


class Engine(Protocol):
    """Runs the three models. What an engine cannot do it refuses with a `UserError`."""

    def verbalize(
        self, vectors_ND: Tensor, sampling: Sampling, on_text: OnText | None = None
    ) -> list[list[Completion]]:
        """Per vector, `sampling.samples` answers. A row's text does not depend on its batch."""
        ...

    def reconstruct(self, explanations: Sequence[str]) -> Tensor:
        """Per explanation a float32 vector: N x D."""
        ...

    def extract(self, encoded: Encoded, positions: Sequence[int] | None = None) -> Tensor:
        """Raw float32 activations at token positions (None: at all of them): P x D."""
        ...


def _require(holds: bool, field: str, found: float, expected: str) -> None:
    if not holds:
        raise InputError(f"Sampling.{field} must be {expected}, found {found}.")
