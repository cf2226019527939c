"""`nlakit pack`: a finished run as parts of the package and of a checkout's assets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from nlakit.publish.pack import pack as write

MB = 1e6


def pack(
    run: Path,
    /,
    *,
    name: str,
    package: Path = Path("src/nlakit/assets"),
    assets: Path = Path("assets"),
    overwrite: Annotated[bool, Parameter(negative=())] = False,
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
    for path, size in (
        (made.package, made.package_bytes),
        (made.assets, made.asset_bytes),
    ):
        said = f"{path}: {size / MB:.1f} MB"
        Console().print(said, markup=False, highlight=False, soft_wrap=True)
