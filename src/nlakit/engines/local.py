"""The engine that runs here: any device, one decode loop for many vectors.

The prompt's constant prefix is run once per version of the weights, so a vector costs its slot, the
few tokens after it and its answer. Rows leave when they end and waiting ones take their places.
Rows of different callers, each with its own sampling, may share a batch (`Session`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor

from nlakit.engines.base import Completion, OnText, Sampling
from nlakit.engines.batch import Batch, Pace, Row, pace_on
from nlakit.engines.decode import Decoder, Prefix
from nlakit.engines.modules import decoder_for
from nlakit.errors import InputError
from nlakit.models.families import backbone_of
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.sharding import anywhere, at_root, is_sharded
from nlakit.models.target import Encoded, Target
from nlakit.models.verbalizer import CLOSE_TAG, Verbalizer


class LocalEngine:
    """Runs the three models where they are.

    The verbalizer's weights are read when they are first needed; call `refresh` after changing
    them, or answers come from the old ones.

    Args:
        max_rows: answers written side by side.
        pace: how batches run; None: as the device wants it.
    """

    def __init__(
        self,
        target: Target | None,
        verbalizer: Verbalizer,
        reconstructor: Reconstructor,
        max_rows: int = 64,
        pace: Pace | None = None,
    ) -> None:
        self.target = target
        self.verbalizer = verbalizer
        self.reconstructor = reconstructor
        self.max_rows = max_rows
        self.pace = pace
        self._ready: tuple[Decoder, Prefix] | None = None
        self._is_stale = False
        self._kept: Batch | None = None
        self._ending = Ending(verbalizer)

    @property
    def kind(self) -> str:
        """Its row in `REFUSALS`."""
        return "local"

    def refresh(self) -> None:
        """Forget what was read from the verbalizer's weights: they have changed."""
        if self._kept is None:
            self._ready = None
        self._is_stale = True

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
            batch = self._batch_of(min(self.max_rows, len(waiting)))
            finished = self._run(batch, waiting, scaled_ND, on_text)
            # Not after an error: rows would be left in it.
            self._kept = batch if batch.pace.fixed else None
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
        """The loop: let rows in while there is room, write one token in each, let ended ones go.

        Each turn runs the model once, so that processes that share it can take turns together.
        """
        finished: list[Row] = []
        model = self.verbalizer.model
        while anywhere(model, bool(waiting or batch.rows)):
            turn = partial(self._turn, batch, waiting, scaled_ND)
            changed = at_root(backbone_of(model), turn)
            if on_text is not None:
                self._tell(changed, on_text)
            finished.extend(self.release(batch))
        return finished

    def _turn(self, batch: Batch, waiting: deque[Row], scaled_ND: Tensor) -> Sequence[Row]:
        """Returns the rows that have grown."""
        # Newcomers are run together: one at a time would cost a pass over the weights each.
        room = batch.max_rows - len(batch.rows)
        if waiting and room >= min(len(waiting), max(1, batch.max_rows // 4)):
            count = min(room, len(waiting))
            return self._admit(batch, [waiting.popleft() for _ in range(count)], scaled_ND)
        if batch.rows:
            return batch.step()
        batch.idle()
        return []

    def session(self, max_rows: int | None = None) -> Session:
        """A batch that never ends, for callers that come and go."""
        return Session(self, max_rows or self.max_rows)

    def new_batch(self, max_rows: int) -> Batch:
        """An empty batch over the weights as they are."""
        decoder, prefix = self._read()
        num_prompt, ending = 1 + len(self.verbalizer.suffix_ids), self.verbalizer.eos_ids
        pace = self.pace or pace_on(self._device)
        if is_sharded(self.verbalizer.model):
            # A turn of one process must run the model as often as another's.
            pace = pace._replace(burst=1)
        return Batch(decoder, prefix, max_rows, num_prompt, self.has_ended, ending, pace)

    def _batch_of(self, max_rows: int) -> Batch:
        """An empty batch: the last call's, with what it has recorded, where it fits."""
        decoder, _ = self._read()
        kept, self._kept = self._kept, None
        if kept is not None and kept.fits(decoder, max_rows, self.verbalizer.eos_ids):
            return kept
        return self.new_batch(max_rows)

    def has_ended(self, row: Row) -> bool:
        """Whether an answer is over: as long as it may be, or closed."""
        return len(row.ids) >= row.sampling.max_new_tokens or self._ending.reached(row.ids)

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
        ended = [row for row in batch.rows if self.has_ended(row)]
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

    def _tell(self, rows: Sequence[Row], on_text: OnText) -> None:
        for row in rows:
            on_text(_place(row), row.sample, self.verbalizer.parse(row.ids).text)

    def _read(self) -> tuple[Decoder, Prefix]:
        if self._ready is None or self._is_stale:
            with torch.inference_mode(), torch.autocast(self._device, enabled=False):
                decoder = decoder_for(self.verbalizer.model, through_modules=self.verbalizer.adds)
                prefix = decoder.run_prefix(self.verbalizer.prefix_ids)
                if self._ready is None or not _taken(self._ready, (decoder, prefix)):
                    self._ready = decoder, prefix
            self._is_stale = False
        return self._ready

    @property
    def _device(self) -> str:
        return self.verbalizer.model.device.type


def _taken(old: tuple[Decoder, Prefix], new: tuple[Decoder, Prefix]) -> bool:
    """Whether the old decoder and prefix now hold what the new ones do, in their own tensors."""
    if old[1].length != new[1].length or not old[0].take(new[0]):
        return False
    for mine, other in zip(
        (*old[1].keys, *old[1].values), (*new[1].keys, *new[1].values), strict=True
    ):
        mine.copy_(other)
    return True


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
