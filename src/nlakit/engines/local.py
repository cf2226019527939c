"""The engine that runs here: any device, one decode loop for many vectors.

The prompt's constant prefix is run once per version of the weights, so a vector costs its slot, the
few tokens after it and its answer. Rows leave when they end and waiting ones take their places.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from nlakit.core.losses import token_logprobs
from nlakit.core.sampling import sample_rows
from nlakit.engines.base import Completion, OnText, Sampling
from nlakit.engines.decode import Decoder, Prefix
from nlakit.errors import InputError
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Encoded, Target
from nlakit.models.verbalizer import CLOSE_TAG, Verbalizer


@dataclass
class Row:
    """An answer being written: which vector, which sample, and what there is of it."""

    vector: int
    sample: int
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


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

    def refresh(self) -> None:
        """Forget what was read from the verbalizer's weights: they have changed."""
        self._ready = None

    def verbalize(
        self, vectors_ND: Tensor, sampling: Sampling, on_text: OnText | None = None
    ) -> list[list[Completion]]:
        """Per vector, `sampling.samples` answers.

        A row's text depends on the seed, its place among the vectors and the sample's number, not
        on `max_rows`. At temperature 0 one answer per vector is written and repeated.

        Raises:
            InputError: bad vectors, or prompt and answer together exceed the context.
        """
        scaled_ND = self.verbalizer.scaled(vectors_ND)
        distinct = 1 if sampling.temperature == 0 else sampling.samples
        waiting = deque(Row(v, s) for v in range(len(scaled_ND)) for s in range(distinct))
        # Autocast would mix dtypes in the cache.
        with torch.inference_mode(), torch.autocast(scaled_ND.device.type, enabled=False):
            batch = self._new_batch(sampling, min(self.max_rows, len(waiting)))
            finished = self._run(batch, waiting, scaled_ND, on_text)
        found = {(row.vector, row.sample): self._completion(row) for row in finished}
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
        if self.target is None:
            raise InputError("This engine was made without a target: it reads vectors, not text.")
        places = None if positions is None else [list(positions)]
        return self.target.activations([encoded.ids], places)[0]

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
            finished.extend(batch.release(self._ending))
        return finished

    def _admit(self, batch: Batch, rows: list[Row], scaled_ND: Tensor) -> list[Row]:
        vectors = scaled_ND[[row.vector for row in rows]]
        no_response = torch.zeros(len(rows), 0, dtype=torch.long, device=vectors.device)
        batch.admit(rows, self.verbalizer.body(vectors, no_response))
        return rows

    def _tell(self, rows: list[Row], on_text: OnText) -> None:
        for row in rows:
            on_text(row.vector, row.sample, self.verbalizer.parse(row.ids).text)

    def _new_batch(self, sampling: Sampling, max_rows: int) -> Batch:
        if self._ready is None:
            decoder = Decoder(self.verbalizer.model)
            self._ready = decoder, decoder.run_prefix(self.verbalizer.prefix_ids)
        decoder, prefix = self._ready
        prompt = 1 + len(self.verbalizer.suffix_ids)
        needed = prefix.length + prompt + sampling.max_new_tokens - 1
        if needed > decoder.max_length:
            raise InputError(
                f"A prompt of {prefix.length + prompt} tokens and an answer of up to "
                f"{sampling.max_new_tokens} exceed the verbalizer's context of "
                f"{decoder.max_length}. Ask for max_new_tokens of at most "
                f"{decoder.max_length - prefix.length - prompt + 1}."
            )
        return Batch(decoder, prefix, sampling, max_rows, prompt)

    def _completion(self, row: Row) -> Completion:
        text, closed = self.verbalizer.parse(row.ids)
        raw = self.verbalizer.decode(row.ids)
        return Completion(text, raw, tuple(row.ids), tuple(row.logprobs), closed)


class Batch:
    """Rows being written side by side, always the first ones of the cache."""

    def __init__(
        self, decoder: Decoder, prefix: Prefix, sampling: Sampling, max_rows: int, prompt: int
    ) -> None:
        device, width = decoder.device, sampling.max_new_tokens
        self.decoder, self.prefix, self.sampling = decoder, prefix, sampling
        self.max_rows, self.prompt = max_rows, prompt
        self.rows: list[Row] = []
        self.cache = decoder.new_cache(max_rows, prompt)
        self.lengths_R = torch.zeros(max_rows, dtype=torch.long, device=device)
        self.last_R = torch.zeros(max_rows, dtype=torch.long, device=device)
        self.uniform_RT = torch.zeros(max_rows, width, device=device)

    def admit(self, rows: list[Row], prompts_NTD: Tensor) -> None:
        """Run the prompts of newcomers after the shared prefix, and write their first tokens."""
        start = len(self.rows)
        self.rows.extend(rows)
        places = slice(start, len(self.rows))
        self.lengths_R[places] = 0
        if self.sampling.temperature > 0:
            drawn = [uniforms(self.sampling, row) for row in rows]
            self.uniform_RT[places] = torch.stack(drawn).to(self.uniform_RT)
        self._write(prompts_NTD.to(self.decoder.dtype), places, self.prompt)

    def step(self) -> list[Row]:
        """Write one token in every row."""
        places = slice(0, len(self.rows))
        longest = self.prompt + max(len(row.ids) for row in self.rows)
        self._write(self.decoder.embed(self.last_R[places])[:, None], places, longest)
        return self.rows

    def release(self, ending: Ending) -> list[Row]:
        """Take out the rows that have ended; the last ones move into their places."""
        limit = self.sampling.max_new_tokens
        ended = [
            index
            for index, row in enumerate(self.rows)
            if len(row.ids) >= limit or ending.reached(row.ids)
        ]
        gone = [self.rows[index] for index in ended]
        left = len(self.rows) - len(ended)
        targets = [index for index in ended if index < left]
        sources = sorted(set(range(left, len(self.rows))) - set(ended))
        if targets:
            self._move(sources, targets)
        del self.rows[left:]
        return gone

    def _write(self, hidden_NTD: Tensor, places: slice, longest: int) -> None:
        """Run new tokens and choose the next one of each row."""
        starts_N = self.lengths_R[places]
        args = (starts_N, places, self.cache, self.prefix, longest)
        logits_NV = self.decoder.head(self.decoder.forward(hidden_NTD, *args))
        self.lengths_R[places] = starts_N + hidden_NTD.shape[1]
        number_N1 = (self.lengths_R[places] - self.prompt)[:, None]
        uniform_N = self.uniform_RT[places].gather(1, number_N1)[:, 0]
        ids_N = sample_rows(logits_NV, uniform_N, self.sampling.temperature, self.sampling.top_p)
        logprobs_N = token_logprobs(logits_NV[:, None], ids_N[:, None])[:, 0]
        self.last_R[places] = ids_N
        written = zip(self.rows[places], ids_N.tolist(), logprobs_N.tolist(), strict=True)
        for row, token, logprob in written:
            row.ids.append(token)
            row.logprobs.append(logprob)

    def _move(self, sources: list[int], targets: list[int]) -> None:
        self.cache.move(sources, targets)
        for tensor in (self.lengths_R, self.last_R, self.uniform_RT):
            tensor[targets] = tensor[sources]
        for source, target in zip(sources, targets, strict=True):
            self.rows[target] = self.rows[source]


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
