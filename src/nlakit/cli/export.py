"""`nlakit export`: writes a pair for others."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from nlakit.errors import InputError
from nlakit.pair.load import find_pair
from nlakit.publish.export import Source, source_of_nla
from nlakit.publish.export import export as write


def export(
    *,
    output: Path,
    nla: str | None = None,
    av: str | None = None,
    ar: str | None = None,
    target: str | None = None,
    dtype: Literal["bfloat16", "float32"] | None = None,
    license: str | None = None,
    data: str | None = None,
) -> None:
    """Write a pair as directories that other clients read, with a model card.

    Parameters
    ----------
    output
        Directory to write av/ and ar/ into; for an NLA also target/ and its mean.
    nla
        Directory of an NLA; by default the bundled one.
    av
        Instead of an NLA: directory or hub name of a verbalizer; a LoRA adapter is merged.
    ar
        The reconstructor to it.
    target
        The base model; by default the one that the verbalizer names.
    dtype
        Of the weights; by default as the base model is stored.
    license
        Licence of the base model, for the model card; by default as its README.md says.
    data
        What the pair was trained on, for the model card.
    """
    if (av is None) != (ar is None) or (nla is not None and av is not None):
        raise InputError("Give --nla, or both --av and --ar.")
    if av is not None and ar is not None:
        source = Source(find_pair(av, ar, target), None, None)
    else:
        source = source_of_nla(nla)
    chosen: torch.dtype | None = None if dtype is None else getattr(torch, dtype)
    for path in write(source, output, license_name=license, data=data, dtype=chosen):
        Console().print(str(path), markup=False, highlight=False, soft_wrap=True)
