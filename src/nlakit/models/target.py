"""The target: the frozen model whose activations are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from nlakit.contract import encode_with_offsets
from nlakit.core.site import Site
from nlakit.errors import InputError, UnreadableError
from nlakit.models.chat import Chat, ChatOptions
from nlakit.models.encoded import Encoded as Encoded
from nlakit.models.families import backbone_of, truncated
from nlakit.models.io import atomic_directory, load_backbone, load_tokenizer, save_model
from nlakit.models.lora import open_checkpoint
from nlakit.models.overflow import check_finite_in
from nlakit.models.padding import TOKENS_PER_BATCH, length_batches, pad_right
from nlakit.transcript import Message, parse_messages

NO_OPTIONS = ChatOptions()


class Target:
    """The model under study, and the site at which it is read."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, site: Site) -> None:
        site.check_depth(model.config.num_hidden_layers)
        self.model = model
        self.tokenizer = tokenizer
        self.site = site

    @classmethod
    def load(cls, directory: str | Path, layer: int, dtype: torch.dtype = torch.float32) -> Target:
        """Read a model directory, or a LoRA adapter's together with the base that it names.

        Raises:
            CheckpointError: the weights cannot be read.
            InputError: the model has no block `layer`.
        """
        parts = open_checkpoint(directory)
        model = load_backbone(parts.weights, dtype=dtype, adapter=parts.adapter)
        return cls(model, load_tokenizer(parts.tokenizer), Site(layer))

    def save(self, directory: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write weights, config and tokenizer, replacing the directory at once."""
        with atomic_directory(directory) as temporary:
            save_model(temporary, self.model, self.tokenizer, dtype)

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.model.config.hidden_size

    @property
    def max_tokens(self) -> int:
        """The longest sequence the model was built for."""
        return self.model.config.max_position_embeddings

    def encode(self, text: str) -> Encoded:
        """Encode a text as the checkpoint's own tokenizer does, special tokens in it included.

        Nothing is added before a text that begins with BOS: one that was decoded, or a conversation
        that was rendered, is read once more as it was (`pair.conversation` tells the latter).

        Raises:
            InputError: the text is empty, holds half of a surrogate pair, makes no tokens, or is
                longer than the model's context.
        """
        if not text:
            raise InputError("The text is empty. Give at least one character.")
        bos = str(self.tokenizer.bos_token or "")
        adds = not (bos and text.startswith(bos))
        ids, offsets = encode_with_offsets(self.tokenizer, text, add_special_tokens=adds)
        if not ids:
            raise InputError(f"The text {text[:50]!r} makes no tokens. Give at least one word.")
        names = self.tokenizer.convert_ids_to_tokens(ids)
        pairs = zip(offsets, names, strict=True)
        tokens = [text[start:end] or str(name) for (start, end), name in pairs]
        return self._checked(Encoded(ids, offsets, tokens, text))

    def encode_messages(
        self,
        messages: Sequence[Message | Mapping[str, Any]],
        options: ChatOptions = NO_OPTIONS,
        *,
        add_generation_prompt: bool | None = None,
    ) -> Encoded:
        """Encode a conversation through the chat template; offsets are into the rendered text.

        What looks like a special token inside a message is plain text. Nothing is added before
        what the template writes.

        Args:
            add_generation_prompt: in place of that of `options`.

        Raises:
            InputError: as `chat`.
        """
        if add_generation_prompt is not None:
            options = options._replace(add_generation_prompt=add_generation_prompt)
        return self.chat(messages, options).encoded

    def chat(
        self, messages: Sequence[Message | Mapping[str, Any]], options: ChatOptions = NO_OPTIONS
    ) -> Chat:
        """A conversation as the chat template writes it: ids, spans, and what was left out.

        Raises:
            InputError: no messages, no chat template, one that refuses the messages, or longer
                than the model's context.
        """
        made = Chat(self.tokenizer, parse_messages(messages), options)
        self._checked(made.encoded)
        return made

    @torch.no_grad()
    def activations(
        self,
        ids: list[list[int]],
        positions: list[list[int]] | None = None,
        *,
        allow_overflow: bool = False,
    ) -> list[Float[Tensor, "_P D"]]:
        """Raw float32 vectors at the site, per sequence one row a position.

        Only the blocks up to the site run.

        Args:
            positions: token indices per sequence; None means every token.
            allow_overflow: return vectors that are not finite too, for a long run that passes them
                over.

        Raises:
            InputError: an empty sequence, one past the context, a position outside it, or a
                vector that is not finite in the target's dtype.
        """
        wanted = positions or [list(range(len(row))) for row in ids]
        check_positions(ids, wanted, self.max_tokens)
        view = truncated(backbone_of(self.model), self.site.num_blocks)
        found: dict[int, Tensor] = {}
        lengths = [len(row) for row in ids]
        for batch in length_batches(lengths, TOKENS_PER_BATCH, self.model.config):
            padded_BT = pad_right([ids[i] for i in batch]).to(self.model.device)
            # Padding is on the right, so a causal mask already keeps it from every real token.
            hidden_BTD = view(input_ids=padded_BT, use_cache=False).last_hidden_state
            for row, index in enumerate(batch):
                found[index] = hidden_BTD[row, wanted[index]].float()
            if not allow_overflow:
                # Once a batch: each look at a value waits for the device.
                some = torch.cat([found[index] for index in batch])
                check_finite_in(some, hidden_BTD.dtype, "The target's activations")
        return [found[index] for index in range(len(ids))]

    def _checked(self, encoded: Encoded) -> Encoded:
        self._check_ids(encoded)
        if len(encoded.ids) > self.max_tokens:
            raise InputError(
                f"The text is {len(encoded.ids)} tokens long; the target reads at most "
                f"{self.max_tokens}. Shorten it or read it in parts."
            )
        return encoded

    def _check_ids(self, encoded: Encoded) -> None:
        """A tokenizer may have more tokens than the embedding has rows, where some were added."""
        rows = self.model.config.vocab_size
        past = next((i for i, token_id in enumerate(encoded.ids) if token_id >= rows), None)
        if past is not None:
            raise UnreadableError(
                f"Token {past}, {encoded.tokens[past]!r}, has the id {encoded.ids[past]}; the "
                f"target's embedding has {rows} rows. Tokenizer and weights do not belong "
                "together, or a token was added and the embedding not resized."
            )


def check_positions(ids: list[list[int]], wanted: list[list[int]], limit: int) -> None:
    """Raise `InputError` for a sequence or a position that cannot be read."""
    if len(ids) != len(wanted):
        raise InputError(f"{len(ids)} sequences were given with {len(wanted)} lists of positions.")
    for index, (row, places) in enumerate(zip(ids, wanted, strict=True)):
        if not 1 <= len(row) <= limit:
            raise InputError(f"Sequence {index} has {len(row)} tokens; 1 to {limit} can be read.")
        bad = [place for place in places if not 0 <= place < len(row)]
        if bad:
            raise InputError(
                f"Position {bad[0]} was asked of sequence {index}, whose tokens are 0 to "
                f"{len(row) - 1}."
            )
