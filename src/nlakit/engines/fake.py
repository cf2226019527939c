"""An engine that says what it was told to: for tests of whatever stands on an engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nlakit.core.inject import check_vectors
from nlakit.engines.base import Completion, OnText, Sampling
from nlakit.errors import InputError
from nlakit.models.target import Encoded


class FakeEngine:
    """Answers from a script, in zero time.

    Args:
        script: explanations, dealt out in the order of rows and samples and then from the start;
            None among them stands for an answer that is never closed.
        d_model: width of the vectors.
        vector_of: what an explanation is reconstructed as; by default zeros.
        activations: what is at every position of a text, T x D; by default zeros.

    Attributes:
        calls: names of the methods called, in order.
    """

    def __init__(
        self,
        script: Sequence[str | None],
        d_model: int,
        vector_of: Callable[[str], Tensor] | None = None,
        activations: Tensor | None = None,
    ) -> None:
        if not script:
            raise InputError("FakeEngine needs at least one line in its script, found none.")
        self.script = list(script)
        self.d_model = d_model
        self.calls: list[str] = []
        self._vector_of = vector_of or (lambda _: torch.zeros(d_model))
        self._activations = activations

    @property
    def kind(self) -> str:
        """Its row in `REFUSALS`: a script has no steps."""
        return "fake"

    @property
    def verbalizer(self) -> None:
        """None: a script gives no probabilities."""
        return None

    def verbalize(
        self,
        vectors_ND: Tensor,
        sampling: Sampling,
        on_text: OnText | None = None,
        first: int = 0,
    ) -> list[list[Completion]]:
        """The script, dealt out from row `first` on. Refuses the vectors that any engine refuses.

        `on_text` is told the row's place in this call.
        """
        self.calls.append("verbalize")
        check_vectors(vectors_ND, self.d_model)
        samples = range(sampling.samples)
        rows = range(first, first + len(vectors_ND))
        groups = [[self._answer(row, sample, sampling) for sample in samples] for row in rows]
        if on_text is not None:
            for place, group in enumerate(groups):
                for sample, answer in enumerate(group):
                    on_text(place, sample, answer.text)
        return groups

    def reconstruct(self, explanations: Sequence[str]) -> Tensor:
        """What `vector_of` says, N x D."""
        self.calls.append("reconstruct")
        return torch.stack([self._vector_of(text).float() for text in explanations])

    def extract(self, encoded: Encoded, positions: Sequence[int] | None = None) -> Tensor:
        """Rows of the given activations, P x D."""
        self.calls.append("extract")
        places = list(range(len(encoded.ids))) if positions is None else list(positions)
        if self._activations is None:
            return torch.zeros(len(places), self.d_model)
        return self._activations[places].float()

    def _answer(self, row: int, sample: int, sampling: Sampling) -> Completion:
        text = self.script[(row * sampling.samples + sample) % len(self.script)]
        closed = text is not None
        raw = f"<explanation>{text}</explanation>" if closed else "<explanation>"
        ids = tuple(raw.encode("utf-8")[: sampling.max_new_tokens])
        return Completion(text or "", raw, ids, (0.0,) * len(ids), closed)
