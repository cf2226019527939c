"""Rows being written side by side: what the host knows of them, and when it looks.

The host counts, the device writes (`engines.step`): tokens are read back after a burst of steps. A
row may have ended within one, so that what follows its end is dropped here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from nlakit.core.sampling import Drawn, draw_rows
from nlakit.engines.base import Sampling
from nlakit.engines.capture import Recorder
from nlakit.engines.decode import Decoder, Prefix
from nlakit.engines.step import Choice, Rows, Step

SHRINK_BELOW = 0.75
"""A batch is made smaller when it needs less than this share of its rows: that copies its cache."""
MOST_STEPS = 48
"""Recorded steps that are kept: one per temperature, `top_p` and number of columns."""


class Pace(NamedTuple):
    """How a batch runs on a device.

    Attributes:
        burst: steps between two readings of the tokens: each reading waits for the device.
        columns: a step looks at a multiple of so many columns of the cache.
        fixed: whether the batch always has `max_rows` rows, padding among them, in buffers that
            are kept from one call to the next. An accelerator takes as long for all rows as for
            one, and a graph is of fixed tensors.
    """

    burst: int
    columns: int
    fixed: bool


PACES = {"cpu": Pace(1, 16, False), "cuda": Pace(8, 64, True)}
OTHER_PACE = Pace(1, 64, True)


def pace_on(device: str) -> Pace:
    """How batches run on a type of device."""
    return PACES.get(device, OTHER_PACE)


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

    @property
    def choice(self) -> Choice:
        """How its tokens are chosen."""
        return Choice(self.sampling.temperature, self.sampling.top_p)


def uniforms(sampling: Sampling, row: Row) -> Tensor:
    """The random numbers of one answer, one per token: a function of seed, vector and sample."""
    name = f"{sampling.seed}/{row.vector}/{row.sample}".encode()
    digest = hashlib.blake2b(name, digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
    return torch.rand(sampling.max_new_tokens, generator=generator)


class Batch:
    """Rows being written side by side, always the first ones on the device.

    Args:
        ended: whether a row has come to its end; asked after each of its tokens.
        ending: tokens that end every answer.
        pace: None: the device's.
    """

    def __init__(
        self,
        decoder: Decoder,
        prefix: Prefix,
        max_rows: int,
        prompt: int,
        ended: Callable[[Row], bool],
        ending: Sequence[int] = (),
        pace: Pace | None = None,
    ) -> None:
        self.decoder, self.prefix = decoder, prefix
        self.max_rows, self.prompt = max_rows, prompt
        self.rows: list[Row] = []
        self.pace = pace or pace_on(decoder.device.type)
        self._ended, self._ending = ended, list(ending)
        first = padded_rows(max_rows) if self.pace.fixed else 1
        self._on_device = Rows.empty(decoder, ending, first, self._columns(prompt))
        self._recorder = Recorder(decoder.device)
        self._unread = 0
        self._forwards: dict[int, Callable[[], Tensor]] = {}
        self._steps: dict[tuple[int, Choice], Callable[[], None]] = {}

    def fits(self, decoder: Decoder, max_rows: int, ending: Sequence[int]) -> bool:
        """Whether it can serve as an empty batch of `max_rows` rows."""
        same = decoder is self.decoder and list(ending) == self._ending
        return same and not self.rows and max_rows == self.max_rows

    def admit(self, rows: list[Row], prompts_UTD: Tensor, prompt_of_N: Tensor) -> None:
        """Run newcomers' prompts after the shared prefix, and write their first tokens.

        Args:
            prompt_of_N: which of the prompts each row has.
        """
        first = len(self.rows)
        self.rows.extend(rows)
        self._make_room(max(row.sampling.max_new_tokens for row in self.rows))
        cache = self.decoder.new_cache(len(prompts_UTD), self.prompt)
        starts_U = torch.zeros(len(prompts_UTD), dtype=torch.long, device=self.decoder.device)
        normed_UD = self.decoder.forward(
            prompts_UTD.to(self.decoder.dtype),
            starts_U,
            slice(0, len(prompts_UTD)),
            cache,
            self.prefix,
            self.prompt,
        )
        uniforms_Nt = _padded_uniforms(rows).to(self.decoder.device)
        self._on_device.admit(first, cache, prompt_of_N, uniforms_Nt)
        logits_NV = self.decoder.head(normed_UD)[prompt_of_N]
        drawn = choose([row.choice for row in rows], logits_NV, uniforms_Nt[:, 0])
        self._on_device.write(slice(first, len(self.rows)), *drawn)
        self._read(rows, first, 1)

    def step(self) -> list[Row]:
        """Write a token in every row, or a burst of them; returns the rows."""
        if not self.pace.fixed:
            self._shrink()
        for _ in range(self.pace.burst):
            self._write_one()
        self._read(self.rows, 0, self.pace.burst)
        return self.rows

    def idle(self) -> None:
        """Run the model as a step does, for no row: others share it (`models.sharding`)."""
        self.decoder.one_token(self.prefix, self._on_device, self._columns(self.prompt + 1))()

    def drop(self, rows: Collection[Row]) -> None:
        """Take rows out; the last ones move to where they were."""
        gone = {id(row) for row in rows}
        leaving = [index for index, row in enumerate(self.rows) if id(row) in gone]
        if not leaving:
            return
        left = len(self.rows) - len(leaving)
        targets = [index for index in leaving if index < left]
        sources = sorted(set(range(left, len(self.rows))) - set(leaving))
        if targets:
            self._on_device.move(sources, targets)
        for source, target in zip(sources, targets, strict=True):
            self.rows[target] = self.rows[source]
        del self.rows[left:]
        self._on_device.end(left)

    # -- one step ----------------------------------------------------------------------------------
    def _write_one(self) -> None:
        # The next token goes into the column after the longest row's.
        length = self._columns(self._longest() + 1)
        if length not in self._forwards:
            self._forwards[length] = self.decoder.one_token(self.prefix, self._on_device, length)
        choices = {row.choice for row in self.rows}
        if len(choices) > 1:
            self._write_mixed(self._forwards[length])
        else:
            key = (length, choices.pop())
            if key not in self._steps:
                if len(self._steps) == MOST_STEPS:
                    del self._steps[next(iter(self._steps))]
                self._steps[key] = self._made(*key)
            self._steps[key]()
        self._unread += 1

    def _made(self, length: int, choice: Choice) -> Callable[[], None]:
        step = Step(self._on_device, self._forwards[length], choice)
        # A nucleus asks whether it was wide enough, which no graph can.
        if choice.top_p < 1 or not self.decoder.capturable:
            return step
        return self._recorder.captured(step, self._on_device.changed)

    def _write_mixed(self, logits: Callable[[], Tensor]) -> None:
        """A step of rows that choose in different ways."""
        rows, live = self._on_device, slice(0, len(self.rows))
        logits_NV = logits()[live]
        uniform_N = rows.uniforms_Rt[live].gather(1, rows.counts_R[live, None])[:, 0]
        drawn = choose([row.choice for row in self.rows], logits_NV, uniform_N)
        rows.lengths_R += rows.alive_R
        rows.write(live, *drawn)

    def _read(self, rows: Sequence[Row], first: int, count: int) -> None:
        """Append to each row the `count` tokens that were written since it was read, up to its
        end."""
        self._unread, device = 0, self.decoder.device
        starts_N1 = torch.tensor([[len(row.ids)] for row in rows]).to(device)
        columns_NC = starts_N1 + torch.arange(count, device=device)
        written = slice(first, first + len(rows))
        ids = self._on_device.ids_Rt[written].gather(1, columns_NC).tolist()
        logprobs = self._on_device.logprobs_Rt[written].gather(1, columns_NC).tolist()
        for row, row_ids, row_logprobs in zip(rows, ids, logprobs, strict=True):
            for token, logprob in zip(row_ids, row_logprobs, strict=True):
                row.ids.append(token)
                row.logprobs.append(logprob)
                if self._ended(row):
                    break

    # -- room --------------------------------------------------------------------------------------
    def _longest(self) -> int:
        """The most own tokens that a row has in the cache or is about to."""
        written = max((len(row.ids) for row in self.rows), default=0)
        return self.prompt + written + self._unread

    def _columns(self, length: int) -> int:
        """A multiple of what a step looks at."""
        return -(-length // self.pace.columns) * self.pace.columns

    def _make_room(self, max_new_tokens: int) -> None:
        """For the rows that there are now, up to answers so long."""
        rows = self._on_device
        num_rows, width = max(rows.num_rows, padded_rows(len(self.rows))), rows.width
        # A burst may go past a row's end.
        wanted = self._columns(self.prompt + max_new_tokens + self.pace.burst)
        if (num_rows, max(width, wanted)) != (rows.num_rows, width):
            self._resize(num_rows, max(width, wanted))

    def _shrink(self) -> None:
        """Give back the room of rows that have left, and of a much longer answer."""
        rows = self._on_device
        longest = max((row.sampling.max_new_tokens for row in self.rows), default=0)
        num_rows = padded_rows(len(self.rows))
        width = self._columns(self.prompt + longest + self.pace.burst)
        # Newcomers are let in when a quarter of the rows is free: until then there is no point.
        num_rows = num_rows if num_rows < SHRINK_BELOW * rows.num_rows else rows.num_rows
        width = width if rows.width > 4 * width else rows.width
        if (num_rows, width) != (rows.num_rows, rows.width):
            self._resize(num_rows, width)

    def _resize(self, num_rows: int, width: int) -> None:
        self._on_device = self._on_device.resized(num_rows, width)
        self._forwards.clear()
        self._steps.clear()


def padded_rows(num_rows: int) -> int:
    """As many rows as a batch of `num_rows` has on the device: at most an eighth more."""
    step = max(1, 2 ** max(0, num_rows.bit_length() - 4))
    return max(1, -(-num_rows // step) * step)


def choose(choices: Sequence[Choice], logits_NV: Tensor, uniform_N: Tensor) -> Drawn:
    """The next token of each row; rows that choose alike are drawn together."""
    if len(set(choices)) == 1:
        return draw_rows(logits_NV, uniform_N, *choices[0])
    ids_N = torch.empty(len(choices), dtype=torch.long, device=logits_NV.device)
    logprobs_N = torch.empty(len(choices), device=logits_NV.device)
    for each in set(choices):
        alike = [index for index, found in enumerate(choices) if found == each]
        ids_N[alike], logprobs_N[alike] = draw_rows(logits_NV[alike], uniform_N[alike], *each)
    return Drawn(ids_N, logprobs_N)


def _padded_uniforms(rows: Sequence[Row]) -> Tensor:
    """N x t; zeros where a row has no random numbers, or fewer."""
    width = max(row.sampling.max_new_tokens for row in rows)
    given = [row.uniforms or [] for row in rows]
    return torch.tensor([[*each, *[0.0] * (width - len(each))] for each in given])
