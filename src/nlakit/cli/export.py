"""`nlakit export`: writes a pair for others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions
from .results import Json, write_json


def export(
    *,
    output: Path,
    license: str | None = None,
    data: str | None = None,
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Write a pair as directories that other clients read, with a model card.

    Each model is read back on --device and compared with the one that was written. --dtype is the
    precision on disk; auto is that in which the model is stored.

    Parameters
    ----------
    output
        Directory to write av/, ar/, target/, the card and the mean into, new or empty.
    license
        Licence of the base model, for the model card; by default as its README.md says.
    data
        What the pair was trained on, for the model card.
    overwrite
        Take the place of an earlier export in that directory.
    """
    pair.check()
    # What can be refused has been; now torch.
    from nlakit.models.placement import DTYPES
    from nlakit.publish.export import export as write

    written = write(
        pair.source(),
        output,
        license_name=license,
        data=data,
        where=devices.placement(),
        dtype=DTYPES.get(devices.dtype),
        overwrite=overwrite,
    )
    if json:
        write_json({"output": str(output), "files": [str(path) for path in written]})
        return
    for path in written:
        print(path)
