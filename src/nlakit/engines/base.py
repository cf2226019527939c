"""What every engine can do, what some cannot, and the values that go in and out."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, NoReturn, Protocol, runtime_checkable

from nlakit.core.temperature import GREEDY_BELOW
from nlakit.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from torch import Tensor

    from nlakit.engines.local import Row
    from nlakit.models.reconstructor import Reconstructor
    from nlakit.models.target import Encoded
    from nlakit.models.verbalizer import Verbalizer

MAX_NEW_TOKENS = 120
"""The longest answer, in tokens, where nobody says."""

OnText = Callable[[int, int, str], None]
"""Called with (row, sample, explanation so far) after each token."""


@dataclass(frozen=True)
class Sampling:
    """How explanations are drawn.

    Attributes:
        samples: explanations per vector.
        temperature: 0 takes the most likely token each time; so does anything below
            `GREEDY_BELOW`, which becomes 0.
        top_p: only the smallest set of likeliest tokens with this mass can be drawn.
        max_new_tokens: an answer that is not closed by then is cut.
        seed: with a row's place and the sample's number, it decides the row's text.

    Raises:
        InputError: a number out of its range.
    """

    samples: int = 1
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = MAX_NEW_TOKENS
    seed: int = 0

    def __post_init__(self) -> None:
        _require(self.samples >= 1, "samples", self.samples, "1 or more")
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "1 or more")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        is_number = math.isfinite(self.temperature) and self.temperature >= 0
        _require(is_number, "temperature", self.temperature, "0 or a positive number")
        if self.temperature < GREEDY_BELOW:
            object.__setattr__(self, "temperature", 0.0)


def sampling_for(
    samples: int, temperature: float | None, max_new_tokens: int, seed: int
) -> Sampling:
    """Sampling with a temperature of 0 for one sample and 1 for several, unless told: several at 0
    would all be the same. Raises `InputError` for a number out of its range."""
    chosen = (0.0 if samples == 1 else 1.0) if temperature is None else temperature
    return Sampling(samples=samples, temperature=chosen, max_new_tokens=max_new_tokens, seed=seed)


@dataclass(frozen=True)
class Completion:
    """One answer of the verbalizer.

    Attributes:
        text: the explanation, without tags; where `closed` is False, what there was of it.
        raw_text: the whole answer.
        ids: its tokens, the tag and EOS included where it got that far.
        logprobs: per token, under the model at temperature 1, whatever it was sampled at.
        closed: whether both tags are there.
    """

    text: str
    raw_text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    closed: bool


class Engine(Protocol):
    """Runs the three models: what every engine has.

    What an engine cannot do, by `REFUSALS`, it refuses with an `UnsupportedError` before any work
    starts.
    """

    @property
    def kind(self) -> str:
        """Its row in `REFUSALS`."""
        ...

    @property
    def verbalizer(self) -> Verbalizer | None:
        """What gives probabilities of words, on this machine; None: it is somewhere else."""
        ...

    def verbalize(
        self,
        vectors_ND: Tensor,
        sampling: Sampling,
        on_text: OnText | None = None,
        first: int = 0,
    ) -> list[list[Completion]]:
        """Per vector, `sampling.samples` answers.

        Vectors are numbered from `first`. A row's text depends on its vector, the seed, this number
        and the sample's number, not on what else is in the batch.
        """
        ...

    def reconstruct(self, explanations: Sequence[str]) -> Tensor:
        """Per explanation a float32 vector: N x D."""
        ...

    def extract(self, encoded: Encoded, positions: Sequence[int] | None = None) -> Tensor:
        """Raw float32 activations at token positions (None: at all of them): P x D."""
        ...


class Session(Protocol):
    """A batch that never ends: rows of many callers, who come and go between its steps."""

    max_rows: int

    @property
    def rows(self) -> Sequence[Row]:
        """Those being written."""
        ...

    def admit(self, rows: list[Row], vectors_ND: Tensor) -> None:
        """Let rows in, each with its raw vector, and write their first tokens."""
        ...

    def step(self) -> None:
        """Write one token in every row."""
        ...

    def release(self) -> list[Row]:
        """Take out the rows that have ended."""
        ...

    def drop(self, rows: Collection[Row]) -> None:
        """Take out rows that nobody waits for any more."""
        ...

    def completion(self, row: Row) -> Completion:
        """What a row that was released says."""
        ...

    def raw_text(self, row: Row) -> str:
        """A row's words so far, tags included."""
        ...


@runtime_checkable
class SessionEngine(Engine, Protocol):
    """An engine whose steps can be taken one by one: what a server of many clients needs."""

    def session(self, max_rows: int | None = None) -> Session:
        """A new batch."""
        ...

    def longest_answer(self) -> int:
        """The most tokens that an answer can have."""
        ...


class PolicyEngine(Engine, Protocol):
    """An engine over a pair in memory, which may be in training."""

    @property
    def verbalizer(self) -> Verbalizer: ...

    @property
    def reconstructor(self) -> Reconstructor: ...

    def refresh(self) -> None:
        """The verbalizer's weights have changed: what was read of them is of no use."""
        ...


class Capability(StrEnum):
    """What can be asked of an engine."""

    VERBALIZE = "verbalize"
    SAMPLES = "samples"
    SEED = "seed"
    TOP_P = "top_p"
    TOKENS = "tokens"
    STREAM = "stream"
    EXTRACT = "extract"
    RECONSTRUCT = "reconstruct"
    SCORE = "score"
    SESSION = "session"

    @property
    def meaning(self) -> str:
        """In words."""
        return _MEANINGS[self]


_MEANINGS = {
    Capability.VERBALIZE: "explanations of vectors",
    Capability.SAMPLES: "several explanations of a vector",
    Capability.SEED: "the same explanations for the same seed",
    Capability.TOP_P: "sampling from the likeliest tokens only",
    Capability.TOKENS: "token ids and log-probabilities of explanations",
    Capability.STREAM: "words while they are written",
    Capability.EXTRACT: "activations of a text",
    Capability.RECONSTRUCT: "the vector an explanation stands for",
    Capability.SCORE: "how well an explanation fits a vector",
    Capability.SESSION: "rows that come and go in one batch",
}

_LOCALLY = "load the NLA on this machine: nlakit.load(DIRECTORY)."
_OF_SERVER = "ask a server of nlakit, which has it under /v1, or " + _LOCALLY

REFUSALS: Mapping[str, Mapping[Capability, str]] = MappingProxyType(
    {
        "local": {
            Capability.SCORE: "compare engine.reconstruct with the vector, or use Pair.score.",
        },
        "fake": {
            Capability.SCORE: "compare engine.reconstruct with the vector, or use Pair.score.",
            Capability.SESSION: "use LocalEngine with a tiny model.",
        },
        "vllm": {
            Capability.SCORE: "compare engine.reconstruct with the vector, or use Pair.score.",
            Capability.STREAM: "use LocalEngine, which tells on_text after each token.",
            Capability.SESSION: "send the vectors together: vLLM batches them.",
        },
        "remote": {
            Capability.TOKENS: "the interface has words only; " + _LOCALLY,
            Capability.RECONSTRUCT: "use RemoteEngine.score with the vector, or " + _LOCALLY,
            Capability.SESSION: "send the vectors together: the server batches all requests.",
        },
        "remote_wire": {
            Capability.SAMPLES: _OF_SERVER,
            Capability.SEED: _OF_SERVER,
            Capability.TOP_P: _OF_SERVER,
            Capability.TOKENS: "the interface has words only; " + _LOCALLY,
            Capability.RECONSTRUCT: "use RemoteEngine.score with the vector, or " + _LOCALLY,
            Capability.SESSION: "send the vectors together: the server batches all requests.",
        },
    }
)
"""What an engine cannot do, and what to do instead. `remote_wire` is a server that speaks only the
interface of Neuronpedia's."""


def refuse(engine: str, capability: Capability) -> NoReturn:
    """Raise the `UnsupportedError` of a row of `REFUSALS`."""
    raise UnsupportedError(engine, capability.meaning, REFUSALS[engine][capability])


def with_sessions(engine: Engine) -> SessionEngine:
    """The engine, where it has sessions. Raises `UnsupportedError` where it has none."""
    if not isinstance(engine, SessionEngine):
        refuse(engine.kind, Capability.SESSION)
    return engine


def _require(holds: bool, field: str, found: float, expected: str) -> None:
    if not holds:
        raise InputError(f"Sampling.{field} must be {expected}, found {found}.")
