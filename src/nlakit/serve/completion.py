"""What the target itself would write next, token by token, for `/completion`."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence

import torch

from nlakit.contract import NlaMeta
from nlakit.core.sampling import sample_rows
from nlakit.engines.decode import Decoder
from nlakit.errors import InputError
from nlakit.models.families import family_of
from nlakit.models.target import Target

from .queue import Unavailable


def is_available(target: Target) -> bool:
    """Whether the target has a language head; a truncated one has none."""
    return hasattr(target.model, family_of(target.model.config.model_type).head)


TAG = re.compile(r"</?[a-z_]+>")


def scaffolding(target: Target, contract: NlaMeta | None) -> list[int]:
    """Ids that stand for the prompts of an AV and an AR, and never for what a target says.

    A target that was trained beside its AV would continue with "</concept> Please provide …". Only
    tags that are one token of their own are found, so ordinary text loses nothing.
    """
    if contract is None:
        return []
    templates = contract.prompt_templates
    tags = {tag for text in (templates.av, templates.ar) for tag in TAG.findall(text or "")}
    tags |= {"<explanation>", "</explanation>", contract.tokens.injection_char or ""}
    added = target.tokenizer.added_tokens_decoder
    return sorted(number for number, token in added.items() if token.content in tags)


class Continuation:
    """One continuation, a step of `serve.runner`.

    Tokens are put into `tokens` on the event loop; None ends them, a text says why it failed.

    Args:
        uniforms: a random number for each token.
        ending: ids after which nothing comes.
        banned: ids that are never written (`scaffolding`).
    """

    def __init__(
        self,
        decoder: Decoder,
        ids: list[int],
        temperature: float,
        uniforms: list[float],
        ending: set[int],
        banned: Sequence[int] = (),
    ) -> None:
        self.decoder, self.ids, self.temperature = decoder, ids, temperature
        self.uniforms, self.ending = uniforms, ending
        self.banned = torch.tensor(list(banned), dtype=torch.long, device=decoder.device)
        self.cancelled = False
        self.tokens: asyncio.Queue[int | str | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._cache = decoder.new_cache(1, len(ids))
        self._prefix = decoder.empty_prefix()
        self._new, self._num_cached, self._num_written = ids, 0, 0

    def advance(self) -> bool:
        """Write one token; False: that was the last."""
        if self.cancelled:
            return False
        token = self._next()
        self._put(token)
        self._new, self._num_written = [token], self._num_written + 1
        if token in self.ending or self._num_written == len(self.uniforms):
            self._put(None)
            return False
        return True

    def fail(self, message: str) -> None:
        """Nothing more will come."""
        self._put(message)

    async def written(self) -> AsyncIterator[int]:
        """The tokens, as they come. Raises `Unavailable` where the engine failed."""
        while (token := await self.tokens.get()) is not None:
            if isinstance(token, str):
                raise Unavailable(token)
            yield token

    def _next(self) -> int:
        device = self.decoder.device
        hidden = self.decoder.embed(torch.tensor([self._new], device=device))
        starts = torch.tensor([self._num_cached], device=device)
        self._num_cached += len(self._new)
        normed = self.decoder.forward(
            hidden, starts, slice(0, 1), self._cache, self._prefix, self._num_cached
        )
        uniform = torch.tensor([self.uniforms[self._num_written]], device=device)
        logits_1V = self.decoder.head(normed).index_fill(-1, self.banned, -torch.inf)
        return int(sample_rows(logits_1V, uniform, self.temperature)[0])

    def _put(self, item: int | str | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self.tokens.put_nowait, item)


def room_for(target: Target, num_prompt: int, asked: int, at_most: int) -> int:
    """How many tokens can follow the prompt.

    Raises:
        InputError: none.
    """
    room = min(asked, at_most, target.max_tokens - num_prompt)
    if room < 1:
        raise InputError(
            f"The prompt has {num_prompt} tokens, which fills the target's context of "
            f"{target.max_tokens}. Shorten it."
        )
    return room
