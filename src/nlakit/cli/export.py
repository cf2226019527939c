"""`nlakit export`: writes a pair for others."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rich.console import Console

from .pairs import BUNDLED, PairOptions


def export(
    *,
    output: Path,
    pair: PairOptions = BUNDLED,
    dtype: Literal["bfloat16", "float32"] | None = None,
    license: str | None = None,
    data: str | None = None,
) -> None:
    """Write a pair as directories that other clients read, with a model card.

    Parameters
    ----------
    output
        Directory to write av/, ar/, target/, the card and the mean into.
    dtype
        Of the weights; by default as the base model is stored.
    license
        Licence of the base model, for the model card; by default as its README.md says.
    data
        What the pair was trained on, for the model card.
    """
    pair.check()
    # What can be refused has been; now torch.
    from nlakit.models.placement import DTYPES
    from nlakit.publish.export import export as write

    chosen = None if dtype is None else DTYPES[dtype]
    for path in write(pair.source(), output, license_name=license, data=data, dtype=chosen):
        Console().print(str(path), markup=False, highlight=False, soft_wrap=True)
