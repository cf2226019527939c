"""The activation verbalizer (AV): a vector in, an explanation out.

Its prompt is `[prefix][slot][suffix]`, where the slot's embedding is the vector at the checkpoint's
norm; by the other convention the slot is a marker, to whose residual the vector is added further
up. Where the slot is was recorded when the prompt was built; no text is ever searched for it.
Sampling is an engine's work; here are the training forward and the words around an explanation.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import DynamicCache, PreTrainedTokenizerBase

from nlakit.contract import (
    NlaMeta,
    encode_ids,
    encode_with_offsets,
    read_meta,
    render_av,
    verify,
    write_meta,
)
from nlakit.core.fused import Packing, head_logprobs
from nlakit.core.inject import add_norm_matched, check_vectors, replace_rows
from nlakit.core.losses import token_logprobs
from nlakit.core.scale import resolve_scale, to_norm
from nlakit.errors import InputError
from nlakit.models.caches import repeated
from nlakit.models.endings import endings_of
from nlakit.models.families import backbone_of, blocks_of, embedding_of, head_of
from nlakit.models.io import (
    atomic_directory,
    load_backbone,
    load_config,
    load_tokenizer,
    save_model,
)
from nlakit.models.lora import open_checkpoint
from nlakit.models.packed import fits, is_plain, run_packed
from nlakit.models.padding import pad_right, real_tokens
from nlakit.models.recompute import recomputing

OPEN_TAG = "<explanation>"
CLOSE_TAG = "</explanation>"

LOGITS_AT_ONCE = 1 << 27
"""Logits that a training forward keeps for the gradient: 512 MB of float32. Where the head's
gradient is not `core.fused`'s, autograd keeps as much again."""


class Parsed(NamedTuple):
    """What an answer says.

    Attributes:
        text: the words between the tags, or those so far where the answer was cut.
        closed: whether both tags are there; an answer without them is not an explanation.
    """

    text: str
    closed: bool


class Verbalizer:
    """A causal language model that reads one injected vector and answers in words.

    Attributes:
        prefix_ids, suffix_ids: the prompt before and after the slot.
        open_ids, close_ids: the tags.
        eos_ids: any of these ends an answer.
        injection_scale: norm of the vector in the prompt; None injects it as it is.
        recompute: whether forwards with gradients make the insides of blocks again, to save memory.
    """

    recompute = False

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, meta: NlaMeta) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.meta = meta
        self.prefix_ids, self.suffix_ids = render_av(meta, tokenizer)
        self.open_ids = encode_ids(tokenizer, OPEN_TAG)
        self.close_ids = encode_ids(tokenizer, CLOSE_TAG)
        self.eos_ids = endings_of(model, tokenizer)
        self.injection_scale = resolve_scale(meta.extraction.injection_scale, meta.d_model)

    @classmethod
    def load(
        cls,
        directory: str | Path,
        dtype: torch.dtype = torch.float32,
        base: str | Path | None = None,
    ) -> Verbalizer:
        """Read a directory; its contract is verified before any weight is.

        Args:
            base: where `directory` holds a LoRA adapter, the model to merge it into; None: the one
                that it names.

        Raises:
            ContractError: `nla_meta.yaml` and the tokenizer or config differ.
            CheckpointError: the weights cannot be read.
        """
        parts = open_checkpoint(directory, base)
        meta, config = read_meta(directory), load_config(parts.weights)
        tokenizer = load_tokenizer(parts.tokenizer)
        verify(meta, tokenizer, config, "av")
        model = load_backbone(parts.weights, dtype=dtype, adapter=parts.adapter)
        return cls(model, tokenizer, meta)

    @classmethod
    def from_target(
        cls, model: Any, tokenizer: PreTrainedTokenizerBase, meta: NlaMeta
    ) -> Verbalizer:
        """An untrained verbalizer: a copy of the target's weights."""
        return cls(copy.deepcopy(model), tokenizer, meta)

    def save(self, directory: str | Path, dtype: torch.dtype | None = None) -> None:
        """Write weights, config, tokenizer and contract, replacing the directory at once."""
        with atomic_directory(directory) as temporary:
            save_model(temporary, self.model, self.tokenizer, dtype)
            write_meta(temporary, self.meta)

    def scaled(self, vectors_ND: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """Vectors as they enter the prompt, on the model's device.

        Raises:
            InputError: a wrong shape, or not finite.
        """
        check_vectors(vectors_ND, self.meta.d_model)
        return to_norm(vectors_ND.to(self.model.device).float(), self.injection_scale)

    def logprobs(
        self,
        vectors_BD: Float[Tensor, "B D"],
        responses: Sequence[Sequence[int]],
        *,
        prefix_sharing: bool = True,
    ) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Log-probability of each response token, with gradients; and True where one is real.

        Logits are computed for real response tokens only. T is the longest response. Those past
        `LOGITS_AT_ONCE` are made again for the gradient, so that memory does not grow with tokens
        times vocabulary. Where `models.packed` can run the blocks, no padding is run.

        Args:
            prefix_sharing: run the constant prefix once and let all rows attend to it. The
                gradient is the same, being the sum over rows. Not done where `recompute` is.

        Raises:
            InputError: bad vectors, another number of responses, or no token at all.
        """
        _check_responses(len(vectors_BD), responses)
        ids_BT = pad_right(responses).to(self.model.device)
        mask_BT = real_tokens([len(row) for row in responses]).to(self.model.device)
        scaled_BD = self.scaled(vectors_BD)
        body_BSD = self.body(scaled_BD, ids_BT)
        share = prefix_sharing and not (self.recompute and torch.is_grad_enabled())
        if share and not self.adds and self._fits_packed(body_BSD.shape[1]):
            hidden_ND = self._run_packed(body_BSD, responses)
        else:
            run = self._run_shared if share else self._run_plain
            # The token at t is predicted one place earlier: the first by the prompt's last token.
            hidden_ND = run(body_BSD, scaled_BD)[:, -ids_BT.shape[1] - 1 : -1][mask_BT]
        found_N = self._score(hidden_ND, ids_BT[mask_BT])
        logprobs_BT = found_N.new_zeros(mask_BT.shape).masked_scatter(mask_BT, found_N)
        return logprobs_BT, mask_BT

    def encode_response(self, explanation: str) -> list[int]:
        """The answer to train on: tags, explanation as plain text, EOS; each piece on its own."""
        text_ids = encode_ids(self.tokenizer, explanation, plain=True)
        return [*self.open_ids, *text_ids, *self.close_ids, *self.eos_ids[:1]]

    def response_offsets(self, explanation: str) -> list[tuple[int, int]]:
        """Per token of `encode_response`, the characters of the explanation it covers; tags and
        EOS cover none, (0, 0)."""
        inner = encode_with_offsets(self.tokenizer, explanation, plain=True).offsets
        num_after = len(self.close_ids) + len(self.eos_ids[:1])
        return [*[(0, 0)] * len(self.open_ids), *inner, *[(0, 0)] * num_after]

    def decode(self, ids: Sequence[int]) -> str:
        """An answer as text, its final EOS left out."""
        kept = list(ids)
        while kept and kept[-1] in self.eos_ids:
            kept.pop()
        return str(
            self.tokenizer.decode(
                kept, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def parse(self, ids: Sequence[int]) -> Parsed:
        """The explanation in an answer (see `Parsed`)."""
        before, open_tag, after = self.decode(ids).partition(OPEN_TAG)
        text, close_tag, _ = (after if open_tag else before).partition(CLOSE_TAG)
        return Parsed(text.strip(), bool(open_tag and close_tag))

    def body(
        self, scaled_BD: Float[Tensor, "B D"], ids_BT: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B S D"]:
        """Embeddings of slot, suffix and response; `scaled_BD` takes the marker's place, unless it
        is to be added further up (`injecting`).

        Args:
            scaled_BD: what `scaled` returned.
            ids_BT: response ids; T may be 0.
        """
        prompt = [self.meta.tokens.injection_token_id, *self.suffix_ids]
        prompt_BP = torch.tensor(prompt, device=ids_BT.device).expand(len(ids_BT), -1)
        embedded_BSD = self._embed(torch.cat([prompt_BP, ids_BT], dim=1))
        if self.adds:
            return embedded_BSD
        slot_B = torch.zeros(len(ids_BT), dtype=torch.long, device=ids_BT.device)
        return replace_rows(embedded_BSD, slot_B, scaled_BD)

    @property
    def adds(self) -> bool:
        """Whether vectors are added to the residual of a block instead of replacing embeddings."""
        return self.meta.injection.convention == "add"

    @contextmanager
    def injecting(self, vectors_BD: Float[Tensor, "B D"], slot: int = 0) -> Iterator[None]:
        """While it is open, runs of the model's blocks add the vectors at place `slot` of each row.

        Does nothing where vectors replace embeddings (`body` has then put them in).
        """
        if not self.adds:
            yield
            return
        injection = self.meta.injection
        index_B = torch.full((len(vectors_BD),), slot, device=vectors_BD.device)

        def add(_module: Any, _inputs: Any, residual_BTD: Tensor) -> Tensor:
            return add_norm_matched(residual_BTD, index_B, vectors_BD, injection.coefficient)

        block = blocks_of(backbone_of(self.model))[injection.layer]
        hook = block.register_forward_hook(add)
        try:
            yield
        finally:
            hook.remove()

    def _score(
        self, hidden_ND: Float[Tensor, "N D"], ids_N: Int[Tensor, " N"]
    ) -> Float[Tensor, " N"]:
        """Log-probability of each id, given the residual that predicts it."""
        head = head_of(self.model)
        if isinstance(head, nn.Linear) and head.bias is None and is_plain(head):
            return head_logprobs(hidden_ND, head.weight, ids_N, LOGITS_AT_ONCE)
        rows = max(1, LOGITS_AT_ONCE // self.model.config.vocab_size)
        if len(hidden_ND) <= rows:
            return self._score_chunk(hidden_ND, ids_N)
        pairs = zip(hidden_ND.split(rows), ids_N.split(rows), strict=True)
        return torch.cat(
            [checkpoint(self._score_chunk, *pair, use_reentrant=False) for pair in pairs]
        )

    def _score_chunk(
        self, hidden_ND: Float[Tensor, "N D"], ids_N: Int[Tensor, " N"]
    ) -> Float[Tensor, " N"]:
        return token_logprobs(head_of(self.model)(hidden_ND)[None], ids_N[None])[0]

    def _fits_packed(self, body_width: int) -> bool:
        return fits(backbone_of(self.model), len(self.prefix_ids) + body_width)

    def _run_packed(
        self, body_BSD: Float[Tensor, "B S D"], responses: Sequence[Sequence[int]]
    ) -> Float[Tensor, "N D"]:
        """Residuals that predict the real response tokens, row by row."""
        num_predicted = [len(row) for row in responses]
        # A response's last token predicts nothing.
        num_prompt = 1 + len(self.suffix_ids)
        lengths = [num_prompt + count - 1 for count in num_predicted]
        real_BS = real_tokens([*lengths, body_BSD.shape[1]])[:-1]
        packed_SD = torch.cat([self._prefix()[0], body_BSD[real_BS]])
        packing = Packing(len(self.prefix_ids), lengths, num_predicted)
        return run_packed(backbone_of(self.model), packed_SD, packing)

    def _prefix(self) -> Float[Tensor, "1 P D"]:
        return self._embed(torch.tensor([self.prefix_ids], device=self.model.device))

    def _embed(self, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return embedding_of(backbone_of(self.model))(ids_BT)

    def _run_plain(
        self, body_BSD: Float[Tensor, "B S D"], scaled_BD: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B _PS D"]:
        backbone = backbone_of(self.model)
        prefix_BPD = self._prefix().expand(len(body_BSD), -1, -1)
        whole = torch.cat([prefix_BPD, body_BSD], dim=1)
        remade = recomputing(backbone, self.recompute and torch.is_grad_enabled())
        with remade, self.injecting(scaled_BD, len(self.prefix_ids)):
            return backbone(inputs_embeds=whole, use_cache=False).last_hidden_state

    def _run_shared(
        self, body_BSD: Float[Tensor, "B S D"], scaled_BD: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B S D"]:
        backbone = backbone_of(self.model)
        prefix = DynamicCache()
        backbone(inputs_embeds=self._prefix(), use_cache=True, past_key_values=prefix)
        shared = repeated(prefix, len(body_BSD))
        with self.injecting(scaled_BD):
            output = backbone(inputs_embeds=body_BSD, use_cache=True, past_key_values=shared)
        return output.last_hidden_state


def _check_responses(num_vectors: int, responses: Sequence[Sequence[int]]) -> None:
    if len(responses) != num_vectors:
        raise InputError(f"{num_vectors} vectors were given with {len(responses)} responses.")
    if not any(responses):
        raise InputError(f"All {num_vectors} responses are empty: there is no token to score.")
