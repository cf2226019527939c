"""Which pair an evaluation measures: options that all of its verbs share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from nlakit.errors import InputError
from nlakit.evals.loose import load_loose
from nlakit.evals.pair import Pair, load_pair
from nlakit.pair.load import find_pair
from nlakit.registry import PairPaths, resolve_pair


@Parameter(name="*")
@dataclass(frozen=True)
class PairOptions:
    """An NLA's directory, or the parts of a released pair."""

    nla: str | None = None
    """plain-warm-start, plain-rl, grounded-warm-start, bundled (the default), or a directory."""

    av: str | None = None
    """Instead of an NLA: directory or hub name of a verbalizer, or of its LoRA adapter."""

    ar: str | None = None
    """The reconstructor to it."""

    target: str | None = None
    """The model that is read; by default the one that the verbalizer names."""

    mean: Path | None = None
    """File with mean and variance of training vectors; without it the mean for --av is measured."""

    @property
    def is_loose(self) -> bool:
        """Whether parts were given."""
        return (self.av, self.ar, self.target, self.mean) != (None, None, None, None)

    def check(self) -> None:
        """Raise `InputError` for options that do not go together, and for an NLA not there."""
        if not self.is_loose:
            resolve_pair(self.nla)
        elif self.nla is not None or self.av is None or self.ar is None:
            raise InputError(
                "A released pair needs both --av and --ar, and no --nla beside them; --target and "
                "--mean belong to it."
            )

    def paths(self) -> PairPaths | None:
        """Where an NLA lies, and what lies beside it; None for a released pair."""
        return None if self.is_loose else resolve_pair(self.nla)

    def load(self) -> Pair:
        """Read the pair. Raises as `load_pair` and `load_loose` do, and `check`."""
        self.check()
        if self.av is None or self.ar is None:
            return load_pair(self.nla)
        return load_loose(self.av, find_pair(self.av, self.ar, self.target), self.mean)


BUNDLED = PairOptions()
