"""Where the parts of a pair lie: an NLA's directory, or directories and hub names of its parts.

Nothing here reads a weight, so a request can be refused before a model is loaded.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from nlakit.card import ADAPTER_CONFIG, CARD_NAME, MEAN_NAME
from nlakit.contract import read_meta
from nlakit.data.shards import file_sha256
from nlakit.errors import ContractError, InputError
from nlakit.models.hub import installed_file, locate
from nlakit.registry import (
    BUNDLED,
    CONTROL_AR,
    ROWS,
    WARM_START,
    PairPaths,
    bundled_names,
    bundled_path,
    resolve_pair,
)

PROBES_NAME = "probes.safetensors"
MODELS = ("av", "ar", "target")


@dataclass(frozen=True)
class PairSource:
    """Local paths of a pair.

    Attributes:
        av, ar: whole models, or LoRA adapters of the target.
        target: the base model, which adapters are merged into as well.
        mean: file with the mean of training vectors; None: it is not known.
        paths: of an NLA, whose card and calibrator are the pair's; None: there is neither.
        name: what the pair is called where no card says it.
    """

    av: Path
    ar: Path
    target: Path
    mean: Path | None = None
    paths: PairPaths | None = None
    name: str = ""

    @property
    def models(self) -> dict[str, Path]:
        """The directories of the three models, by their names."""
        return {"av": self.av, "ar": self.ar, "target": self.target}

    def absolute(self) -> PairSource:
        """The same for a process in another directory."""
        models = {name: path.absolute() for name, path in self.models.items()}
        mean = None if self.mean is None else self.mean.absolute()
        paths = self.paths
        if paths is not None:
            compared = None if paths.comparison is None else paths.comparison.absolute()
            paths = PairPaths(paths.shared.absolute(), paths.pair.absolute(), compared)
        return replace(self, **models, mean=mean, paths=paths)


class InMemory(NamedTuple):
    """Says that the target is in memory: a base is read only where adapters need one.

    Attributes:
        directory: that the target was loaded from; None: none that is here.
    """

    directory: Path | None


def find_pair(
    path: str | Path | None = None,
    *,
    av: str | Path | None = None,
    ar: str | Path | None = None,
    target: str | Path | None = None,
    mean: str | Path | None = None,
    in_memory: InMemory | None = None,
) -> PairSource:
    """The parts of an NLA, or those that are given; hub names are downloaded.

    What lies beside `av` and `ar` in one directory, as `nlakit export` writes it, belongs to them:
    a target, a mean, a card.

    Args:
        path: directory of an NLA, or a name that `registry.resolve_pair` knows.
        target: of an NLA too, where its own is another or none; None: the one beside, else the
            base model that the verbalizer's contract names.
        in_memory: the caller has the target; without `target` none is looked for on the hub.

    Raises:
        InputError: there is no such NLA, or both an NLA and parts were given.
        CheckpointError: a part is missing, here and on the hub.
        ContractError: no target was given, and the contract names none.
    """
    parts = {"av": av, "ar": ar, "target": target, "mean": mean}
    for name, value in {"path": path, **parts}.items():
        _check_path(name, value)
    if (av, ar, mean) == (None, None, None) and (path is not None or target is None):
        return _of_nla(resolve_pair(path), target, in_memory)
    if path is not None or av is None or ar is None:
        raise InputError(
            "A pair from its parts needs both av and ar, and no NLA beside them; mean goes with "
            "them, and so may target."
        )
    return _of_parts(av, ar, target, mean, in_memory)


def _check_path(name: str, value: object) -> None:
    if value is not None and not isinstance(value, str | os.PathLike):
        raise InputError(
            f"{name} is {value!r}, expected the directory or the name of a pair as text or a Path."
        )


def _of_nla(paths: PairPaths, target: str | Path | None, in_memory: InMemory | None) -> PairSource:
    mean, av, ar = _beside(paths.shared, MEAN_NAME), paths.pair / "av", paths.pair / "ar"
    found = _beside(paths.shared, "target") if target is None else locate(target)
    base = _base_elsewhere(av, ar, in_memory) if found is None else found
    return PairSource(av, ar, base, mean, paths, paths.pair.name)


def _of_parts(
    av: str | Path,
    ar: str | Path,
    target: str | Path | None,
    mean: str | Path | None,
    in_memory: InMemory | None,
) -> PairSource:
    av_path, ar_path = locate(av), locate(ar)
    home = av_path.parent if av_path.parent == ar_path.parent else None
    target_path = _beside(home, "target") if target is None else locate(target)
    return PairSource(
        av_path,
        ar_path,
        _base_elsewhere(av_path, ar_path, in_memory) if target_path is None else target_path,
        _beside(home, MEAN_NAME) if mean is None else Path(mean),
        None if home is None or _beside(home, CARD_NAME) is None else PairPaths(home, home),
        str(av),
    )


def _beside(home: Path | None, name: str) -> Path | None:
    return home / name if home is not None and (home / name).exists() else None


def _base_elsewhere(av: Path, ar: Path, in_memory: InMemory | None) -> Path:
    """The base that the contract names; with a target in memory only adapters need one."""
    if in_memory is None:
        return locate(_named_base(av))
    if not any((part / ADAPTER_CONFIG).is_file() for part in (av, ar)):
        return av
    return in_memory.directory or locate(_named_base(av))


def _named_base(av: Path) -> str:
    named = read_meta(av).extraction.base_model
    if named is None:
        raise ContractError(
            field="extraction.base_model",
            found="nothing",
            expected="the name of the target",
            hint="Give it as --target.",
        )
    return named


def of_installed_model() -> str | None:
    """The bundled NLA of a real model, where a package that is installed brings the model."""
    names = [name for name in bundled_names() if name != BUNDLED]
    bases = {name: _named_base(bundled_path(name) / "av") for name in names}
    return next((name for name, base in bases.items() if installed_file(base)), None)


# -- hashes ----------------------------------------------------------------------------------------
def weight_hashes(directory: Path) -> dict[str, str]:
    """SHA-256 of every weight file in a directory, by its path there; rows and probes left out."""
    files = sorted(file for file in directory.rglob("*.safetensors") if file.name != PROBES_NAME)
    names = {path.relative_to(directory): path for path in files}
    return {
        name.as_posix(): file_sha256(path) for name, path in names.items() if name.parts[0] != ROWS
    }


def pair_hashes(source: PairSource) -> dict[str, str]:
    """SHA-256 of every weight file of a pair, by part and name; the mean's where it has one."""
    found = {
        f"{part}/{file}": sha256
        for part, directory in {**source.models, **comparison_parts(source)}.items()
        for file, sha256 in weight_hashes(directory).items()
    }
    return found if source.mean is None else {**found, MEAN_NAME: file_sha256(source.mean)}


def comparison_parts(source: PairSource) -> dict[str, Path]:
    """What an evaluation compares a pair with, where it lies beside it: warm start, control AR."""
    if source.paths is None:
        return {}
    parts = {name: source.paths.part(name) for name in (WARM_START, CONTROL_AR)}
    return {name: directory for name, directory in parts.items() if directory is not None}
