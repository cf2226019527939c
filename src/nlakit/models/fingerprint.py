"""Whether a target has the weights that a pair was trained on, up to the site where it is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from nlakit.models.families import backbone_of, blocks_of, embedding_of
from nlakit.models.target import Target

SAMPLED = 256
"""Numbers taken of each tensor: fine-tuning changes nearly all, and all of a 70B take long."""


@torch.no_grad()
def target_fingerprint(target: Target) -> str | None:
    """SHA-256 of numbers from the embedding and from every block up to the site, as bfloat16.

    The same whatever the weights' files and whether they are held in float32 or bfloat16. Blocks
    past the site do not matter, since no activation depends on them. None where the weights are
    held in a precision from which bfloat16 cannot be recovered.
    """
    digest = hashlib.sha256()
    for name, tensor in _weights(target):
        if tensor.dtype not in (torch.float32, torch.bfloat16):
            return None
        flat = tensor.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLED)
        sample = flat[::step][:SAMPLED].to(torch.bfloat16).cpu().view(torch.int16)
        digest.update(f"{name} {tuple(tensor.shape)} ".encode())
        digest.update(sample.numpy().astype("<i2").tobytes())
    return digest.hexdigest()


def _weights(target: Target) -> Iterator[tuple[str, Tensor]]:
    backbone = backbone_of(target.model)
    yield "embedding", embedding_of(backbone).weight
    for number, block in enumerate(blocks_of(backbone)[: target.site.num_blocks]):
        for name, parameter in sorted(block.named_parameters()):
            yield f"{number}.{name}", parameter
