"""What an explanation claims, whether it is true, and what a probe says.

The server knows no world. Whoever starts it may hand it one (`World`): documents whose states are
known, so that claims about them can be checked, and passages to show them with. Claims about any
text are checked against the prompt itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from nlakit.claims.system import ClaimSystem, State
from nlakit.data.corpus_extraction import turns_of
from nlakit.data.labels import Place
from nlakit.evals.probe_store import ProbeAnswer, Probes
from nlakit.examples import ExampleText
from nlakit.models.chat_marks import common_prefix
from nlakit.models.target import Target

from .queue import ScoredSample
from .schemas_v1 import ClaimResult, DocumentRef, FactResult, Passage, PassageMessage, ProbeReading
from .tokens import Prompt

ClaimsOf = Callable[[ScoredSample], list[ClaimResult]]
"""The claims of an explanation of one activation."""
UnsaidOf = Callable[[str], list[FactResult] | None]
"""What is true at a token and an explanation does not say."""


class WorldDocument(Protocol):
    """A document of which it is known what is true at every character."""

    @property
    def text(self) -> str: ...

    def state(self, char_end: int) -> State:
        """What is true of the text up to a character."""
        ...


class DemoPassage(Protocol):
    """The head of a document in which something can be seen; a text, or messages."""

    @property
    def id(self) -> str: ...
    @property
    def title(self) -> str: ...
    @property
    def case(self) -> str: ...
    @property
    def note(self) -> str: ...
    @property
    def text(self) -> str | None: ...
    @property
    def messages(self) -> Sequence[tuple[str, str]] | None: ...
    @property
    def document(self) -> tuple[int, int, str]: ...


class World(Protocol):
    """Documents whose truth is known."""

    def document(self, seed: int, index: int, genre: str | None) -> WorldDocument:
        """The document of these numbers."""
        ...

    def passages(self, target: Target) -> Sequence[DemoPassage]:
        """Passages that a target can read."""
        ...


class Judge:
    """Checks the claims of explanations of one prompt.

    Args:
        system: how explanations are read as claims.
        document: the document that the prompt is the head of; None: nobody knows it, and only
            claims that can be checked in any text have a verdict.
        probes: read the activations beside the explanations.
    """

    def __init__(
        self,
        system: ClaimSystem,
        prompt: Prompt | None,
        document: WorldDocument | None,
        probes: Probes | None = None,
    ) -> None:
        self._system, self._prompt, self._document = system, prompt, document
        self._probes = probes
        if prompt is not None and document is not None:
            self._head, self._matched = _match(prompt.encoded.text, document.text)

    def at(self, position: int, vector_D: Tensor) -> ClaimsOf:
        """How explanations of the activation at a token are judged: with a verdict where it can be
        had, and a probe's answer where there is a probe of the claim's kind."""
        state = self._state(position)
        check = None if state is None else self._system.known().check
        answers = {} if self._probes is None else self._probes.read(vector_D)

        def claims_of(sample: ScoredSample) -> list[ClaimResult]:
            chances = {(each.start, each.kind): each.confidence for each in sample.claims}
            return [
                ClaimResult(
                    kind=claim.kind,
                    value=claim.value,
                    start=claim.start,
                    end=claim.end,
                    verdict=None if check is None else check(claim, state),
                    confidence=chances.get((claim.start, claim.kind)),
                    probe=self._reading(claim.kind, answers),
                )
                for claim in self._system.find(sample.text)
            ]

        return claims_of

    def unsaid(self, position: int, vector_D: Tensor, explanation: str) -> list[FactResult] | None:
        """The facts at a token that no true claim of an explanation names, with a probe's answer.

        Silence is shown beside what is said, so that "3 true, 0 false" never stands alone. None
        where nobody knows what is true there.
        """
        state = self._state(position)
        if state is None:
            return None
        checker = self._system.known()
        answers = {} if self._probes is None else self._probes.read(vector_D)
        claims = self._system.find(explanation)
        said = {each.kind for each in claims if checker.check(each, state) == "true"}
        return [
            FactResult(
                kind=kind,
                value=" or ".join(fact.values),
                planned=fact.planned,
                probe=self._reading(kind, answers),
            )
            for kind, fact in checker.facts(state).items()
            if fact.counts and kind not in said
        ]

    def _state(self, position: int) -> State | None:
        """What is true of the prompt up to a token; None where nobody knows, or can check."""
        if self._prompt is None or self._system.checker is None:
            return None
        char_end = self._prompt.encoded.offsets[position][1]
        if self._document is None:
            states_of = self._system.checker.states_of
            return None if states_of is None else states_of([_place(self._prompt, char_end)])[0]
        inside = max(0, char_end - self._head)
        return self._document.state(inside) if inside <= self._matched else None

    def _reading(self, kind: str, answers: dict[str, ProbeAnswer]) -> ProbeReading | None:
        answer = answers.get(kind)
        if answer is None or self._probes is None:
            return None
        tested = self._probes.card.kinds[kind]
        return ProbeReading(
            value=answer.value,
            confidence=answer.confidence,
            accuracy=tested.accuracy,
            chance=tested.chance,
        )


def passage_record(made: DemoPassage | ExampleText) -> Passage:
    """A passage as it is sent."""
    document = None
    if not isinstance(made, ExampleText):
        seed, index, genre = made.document
        document = DocumentRef(seed=seed, index=index, genre=genre)  # pyright: ignore[reportArgumentType]
    messages = [PassageMessage(role=role, content=content) for role, content in made.messages or ()]
    return Passage(
        id=made.id,
        title=made.title,
        case=made.case,
        note=made.note,
        text=made.text,
        messages=messages or None,
        document=document,
    )


def _place(prompt: Prompt, char_end: int) -> Place:
    """The prompt up to a character, as a teacher sees it; nobody asked the target what follows."""
    text = prompt.encoded.text
    turns = turns_of(prompt.messages, text, char_end)
    return Place(text[:char_end], 0, 0, char_end, turns=tuple(turns))


def _match(text: str, world_text: str) -> tuple[int, int]:
    """Where the document begins in a text (a template may write BOS), and how far they agree."""
    start = max(0, text.find(world_text[:12])) if world_text else 0
    return start, _shared(text[start:], world_text)


def _shared(first: str, second: str) -> int:
    length = min(len(first), len(second))
    if first[:length] == second[:length]:
        return length
    return common_prefix(first, second)
