"""The engine that runs elsewhere: another nlakit server, or one of Neuronpedia's kind.

The server is asked what it speaks when the engine is made. Both are asked in batches of at most
`describe_batch` vectors. What cannot be had over the wire is refused (`base.REFUSALS`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, NoReturn

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from nlakit.core.inject import check_vectors
from nlakit.engines.base import (
    MAX_NEW_TOKENS,
    Capability,
    Completion,
    OnText,
    Sampling,
    refuse,
    sampling_for,
)
from nlakit.engines.wire import Connection, JsonObject
from nlakit.errors import InputError, RemoteError
from nlakit.fidelity_scale import UNGRADED, FidelityScale
from nlakit.models.target import Encoded
from nlakit.reading import Reading, Sample, Score, TokenReading

NO_FIELDS: Mapping[str, Any] = MappingProxyType({})
DESCRIBE_BATCH = 512
"""The most vectors that the interface takes at once."""


class Facts(NamedTuple):
    """What a server says of itself.

    Attributes:
        variance: None where it does not say, or knows none; fidelities are then not known.
        own: whether it is a server of nlakit, with /v1.
    """

    name: str
    layer: int
    d_model: int
    variance: float | None
    floors: dict[str, float]
    own: bool


class RemoteEngine:
    """Asks a server. Make the connection with `Connection(url, secret)`.

    Attributes:
        facts: what is served there.

    Raises:
        RemoteError: the server cannot be reached, refuses, or speaks another language.
    """

    def __init__(self, connection: Connection, describe_batch: int = DESCRIBE_BATCH) -> None:
        self.connection = connection
        self.describe_batch = describe_batch
        self.facts = read_facts(connection)

    @property
    def kind(self) -> str:
        """Its row in `REFUSALS`."""
        return "remote" if self.facts.own else "remote_wire"

    @property
    def verbalizer(self) -> None:
        """None: it is there."""
        return None

    def verbalize(
        self,
        vectors_ND: Tensor,
        sampling: Sampling,
        on_text: OnText | None = None,
        first: int = 0,
    ) -> list[list[Completion]]:
        """Per vector, `sampling.samples` answers, without token ids and log-probabilities.

        The server numbers the vectors of each request from 0, so the seed it is sent is the number
        of the request's first vector plus `sampling.seed`. The first request of a call draws what
        `LocalEngine` draws for `first = 0`.

        Raises:
            UnsupportedError: samples, a seed or top_p of a server that speaks only the wire.
            InputError: bad vectors.
            RemoteError: the server refuses, or a vector failed there.
        """
        return [
            [_completion(sample) for sample in _samples(record)]
            for record in self.described(vectors_ND, sampling, on_text, first)
        ]

    def described(
        self,
        vectors_ND: Tensor,
        sampling: Sampling,
        on_text: OnText | None = None,
        first: int = 0,
    ) -> list[JsonObject]:
        """The server's records, one a vector. Raises as `verbalize`."""
        self._check_sampling(sampling)
        check_vectors(vectors_ND, self.facts.d_model)
        records: list[JsonObject] = []
        for batch_ND in vectors_ND.cpu().float().split(self.describe_batch):
            if len(batch_ND):
                fields = self._fields(sampling, first + len(records))
                body = {"activations": batch_ND.tolist(), **fields}
                records += self._describe_batch(body, len(batch_ND), len(records), on_text)
        return records

    def reconstruct(self, explanations: Sequence[str]) -> NoReturn:
        """Refused: vectors of explanations do not travel."""
        refuse(self.kind, Capability.RECONSTRUCT)

    def score(self, explanation: str, vector_D: Tensor) -> Score:
        """How well an explanation fits an activation.

        Raises:
            InputError: a bad vector.
            RemoteError: the server refuses.
        """
        check_vectors(vector_D[None], self.facts.d_model)
        body = {"description": explanation, "activation": vector_D.cpu().float().tolist()}
        return self.score_of(self.connection.post("/score", body))

    def extract(self, encoded: Encoded, positions: Sequence[int] | None = None) -> Tensor:
        """Raw float32 activations at token positions (None: at all of them): P x D.

        The text is sent, and tokenised there.

        Raises:
            RemoteError: the server makes other tokens of it.
        """
        places = list(range(len(encoded.ids))) if positions is None else list(positions)
        read = self._extract_own if self.facts.own else self._extract_wire
        vectors_PD, found = read(encoded.text, places)
        expected = [encoded.ids[place] for place in places]
        if found != expected:
            raise RemoteError(
                f"{self.connection.url} reads other tokens in the text than the target here: "
                f"{found[:5]} for {expected[:5]}. Use the tokenizer of the model served there."
            )
        return vectors_PD

    def explain(
        self,
        text: str | Sequence[JsonObject],
        positions: Sequence[int] | None,
        sampling: Sampling,
        on_text: OnText | None = None,
        chat: Mapping[str, Any] = NO_FIELDS,
    ) -> list[JsonObject]:
        """The server's records of a text or a conversation, in the order of positions.

        Args:
            chat: fields that go with messages, such as `add_generation_prompt`.

        Raises:
            UnsupportedError, RemoteError: as `verbalize`.
        """
        self._check_sampling(sampling)
        given = {"text": text} if isinstance(text, str) else {"messages": list(text)}
        places = None if positions is None else list(positions)
        body: JsonObject = {**given, "positions": places, "reverse": False}
        body |= self._fields(sampling, 0)
        if not isinstance(text, str):
            body |= {"add_generation_prompt": False, **chat}
        return self._explained(body, on_text)

    def _explained(self, body: JsonObject, on_text: OnText | None) -> list[JsonObject]:
        if on_text is None:
            return _whole(self.connection.post(self._path("/explain"), body)["results"])
        order: list[int] = []
        found: dict[int, list[JsonObject]] = {}
        for record in self._streamed("/explain", body):
            if "layer_index" in record and "total" in record:
                num_tokens = int(record["prompt_length"])
                order = [place % num_tokens for place in body["positions"] or range(num_tokens)]
            elif record.get("done") is False:
                on_text(order.index(int(record["position"])), 0, _inner(record["text"]))
            else:
                found.setdefault(int(record["position"]), []).append(record)
        # Places end when they end; one that was asked for twice ends twice.
        try:
            return _whole([found[place].pop(0) for place in order])
        except LookupError as error:
            raise RemoteError(
                f"{self.connection.url} left out token {error}. Ask again."
            ) from error

    def _describe_batch(
        self, body: JsonObject, num: int, first: int, on_text: OnText | None
    ) -> list[JsonObject]:
        if on_text is None:
            records = self.connection.post(self._path("/describe"), body)["results"]
        else:
            found: dict[int, JsonObject] = {}
            for record in self._streamed("/describe", body):
                # A server of Neuronpedia's leaves the index out of finals, and keeps the order.
                index = int(record.get("index", len(found)))
                if record.get("done") is False:
                    on_text(first + index, 0, _inner(record["text"]))
                else:
                    found[index] = record
            records = [found[index] for index in sorted(found)]
        if len(records) != num:
            raise RemoteError(
                f"{self.connection.url} answered {len(records)} of {num} vectors. Ask again."
            )
        return _whole(records)

    def _streamed(self, path: str, body: JsonObject) -> Iterator[JsonObject]:
        """Frames of words and of results; places in the queue are left out."""
        for record in self.connection.frames(self._path(path), {**body, "stream": True}):
            if "error" in record:
                raise RemoteError(f"{self.connection.url}: {record['error']}")
            if "position_in_queue" not in record:
                yield record

    def _extract_own(self, text: str, places: list[int]) -> tuple[Tensor, list[int]]:
        if not places:
            return torch.zeros(0, self.facts.d_model), []
        body = {"text": text, "positions": places}
        raw = self.connection.post_for_bytes("/v1/extract", body)
        try:
            tensors = load_tensors(raw)
            return tensors["vectors"], tensors["token_ids"].tolist()
        except (SafetensorError, ValueError, KeyError) as error:
            raise RemoteError(f"{self.connection.url} sent no activations: {error}") from error

    def _extract_wire(self, text: str, places: list[int]) -> tuple[Tensor, list[int]]:
        tokens = self.connection.post("/extract", {"text": text})["tokens"]
        if any(place >= len(tokens) for place in places):
            return torch.zeros(0, self.facts.d_model), [each["token_id"] for each in tokens]
        chosen = [tokens[place] for place in places]
        vectors_PD = torch.tensor([each["activation"] for each in chosen]).view(len(places), -1)
        return vectors_PD.float(), [each["token_id"] for each in chosen]

    def _check_sampling(self, sampling: Sampling) -> None:
        if self.facts.own:
            return
        if sampling.samples > 1:
            refuse(self.kind, Capability.SAMPLES)
        if sampling.top_p < 1:
            refuse(self.kind, Capability.TOP_P)
        if sampling.seed and sampling.temperature > 0:
            refuse(self.kind, Capability.SEED)

    def _fields(self, sampling: Sampling, first: int) -> JsonObject:
        fields: JsonObject = {
            "temperature": sampling.temperature,
            "max_new_tokens": sampling.max_new_tokens,
        }
        if self.facts.own:
            fields |= {"samples": sampling.samples, "top_p": sampling.top_p}
            fields["seed"] = sampling.seed + first
        return fields

    def _path(self, path: str) -> str:
        return f"/v1{path}" if self.facts.own else path

    def score_of(self, record: JsonObject) -> Score:
        """The scores in a record of the server."""
        mse, cosine = (_number(record[key]) for key in ("mse", "cosine_similarity"))
        variance = self.facts.variance
        if variance is None:
            word = UNGRADED.word
            return Score(fidelity=cosine, cosine=cosine, mse=mse, baseline="none", word=word)
        fidelity = 1 - mse / variance
        word = FidelityScale(self.facts.floors).grade(fidelity).word
        return Score(fidelity=fidelity, cosine=cosine, mse=mse, word=word)


class RemotePair:
    """A pair that runs elsewhere: what `nlakit.Pair` reads, read over HTTP.

    Args:
        url: of a server of nlakit, or of one that speaks Neuronpedia's interface.
        secret: what it must be sent as X-SECRET-KEY.
    """

    def __init__(
        self, url: str, secret: str | None = None, connection: Connection | None = None
    ) -> None:
        self.engine = RemoteEngine(connection or Connection(url, secret))

    def explain(
        self,
        text: str | Sequence[JsonObject],
        positions: Sequence[int] | None = None,
        samples: int = 1,
        temperature: float | None = None,
        *,
        last: int | None = None,
        max_new_tokens: int = MAX_NEW_TOKENS,
        seed: int = 0,
        on_text: OnText | None = None,
        **chat: Any,
    ) -> Reading:
        """What the target there is thinking at tokens of a text, as `Pair.explain`; by default at
        all tokens, the BOS among them.

        Raises:
            InputError: an empty text, a bad sampling setting, both positions and last.
            RemoteError, UnsupportedError: the server refuses, or cannot do that.
        """
        if not text or (isinstance(text, str) and not text.strip()):
            raise InputError("The text is empty. Give at least one word.")
        if last is not None and (positions is not None or last < 1):
            raise InputError(f"last must be 1 or more, and without positions; found {last}.")
        places = positions if last is None else range(-last, 0)
        sampling = sampling_for(samples, temperature, max_new_tokens, seed)
        records = self.engine.explain(text, places, sampling, on_text, chat)
        rows = [self._row(record, record["position"], record["token"]) for record in records]
        return self._reading(rows, text if isinstance(text, str) else None)

    def describe(
        self,
        vectors_ND: Tensor,
        samples: int = 1,
        temperature: float | None = None,
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        seed: int = 0,
        on_text: OnText | None = None,
    ) -> Reading:
        """What bare activations say, N x D. Raises as `RemoteEngine.verbalize`."""
        sampling = sampling_for(samples, temperature, max_new_tokens, seed)
        records = self.engine.described(vectors_ND, sampling, on_text)
        return self._reading([self._row(each, n, "") for n, each in enumerate(records)], None)

    def score(self, explanation: str, vector_D: Tensor) -> Score:
        """How well an explanation fits an activation. Raises as `RemoteEngine.score`."""
        return self.engine.score(explanation, vector_D)

    def _row(self, record: JsonObject, position: int, token: str) -> TokenReading:
        samples = tuple(self._sample(each) for each in _samples(record))
        best = max(samples, key=lambda each: each.fidelity)
        return TokenReading(position=position, token=token, samples=samples, **best.model_dump())

    def _sample(self, record: JsonObject) -> Sample:
        score = self.engine.score_of(record)
        closed = bool(record.get("closed", True))
        return Sample(explanation=record["description"], closed=closed, **score.model_dump())

    def _reading(self, rows: list[TokenReading], text: str | None) -> Reading:
        facts = self.engine.facts
        return Reading(text=text, tokens=tuple(rows), nla=facts.name, floors=facts.floors)


def read_facts(connection: Connection) -> Facts:
    """What a server says of itself, under /v1 or else in the status of the wire interface.

    Raises:
        RemoteError: it says neither.
    """
    try:
        card = connection.get("/v1/models")["models"][0]
        known = {k: card[k] for k in Facts._fields if k != "own"}
        # Without a scale the variance is a stand-in, and nobody grades a cosine.
        if card.get("scale", "not said") is None:
            known["variance"] = None
        return Facts(**known, own=True)
    except (KeyError, IndexError, TypeError):
        pass
    except RemoteError as error:
        if error.status not in (404, 405):
            raise
    status = connection.get("/")
    try:
        name, layer = str(status["verbalizer_model"]), int(status["extraction_layer"])
        return Facts(name, layer, int(status["d_model"]), None, {}, own=False)
    except (KeyError, TypeError, ValueError) as error:
        raise RemoteError(
            f"{connection.url} is no server of explanations: its status lacks {error}."
        ) from error


def _samples(record: JsonObject) -> list[JsonObject]:
    """The samples of a record; the record itself where the server draws only one."""
    return record.get("samples") or [record]


def _completion(record: JsonObject) -> Completion:
    text = str(record["description"])
    return Completion(text, text, (), (), bool(record.get("closed", True)))


def _whole(records: list[JsonObject]) -> list[JsonObject]:
    """The records, none of which failed."""
    for index, record in enumerate(records):
        if record.get("error"):
            raise RemoteError(f"The server could not read row {index}: {record['error']}")
    return records


def _inner(raw_text: str) -> str:
    """The explanation so far, without its tags."""
    before, tag, after = raw_text.partition("<explanation>")
    return (after if tag else before).partition("</explanation>")[0].strip()


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
