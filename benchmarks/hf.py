"""Hugging Face `generate` as a user would call it: the whole prompt as embeddings, the vector in
its slot. Nothing ends an answer on either side, so both write the same number of tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nlakit.models.verbalizer import Verbalizer

from . import checkpoints
from .measure import Done, Task
from .ours import DTYPES
from .specs import NEW_TOKENS, SPECS


def prompt_embeddings(verbalizer: Verbalizer, vectors_ND: Tensor) -> Tensor:
    """The full prompt of each vector, N x T x D: nothing is shared."""
    slot = len(verbalizer.prefix_ids)
    ids = [*verbalizer.prefix_ids, 0, *verbalizer.suffix_ids]
    embed = verbalizer.model.get_input_embeddings()
    row_TD = embed(torch.tensor(ids, device=verbalizer.model.device))
    rows_NTD = row_TD.repeat(len(vectors_ND), 1, 1)
    scale = verbalizer.injection_scale
    assert scale is not None
    vectors_ND = vectors_ND.to(rows_NTD.device)
    scaled_ND = vectors_ND / vectors_ND.norm(dim=-1, keepdim=True) * scale
    rows_NTD[:, slot] = scaled_ND.to(rows_NTD)
    return rows_NTD


@torch.no_grad()
def generate(verbalizer: Verbalizer, vectors_ND: Tensor, new_tokens: int, sampled: bool) -> Tensor:
    """Answers, N x T; sampled at temperature 1 from the whole vocabulary, or greedy."""
    embeds = prompt_embeddings(verbalizer, vectors_ND)
    settings: dict[str, Any] = {"do_sample": False}
    if sampled:
        settings = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    verbalizer.model.generation_config.eos_token_id = None
    return verbalizer.model.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device),
        max_new_tokens=new_tokens,
        pad_token_id=0,
        **settings,
    )


def explain(
    model: str,
    rows: int,
    batch: int,
    new_tokens: int = NEW_TOKENS,
    sampled: bool = True,
    dtype: str = "float32",
) -> Task:
    """`rows` explanations, `batch` at a time, as text."""
    verbalizer = checkpoints.load_verbalizer(model, DTYPES[dtype])
    vectors = checkpoints.vectors(SPECS[model], rows)

    def run(num_tokens: int = new_tokens) -> Done:
        texts: list[str] = []
        for some in vectors.split(batch):
            ids = generate(verbalizer, some, num_tokens, sampled)
            texts += verbalizer.tokenizer.batch_decode(ids)
        return Done(len(texts))

    return Task(run, lambda: run(2))


SIDES = {"explain": explain}
