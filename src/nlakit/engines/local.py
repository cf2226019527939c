"""The engine that runs here: any device, one decode loop for many vectors.

The prompt's constant prefix is run once per version of the weights, so a vector costs its slot, the
few tokens after it and its answer. Rows leave when they end and waiting ones take their places.
Rows of different callers, each with its own sampling, may share a batch (`Session`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nlakit.core.sampling import Drawn, draw_rows
from nlakit.engines.base import Completion, OnText, Sampling
from nlakit.engines.decode import Decoder, Prefix
from nlakit.engines.modules import decoder_for
from nlakit.errors import InputError
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Encoded, Target
from nlakit.models.verbalizer import CLOSE_TAG, Verbalizer


@dataclass(eq=False)
class Row:
    """An answer being written: which vector, which sample, and what there is of it.

    Attributes:
        tag: whatever the caller wants to find again on it.
        uniforms: its random numbers, one per token; None at temperature 0.
    """

    vector: int
    sample: int
    sampling: Sampling
    tag: object = None
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    uniforms: list[float] | None = field(init=False)

    def __post_init__(self) -> None:
        drawn = self.sampling.temperature > 0
        self.uniforms = uniforms(self.sampling, self).tolist() if drawn else None

    def next_uniform(self) -> float:
        """The random number that decides the next token."""
        return 0.0 if self.uniforms is None else self.uniforms[len(self.ids)]


class LocalEngine:
    """Runs the three models where they are.

    The verbalizer's weights are read when they are first needed; call `refresh` after changing
    them, or answers come from the old ones.

    Args:
        max_rows: answers written side by side.
    """

    def __init__(
        self,
        target: Target | None,
        verbalizer: Verbalizer,
        reconstructor: Reconstructor,
        max_rows: int = 64,
    ) -> None:
        self.target = target
        self.verbalizer = verbalizer
        self.reconstructor = reconstructor
        self.max_rows = max_rows
        self._ready: tuple[Decoder, Prefix] | None = None
        self._ending = Ending(verbalizer)

    @property
    def kind(self) -> str:
        """Its row in `REFUSALS`."""
        return "local"

    def refresh(self) -> None:
        """Forget what was read from the verbalizer's weights: they have changed."""
        self._ready = None

    def verbalize(
        self,
        vectors_ND: Tensor,
        sampling: Sampling,
        on_text: OnText | None = None,
        first: int = 0,
    ) -> list[list[Completion]]:
        """Per vector, `sampling.samples` answers.

        A row's text depends on the seed, its vector's number, counted from `first`, and the
        sample's number, not on `max_rows`. At temperature 0 one answer per vector is written and
        repeated. `on_text` is told the vector's place in this call; what it raises ends the call.

        Raises:
            InputError: bad vectors, or prompt and answer together exceed the context.
        """
        scaled_ND = self.verbalizer.scaled(vectors_ND)
        distinct = 1 if sampling.temperature == 0 else sampling.samples
        places = [(v, s) for v in range(len(scaled_ND)) for s in range(distinct)]
        waiting = deque(Row(first + v, s, sampling, tag=v) for v, s in places)
        # Autocast would mix dtypes in the cache.
        with torch.inference_mode(), torch.autocast(scaled_ND.device.type, enabled=False):
            self.check_length(sampling)
            batch = self.new_batch(min(self.max_rows, len(waiting)))
            finished = self._run(batch, waiting, scaled_ND, on_text)
        found = {(_place(row), row.sample): self.completion(row) for row in finished}
        repeats = sampling.samples // distinct
        return [
            [found[vector, sample] for sample in range(distinct)] * repeats
            for vector in range(len(scaled_ND))
        ]

    def reconstruct(self, explanations: Sequence[str]) -> Tensor:
        """Per explanation a float32 vector, N x D. Raises `InputError` for one that is too long."""
        return self.reconstructor.reconstruct(explanations)

    def extract(self, encoded: Encoded, positions: Sequence[int] | None = None) -> Tensor:
        """Raw float32 activations at token positions (None: at all of them), P x D.

        Raises:
            InputError: no target was loaded, or a position is outside the text.
        """
        return extracted(self.target, encoded, positions)

    def _run(
        self, batch: Batch, waiting: deque[Row], scaled_ND: Tensor, on_text: OnText | None
    ) -> list[Row]:
        """The loop: let rows in while there is room, write one token in each, let ended ones go."""
        finished: list[Row] = []
        while waiting or batch.rows:
            # Newcomers are run together: one at a time would cost a pass over the weights each.
            room = batch.max_rows - len(batch.rows)
            if waiting and room >= min(len(waiting), max(1, batch.max_rows // 4)):
                count = min(room, len(waiting))
                changed = self._admit(batch, [waiting.popleft() for _ in range(count)], scaled_ND)
            else:
                changed = batch.step()
            if on_text is not None:
                self._tell(changed, on_text)
            finished.extend(self.release(batch))
        return finished

    def session(self, max_rows: int | None = None) -> Session:
        """A batch that never ends, for callers that come and go."""
        return Session(self, max_rows or self.max_rows)

    def new_batch(self, max_rows: int) -> Batch:
        """An empty batch over the weights as they are."""
        decoder, prefix = self._read()
        return Batch(decoder, prefix, max_rows, 1 + len(self.verbalizer.suffix_ids))

    def longest_answer(self) -> int:
        """The most tokens that the verbalizer's context has room for."""
        decoder, prefix = self._read()
        return decoder.max_length - prefix.length - len(self.verbalizer.suffix_ids)

    def check_length(self, sampling: Sampling) -> None:
        """Raise `InputError` where prompt and answer together exceed the context."""
        if sampling.max_new_tokens > self.longest_answer():
            decoder, prefix = self._read()
            raise InputError(
                f"A prompt of {prefix.length + 1 + len(self.verbalizer.suffix_ids)} tokens and an "
                f"answer of up to {sampling.max_new_tokens} exceed the verbalizer's context of "
                f"{decoder.max_length}. Ask for max_new_tokens of at most {self.longest_answer()}."
            )

    def completion(self, row: Row) -> Completion:
        """What a row that has ended says."""
        return completed(self.verbalizer, self.reconstructor, row.ids, row.logprobs)

    def release(self, batch: Batch) -> list[Row]:
        """Take the rows that have ended out of a batch."""
        ended = [
            row
            for row in batch.rows
            if len(row.ids) >= row.sampling.max_new_tokens or self._ending.reached(row.ids)
        ]
        batch.drop(ended)
        return ended

    def admit(self, batch: Batch, rows: list[Row], scaled_ND: Tensor) -> None:
        """Let rows into a batch, each with its vector as `Verbalizer.scaled` gives it.

        The prompt of rows that follow each other with one vector, its samples, is run once.
        """
        distinct_UD, prompt_of_N = torch.unique_consecutive(scaled_ND, return_inverse=True, dim=0)
        no_response = torch.zeros(len(distinct_UD), 0, dtype=torch.long, device=scaled_ND.device)
        with self.verbalizer.injecting(distinct_UD):
            batch.admit(rows, self.verbalizer.body(distinct_UD, no_response), prompt_of_N)

    def _admit(self, batch: Batch, rows: list[Row], scaled_ND: Tensor) -> list[Row]:
        self.admit(batch, rows, scaled_ND[[_place(row) for row in rows]])
        return rows

    def _tell(self, rows: list[Row], on_text: OnText) -> None:
        for row in rows:
            on_text(_place(row), row.sample, self.verbalizer.parse(row.ids).text)

    def _read(self) -> tuple[Decoder, Prefix]:
        if self._ready is None:
            with torch.inference_mode(), torch.autocast(self._device, enabled=False):
                decoder = decoder_for(self.verbalizer.model, through_modules=self.verbalizer.adds)
                self._ready = decoder, decoder.run_prefix(self.verbalizer.prefix_ids)
        return self._ready

    @property
    def _device(self) -> str:
        return self.verbalizer.model.device.type


def completed(
    verbalizer: Verbalizer,
    reconstructor: Reconstructor,
    ids: Sequence[int],
    logprobs: Sequence[float],
) -> Completion:
    """What an answer's tokens say, cut to what the reconstructor can read."""
    text, closed = verbalizer.parse(ids)
    kept = reconstructor.fitting(text)
    raw = verbalizer.decode(ids)
    return Completion(kept, raw, tuple(ids), tuple(logprobs), closed and kept == text)


def extracted(
    target: Target | None, encoded: Encoded, positions: Sequence[int] | None = None
) -> Tensor:
    """Activations of a text, P x D; see `LocalEngine.extract`."""
    if target is None:
        raise InputError("This engine was made without a target: it reads vectors, not text.")
    places = None if positions is None else [list(positions)]
    return target.activations([encoded.ids], places)[0]


def _place(row: Row) -> int:
    """Where the vector of a row of `verbalize` stands among those of the call."""
    assert isinstance(row.tag, int)
    return row.tag


class Session:
    """Rows of many callers in one batch that never ends, all steps taken on one thread.

    A row's text is the same as `LocalEngine.verbalize` gives for its vector number, sample number
    and sampling: it does not depend on who shares the batch.
    """

    def __init__(self, engine: LocalEngine, max_rows: int) -> None:
        self.engine = engine
        self.max_rows = max_rows
        self._batch = engine.new_batch(max_rows)

    @property
    def rows(self) -> Sequence[Row]:
        """Those being written."""
        return self._batch.rows

    def admit(self, rows: list[Row], vectors_ND: Tensor) -> None:
        """Let rows in, each with its raw vector, and write their first tokens.

        Raises:
            InputError: a bad vector, or an answer longer than the context; then none gets in.
        """
        for row in rows:
            self.engine.check_length(row.sampling)
        with self._mode():
            self.engine.admit(self._batch, rows, self.engine.verbalizer.scaled(vectors_ND))

    def step(self) -> None:
        """Write one token in every row."""
        with self._mode():
            self._batch.step()

    def release(self) -> list[Row]:
        """Take out the rows that have ended."""
        with self._mode():
            return self.engine.release(self._batch)

    def drop(self, rows: Collection[Row]) -> None:
        """Take out rows that nobody waits for any more."""
        with self._mode():
            self._batch.drop(rows)

    def completion(self, row: Row) -> Completion:
        """What a row that was released says."""
        return self.engine.completion(row)

    def raw_text(self, row: Row) -> str:
        """A row's words so far, tags included."""
        return self.engine.verbalizer.decode(row.ids)

    @contextmanager
    def _mode(self) -> Iterator[None]:
        # Autocast would mix dtypes in the cache.
        device = self.engine.verbalizer.model.device.type
        with torch.inference_mode(), torch.autocast(device, enabled=False):
            yield


class Batch:
    """Rows being written side by side, always the first ones of the cache."""

    def __init__(self, decoder: Decoder, prefix: Prefix, max_rows: int, prompt: int) -> None:
        device = decoder.device
        self.decoder, self.prefix = decoder, prefix
        self.max_rows, self.prompt = max_rows, prompt
        self.rows: list[Row] = []
        self.cache = decoder.new_cache(max_rows, prompt)
        self.lengths_R = torch.zeros(max_rows, dtype=torch.long, device=device)
        self.last_R = torch.zeros(max_rows, dtype=torch.long, device=device)

    def admit(self, rows: list[Row], prompts_UTD: Tensor, prompt_of_N: Tensor) -> None:
        """Run newcomers' prompts after the shared prefix, and write their first tokens.

        Args:
            prompt_of_N: which of the prompts each row has, in ascending order.
        """
        start, num_prompts = len(self.rows), len(prompts_UTD)
        self.rows.extend(rows)
        places = slice(start, len(self.rows))
        self.lengths_R[places] = 0
        run = slice(start, start + num_prompts)
        logits_UV = self._logits(prompts_UTD.to(self.decoder.dtype), run, self.prompt)
        if num_prompts < len(rows):
            self.cache.repeat(run, places, prompt_of_N)
            logits_UV = logits_UV[prompt_of_N]
        self._write(logits_UV, places, self.prompt)

    def step(self) -> list[Row]:
        """Write one token in every row."""
        places = slice(0, len(self.rows))
        embedded_N1D = self.decoder.embed(self.last_R[places])[:, None]
        self._write(self._logits(embedded_N1D, places, self._longest()), places, 1)
        return self.rows

    def drop(self, rows: Collection[Row]) -> None:
        """Take rows out; the last ones move into their places."""
        gone = {id(row) for row in rows}
        ended = [index for index, row in enumerate(self.rows) if id(row) in gone]
        left = len(self.rows) - len(ended)
        targets = [index for index in ended if index < left]
        sources = sorted(set(range(left, len(self.rows))) - set(ended))
        if targets:
            self._move(sources, targets)
        del self.rows[left:]
        if ended:
            self.cache.trim(self._longest())

    def _longest(self) -> int:
        return self.prompt + max((len(row.ids) for row in self.rows), default=0)

    def _logits(self, hidden_NTD: Tensor, places: slice, longest: int) -> Tensor:
        """Run new tokens: what may come next in each row, N x V."""
        args = (self.lengths_R[places], places, self.cache, self.prefix, longest)
        return self.decoder.head(self.decoder.forward(hidden_NTD, *args))

    def _write(self, logits_NV: Tensor, places: slice, num_run: int) -> None:
        """Choose the next token of each row, after `num_run` tokens were run."""
        self.lengths_R[places] += num_run
        ids_N, logprobs_N = choose(self.rows[places], logits_NV)
        self.last_R[places] = ids_N
        written = zip(self.rows[places], ids_N.tolist(), logprobs_N.tolist(), strict=True)
        for row, token, logprob in written:
            row.ids.append(token)
            row.logprobs.append(logprob)

    def _move(self, sources: list[int], targets: list[int]) -> None:
        self.cache.move(sources, targets)
        for tensor in (self.lengths_R, self.last_R):
            tensor[targets] = tensor[sources]
        for source, target in zip(sources, targets, strict=True):
            self.rows[target] = self.rows[source]


def choose(rows: Sequence[Row], logits_NV: Tensor) -> Drawn:
    """The next token of each row; rows of one temperature and top_p are drawn together."""
    uniform_N = torch.tensor([row.next_uniform() for row in rows], device=logits_NV.device)
    settings = [(row.sampling.temperature, row.sampling.top_p) for row in rows]
    if len(set(settings)) == 1:
        return draw_rows(logits_NV, uniform_N, *settings[0])
    ids_N = torch.empty(len(rows), dtype=torch.long, device=logits_NV.device)
    logprobs_N = torch.empty(len(rows), device=logits_NV.device)
    for each in set(settings):
        alike = [index for index, found in enumerate(settings) if found == each]
        ids_N[alike], logprobs_N[alike] = draw_rows(logits_NV[alike], uniform_N[alike], *each)
    return Drawn(ids_N, logprobs_N)


class Ending:
    """Whether an answer has come to its end: EOS, or the closing tag, however it was tokenised."""

    LONGEST_TAG = len(CLOSE_TAG)
    """In tokens, were each of its characters one."""

    def __init__(self, verbalizer: Verbalizer) -> None:
        self.verbalizer = verbalizer
        self._may_close: dict[int, bool] = {}

    def reached(self, ids: list[int]) -> bool:
        """Looked at after every token."""
        if ids[-1] in self.verbalizer.eos_ids:
            return True
        closing = self.verbalizer.close_ids
        if ids[-len(closing) :] == closing:
            return True
        return self._ends_tag(ids[-1]) and CLOSE_TAG in self.verbalizer.decode(
            ids[-self.LONGEST_TAG :]
        )

    def _ends_tag(self, token: int) -> bool:
        """Most tokens cannot end a tag, which saves decoding the answer after each."""
        if token not in self._may_close:
            name = self.verbalizer.tokenizer.convert_ids_to_tokens(token)
            self._may_close[token] = CLOSE_TAG[-1] in str(name)
        return self._may_close[token]


def uniforms(sampling: Sampling, row: Row) -> Tensor:
    """The random numbers of one answer, one per token: a function of seed, vector and sample."""
    name = f"{sampling.seed}/{row.vector}/{row.sample}".encode()
    digest = hashlib.blake2b(name, digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    return torch.rand(sampling.max_new_tokens, generator=generator)
