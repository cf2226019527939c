"""The activation reconstructor (AR): an explanation in, a vector out.

The target's first blocks without the final norm, and a linear head that starts as the identity.
The vector is read at the last real token.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from itertools import chain, takewhile
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from nlakit.contract import (
    NlaMeta,
    encode_with_offsets,
    read_meta,
    render_ar,
    verify,
    write_meta,
)
from nlakit.core.attention import to_device
from nlakit.core.packing import Packing
from nlakit.core.site import Site
from nlakit.errors import InputError
from nlakit.models.families import backbone_of, cut_config, embedding_of, truncated
from nlakit.models.forward import packs_of, run_packed
from nlakit.models.io import (
    HEAD_NAME,
    atomic_directory,
    load_backbone,
    load_config,
    load_head,
    load_tokenizer,
    save_model,
    save_tensors,
)
from nlakit.models.lora import open_checkpoint
from nlakit.models.overflow import check_finite_in
from nlakit.models.padding import TOKENS_PER_BATCH, length_batches
from nlakit.models.sharding import at_root, in_step


class Reconstructor:
    """A truncated language model with a float32 head.

    Attributes:
        prompt: what explanations are read in, and what encodes them.
        recompute: gradient checkpointing, which runs each block again for its gradient and saves
            memory.
    """

    recompute = False

    def __init__(
        self, backbone: Any, head: nn.Linear, tokenizer: PreTrainedTokenizerBase, meta: NlaMeta
    ) -> None:
        self.backbone = backbone
        self.head = head.float()
        self.tokenizer = tokenizer
        self.meta = meta
        self.prompt = render_ar(meta, tokenizer)
        self._prefix_ids = self.prompt.prefix_ids

    @classmethod
    def load(
        cls,
        directory: str | Path,
        dtype: torch.dtype = torch.float32,
        base: str | Path | None = None,
    ) -> Reconstructor:
        """Read a directory; its contract is verified before any weight is.

        Args:
            base: where `directory` holds a LoRA adapter, the model to cut and to merge it into;
                None: the one that it names.

        Raises:
            ContractError: `nla_meta.yaml` and the tokenizer or config differ.
            CheckpointError: the weights cannot be read.
        """
        parts = open_checkpoint(directory, base)
        meta, config = read_meta(directory), load_config(parts.weights)
        num_blocks = None
        if parts.adapter is not None:
            num_blocks = Site(meta.extraction.layer_index).num_blocks
            config = cut_config(config, num_blocks)
        tokenizer = load_tokenizer(parts.tokenizer)
        verify(meta, tokenizer, config, "ar")
        backbone = load_backbone(
            parts.weights, num_blocks, dtype, headless=True, adapter=parts.adapter
        )
        return cls(backbone, load_head(directory, meta.d_model), tokenizer, meta)

    @classmethod
    def from_target(
        cls, model: Any, tokenizer: PreTrainedTokenizerBase, meta: NlaMeta
    ) -> Reconstructor:
        """An untrained reconstructor: a copy of the target up to the site, and the identity."""
        site = Site(meta.extraction.layer_index)
        site.check_depth(model.config.num_hidden_layers)
        backbone = copy.deepcopy(truncated(backbone_of(model), site.num_blocks))
        head = nn.Linear(meta.d_model, meta.d_model, bias=False, device=model.device)
        nn.init.eye_(head.weight)
        return cls(backbone, head, tokenizer, meta)

    def save(self, directory: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write weights, head, config, tokenizer and contract, replacing the directory at once.

        The head stays float32 whatever `dtype` is.
        """
        with atomic_directory(directory) as temporary:
            save_model(temporary, self.backbone, self.tokenizer, dtype)
            save_tensors(temporary / HEAD_NAME, self.head.state_dict(), None)
            write_meta(temporary, self.meta)

    def parameters(self) -> Iterator[nn.Parameter]:
        """Everything that is trained."""
        return (parameter for _, parameter in self.named_parameters())

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Everything that is trained, by name."""
        backbone = ((f"backbone.{name}", p) for name, p in self.backbone.named_parameters())
        return chain(backbone, ((f"head.{name}", p) for name, p in self.head.named_parameters()))

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.head.weight.device

    def train(self, mode: bool = True) -> None:
        """Switch dropout and the like on or off."""
        self.backbone.train(mode)
        self.head.train(mode)

    def encode(self, explanation: str) -> list[int]:
        """The whole prompt (see `contract.ArPrompt.encode`)."""
        return self.prompt.encode(explanation)

    def fitting(self, explanation: str) -> str:
        """The longest head of an explanation whose prompt fits the context.

        A verbalizer that writes bytes can come back longer than it wrote them.
        """
        limit = self.backbone.config.max_position_embeddings
        # A head may be other tokens than the same characters in the whole, so it is counted anew.
        while explanation and (excess := len(self.encode(explanation)) - limit) > 0:
            starts = self._token_starts(explanation)
            explanation = explanation[: starts[-excess] if excess < len(starts) else 0]
        return explanation

    def _token_starts(self, explanation: str) -> list[int]:
        """The first character of each token of an explanation that stands alone."""
        encoded = encode_with_offsets(self.tokenizer, explanation, plain=True)
        return [start for start, _ in encoded.offsets]

    def forward(self, ids: Sequence[Sequence[int]]) -> Float[Tensor, "B D"]:
        """One float32 vector per prompt of `encode`, with gradients.

        Raises:
            InputError: no prompts, an empty one, or one past the model's context.
        """
        _check_prompts(ids, self.backbone.config.max_position_embeddings)
        shared = _num_shared([self._prefix_ids, *(row[:-1] for row in ids)])
        lengths = [len(row) - shared for row in ids]
        packs = packs_of(self.backbone, lengths, shared)
        found = [self._run([ids[row] for row in pack], shared) for pack in packs]
        last_BD = torch.cat(found)[: len(ids)]
        with torch.autocast(last_BD.device.type, enabled=False):
            return self.head(last_BD.float())

    def _run(self, ids: Sequence[Sequence[int]], shared: int) -> Float[Tensor, "B D"]:
        """The last residual of each prompt; what all of them begin with is run once."""
        own = [row[shared:] for row in ids]
        pack_S = torch.tensor([*ids[0][:shared], *chain.from_iterable(own)])
        packing = Packing(shared, [len(row) for row in own], [1] * len(own))

        def run() -> Tensor:
            return run_packed(
                self.backbone,
                embedding_of(self.backbone)(to_device(pack_S, self.backbone.device)[None])[0],
                packing,
                gradient_checkpointing=self.recompute,
            )

        return at_root(self.backbone, run)

    @torch.no_grad()
    def reconstruct(self, explanations: Sequence[str]) -> Float[Tensor, "N D"]:
        """One vector per explanation, in their order, run in batches of like length.

        Raises:
            InputError: no explanations, or one past the model's context.
        """
        ids = [self.encode(explanation) for explanation in explanations]
        _check_prompts(ids, self.backbone.config.max_position_embeddings)
        found_ND = torch.empty(len(ids), self.meta.d_model, device=self.device)
        lengths = [len(row) for row in ids]
        batches = length_batches(lengths, TOKENS_PER_BATCH, self.backbone.config)
        for batch, _ in in_step(self.backbone, batches, [0]):
            # A spare batch finds the same again.
            found_ND[batch] = self.forward([ids[index] for index in batch])
        check_finite_in(found_ND, self.backbone.dtype, "The reconstructor's vectors")
        return found_ND


def _num_shared(rows: Sequence[Sequence[int]]) -> int:
    """How many ids all rows begin with."""
    alike = (len(set(column)) == 1 for column in zip(*rows, strict=False))
    return sum(1 for _ in takewhile(bool, alike))


def _check_prompts(ids: Sequence[Sequence[int]], limit: int) -> None:
    if not ids:
        raise InputError("No explanation was given to reconstruct.")
    for index, row in enumerate(ids):
        if not 1 <= len(row) <= limit:
            raise InputError(
                f"Explanation {index} makes a prompt of {len(row)} tokens; the reconstructor reads "
                f"1 to {limit}. Shorten it."
            )
