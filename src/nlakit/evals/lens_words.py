"""What the target's own head makes of an activation, in words: a baseline that trains nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from nlakit.models.families import backbone_of, family_of, head_of

from .rows import ReadSample

LENS_WORDS = 3


@torch.no_grad()
def lens_texts(sample: ReadSample) -> list[str]:
    """For each row the likeliest tokens of the logit lens, as an explanation would name them."""
    model, tokenizer = sample.pair.target.model, sample.pair.target.tokenizer
    backbone = backbone_of(model)
    norm = getattr(backbone, family_of(model.config.model_type).final_norm)
    logits_NV: Tensor = head_of(model)(norm(sample.vectors_ND.to(model.device, model.dtype)))
    top = logits_NV.topk(min(LENS_WORDS, logits_NV.shape[-1])).indices.tolist()
    say_next = sample.claims.say_next
    return [say_next([str(tokenizer.decode([token])).strip() for token in row]) for row in top]
