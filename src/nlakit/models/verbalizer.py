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
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedTokenizerBase

from nlakit.contract import (
    NlaMeta,
    encode_ids,
    encode_with_offsets,
    read_meta,
    render_av,
    verify,
    write_meta,
)
from nlakit.core.attention import to_device
from nlakit.core.inject import add_norm_matched, check_vectors, replace_rows
from nlakit.core.losses import head_logprobs, token_logprobs
from nlakit.core.packing import Packing, spans
from nlakit.core.scale import resolve_scale, to_norm
from nlakit.errors import InputError
from nlakit.models.endings import endings_of
from nlakit.models.families import backbone_of, blocks_of, embedding_of, head_of
from nlakit.models.forward import BlockEdit, packs_of, run_packed
from nlakit.models.io import (
    atomic_directory,
    load_backbone,
    load_config,
    load_tokenizer,
    save_model,
)
from nlakit.models.lora import open_checkpoint
from nlakit.models.overflow import check_fits
from nlakit.models.padding import real_tokens
from nlakit.models.sharding import at_root

OPEN_TAG = "<explanation>"
CLOSE_TAG = "</explanation>"

LOGITS_KEPT = 1 << 27
"""Logits that a training forward keeps for the gradient: 512 MB of float32, 256 of bfloat16."""


class Parsed(NamedTuple):
    """What an answer says.

    Attributes:
        text: the words between the tags, or those so far where the answer was cut.
        closed: whether both tags are there; an answer without them is not an explanation.
    """

    text: str
    closed: bool


class _ResponsePack(NamedTuple):
    """Rows that are run together, R of them with N response tokens; all on the model's device.

    Attributes:
        ids_S: of the prefix, then each row's slot, suffix and response but for its last token.
        slots_R: where in the pack each row's slot is.
        rows_R: their numbers among the B rows.
        ids_N: the response tokens.
        places_N: where each of them is in B x T, flattened.
    """

    packing: Packing
    ids_S: Tensor
    slots_R: Tensor
    rows_R: Tensor
    ids_N: Tensor
    places_N: Tensor


class PackedResponses(NamedTuple):
    """Prompts with responses, on the model's device (`Verbalizer.pack`).

    Attributes:
        packs: all rows, then spare packs, which are run and come to nothing (`models.sharding`).
        mask_BT: True where a response token is real.
        num_tokens: how many are.
    """

    packs: tuple[_ResponsePack, ...]
    mask_BT: Tensor
    num_tokens: int


class Verbalizer:
    """A causal language model that reads one injected vector and answers in words.

    Attributes:
        prefix_ids, suffix_ids: the prompt before and after the slot.
        open_ids, close_ids: the tags.
        eos_ids: any of these ends an answer.
        injection_scale: norm of the vector in the prompt; None injects it as it is.
        recompute: gradient checkpointing, which runs each block again for its gradient and saves
            memory.
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
            InputError: a wrong shape, not finite, or too large for the model's precision.
        """
        check_vectors(vectors_ND, self.meta.d_model)
        # Where the vectors are, mostly on the CPU: a check on the device would wait for it.
        scaled_ND = to_norm(vectors_ND.float(), self.injection_scale)
        if not self.adds:
            what = f"Vectors at the injection scale {self.injection_scale}"
            check_fits(scaled_ND, self.model.dtype, what)
        return scaled_ND.to(self.model.device)

    def logprobs(
        self, vectors_BD: Float[Tensor, "B D"], responses: Sequence[Sequence[int]]
    ) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """Log-probability of each response token, with gradients; and True where one is real.

        T is the longest response. The constant prefix is run once for all rows, and no padding is
        (`models.forward`). Logits are computed for response tokens only; those past
        `LOGITS_KEPT` are computed again for the gradient, so that memory does not grow with
        tokens times vocabulary.

        Raises:
            InputError: bad vectors, another number of responses, or no token at all.
        """
        return self.packed_logprobs(vectors_BD, self.pack(responses))

    def pack(self, responses: Sequence[Sequence[int]]) -> PackedResponses:
        """Prompts with responses as `packed_logprobs` takes them: for several verbalizers of one
        prompt, such as a policy and its reference.

        Raises:
            InputError: no token at all.
        """
        lengths = [len(row) for row in responses]
        if not any(lengths):
            raise InputError(f"All {len(lengths)} responses are empty: there is no token to score.")
        rows = [row for row, length in enumerate(lengths) if length]
        # A response's last token predicts nothing.
        own = [len(self.suffix_ids) + lengths[row] for row in rows]
        backbone, edit = backbone_of(self.model), self._edit(None, None)
        packs = packs_of(backbone, own, len(self.prefix_ids), edit)
        return PackedResponses(
            tuple(self._pack(responses, [rows[i] for i in each], max(lengths)) for each in packs),
            to_device(real_tokens(lengths), self.model.device),
            sum(lengths),
        )

    def packed_logprobs(
        self, vectors_BD: Float[Tensor, "B D"], packed: PackedResponses
    ) -> tuple[Float[Tensor, "B T"], Bool[Tensor, "B T"]]:
        """As `logprobs`.

        Raises:
            InputError: bad vectors, or another number of them than of responses.
        """
        num_rows = len(packed.mask_BT)
        if num_rows != len(vectors_BD):
            raise InputError(f"{len(vectors_BD)} vectors were given with {num_rows} responses.")
        scaled_BD = self.scaled(vectors_BD)
        backbone = backbone_of(self.model)
        runs = [partial(self._run_pack, scaled_BD, pack) for pack in packed.packs]
        # Cut off, spare packs still have a gradient, of zeros.
        found_N = torch.cat([at_root(backbone, run) for run in runs])[: packed.num_tokens]
        places_N = torch.cat([pack.places_N for pack in packed.packs])[: packed.num_tokens]
        flat = torch.zeros(packed.mask_BT.numel(), device=places_N.device)
        logprobs_BT = flat.index_copy(0, places_N, found_N).view(packed.mask_BT.shape)
        return logprobs_BT, packed.mask_BT

    def _pack(
        self, responses: Sequence[Sequence[int]], rows: Sequence[int], width: int
    ) -> _ResponsePack:
        """Some rows with responses; `width` is T."""
        prompt = [self.meta.tokens.injection_token_id, *self.suffix_ids]
        own = [[*prompt, *responses[row][:-1]] for row in rows]
        lengths = tuple(len(each) for each in own)
        wanted = tuple(len(responses[row]) for row in rows)
        starts = torch.tensor([len(self.prefix_ids), *lengths[:-1]]).cumsum(0)
        indices = (
            torch.tensor([*self.prefix_ids, *chain.from_iterable(own)]),
            starts,
            torch.tensor(rows),
            torch.tensor([*chain.from_iterable(responses[row] for row in rows)]),
            spans([row * width for row in rows], wanted),
        )
        packing = Packing(len(self.prefix_ids), lengths, wanted)
        device = self.model.device
        return _ResponsePack(packing, *(to_device(index, device) for index in indices))

    def _run_pack(
        self, scaled_BD: Float[Tensor, "B D"], pack: _ResponsePack
    ) -> Float[Tensor, " N"]:
        """Log-probabilities of a pack's response tokens."""
        embedded_SD = self._embed(pack.ids_S[None])[0]
        vectors_RD = scaled_BD.index_select(0, pack.rows_R)
        if not self.adds:
            vectors_RD = vectors_RD.to(embedded_SD.dtype)
            embedded_SD = embedded_SD.index_copy(0, pack.slots_R, vectors_RD)
        hidden_ND = run_packed(
            backbone_of(self.model),
            embedded_SD,
            pack.packing,
            edit=self._edit(vectors_RD, pack.slots_R),
            gradient_checkpointing=self.recompute,
        )
        return self._score(hidden_ND, pack.ids_N)

    def _edit(self, vectors_RD: Tensor | None, slots_R: Tensor | None) -> BlockEdit | None:
        """How vectors are added further up, each at its slot of the pack; None where they replace
        embeddings."""
        if not self.adds:
            return None
        injection = self.meta.injection

        def add(residual_SD: Tensor) -> Tensor:
            assert vectors_RD is not None and slots_R is not None, "only a run has vectors"
            slot_R1D = residual_SD.index_select(0, slots_R)[:, None]
            first_R = torch.zeros_like(slots_R)
            added = add_norm_matched(slot_R1D, first_R, vectors_RD, injection.coefficient)
            return residual_SD.index_copy(0, slots_R, added[:, 0])

        return BlockEdit(injection.layer, add)

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
        if _is_plain_head(head, hidden_ND):
            return head_logprobs(hidden_ND, head.weight, ids_N, LOGITS_KEPT)
        rows = max(1, LOGITS_KEPT // self.model.config.vocab_size)
        pairs = zip(hidden_ND.split(rows), ids_N.split(rows), strict=True)
        return torch.cat(
            [checkpoint(self._score_chunk, *pair, use_reentrant=False) for pair in pairs]
        )

    def _score_chunk(
        self, hidden_ND: Float[Tensor, "N D"], ids_N: Int[Tensor, " N"]
    ) -> Float[Tensor, " N"]:
        return token_logprobs(head_of(self.model)(hidden_ND)[None], ids_N[None])[0]

    def _embed(self, ids_BT: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        return embedding_of(backbone_of(self.model))(ids_BT)


def _is_plain_head(head: Any, hidden_ND: Tensor) -> bool:
    """Whether the language head is a matrix of the residuals' precision, whole, with no hook."""
    return (
        type(head) is nn.Linear
        and head.bias is None
        and type(head.weight) is nn.Parameter
        and head.weight.dtype == hidden_ND.dtype
        and not head._forward_hooks
        and not head._forward_pre_hooks
    )
