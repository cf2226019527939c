"""`nlakit pack`: a finished run as parts of the package and of a checkout's assets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nlakit.console import tell
from nlakit.publish.pack import pack as write

from .results import Json, write_json

MB = 1e6


def pack(
    run: Path,
    /,
    *,
    name: str,
    package: Path = Path("src/nlakit/assets"),
    assets: Path = Path("assets"),
    overwrite: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Lay a run's pair into the package, and what it is compared with into assets/.

    Parameters
    ----------
    run
        Directory that `nlakit train` wrote.
    name
        What the pair is called there.
    package
        Directory of the package's NLAs.
    assets
        Directory of what is compared with them.
    overwrite
        Take the place of an earlier pair of that name.
    """
    made = write(run, name, package, assets, overwrite)
    if json:
        sizes = {"package_bytes": made.package_bytes, "asset_bytes": made.asset_bytes}
        write_json({"package": str(made.package), "assets": str(made.assets), **sizes})
        return
    for path, size in (
        (made.package, made.package_bytes),
        (made.assets, made.asset_bytes),
    ):
        tell(f"{path}: {size / MB:.1f} MB")
