"""A finished run as parts of a package: what a reader needs, and what it is compared with.

    PACKAGE/NAME    models, card, mean, calibrator, probes, report: in the wheel
    ASSETS/NAME     rows, warm start, control AR, logs of the run: in a checkout only

Of a LoRA run's pair the adapters are taken (`nla-adapters`), else the pair itself (`nla`).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from nlakit.card import ADAPTER_CONFIG, read_card, write_card
from nlakit.errors import InputError
from nlakit.registry import CONTROL_AR, ROWS, RUN, WARM_START
from nlakit.train.publication import ADAPTERS_NAME

COMPARISON = (ROWS, WARM_START, CONTROL_AR, RUN)
TOKENIZER_FILES = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}


class Packed(NamedTuple):
    """Where the parts were written, and the bytes of each."""

    package: Path
    assets: Path
    package_bytes: int
    asset_bytes: int


def pack(run: Path, name: str, package: Path, assets: Path, overwrite: bool = False) -> Packed:
    """Copy a run's pair into both places.

    Args:
        run: what `nlakit train` wrote.
        overwrite: take the place of an earlier one of that name.

    Raises:
        InputError: the run is not finished, or a directory of that name is there.
    """
    source = next((run / each for each in (ADAPTERS_NAME, "nla") if (run / each).is_dir()), None)
    if source is None or not (source / "report.json").is_file():
        raise InputError(f"{run} holds no finished pair. Run: nlakit train RECIPE --output {run}")
    parts = {package / name: False, assets / name: True}
    for directory in parts:
        if directory.exists() and not overwrite:
            raise InputError(f"{directory} is there. Give another --name, or --overwrite.")
    for directory, compared in parts.items():
        _copy(source, directory, compared)
    write_card(package / name, read_card(package / name).model_copy(update={"name": name}))
    sizes = [_size(directory) for directory in parts]
    return Packed(package / name, assets / name, *sizes)


def _copy(source: Path, directory: Path, compared: bool) -> None:
    """Those of the source's entries that are for comparison, or the others, at once."""
    temporary = directory.with_name(f".{directory.name}.new")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    for path in sorted(source.iterdir()):
        if (path.name in COMPARISON) == compared and not path.name.startswith("."):
            copied = temporary / path.name
            if path.is_dir():
                shutil.copytree(path, copied, ignore=_of_the_base)
            else:
                shutil.copyfile(path, copied)
    shutil.rmtree(directory, ignore_errors=True)
    temporary.rename(directory)


def _of_the_base(directory: str, names: list[str]) -> set[str]:
    """The tokenizer's files beside an adapter: its base has them, and they are megabytes."""
    return TOKENIZER_FILES & set(names) if ADAPTER_CONFIG in names else set()


def _size(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
