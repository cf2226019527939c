"""Which pair a verb reads, and for evaluations with what beside it: options that verbs share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cyclopts import Parameter

from nlakit.errors import InputError
from nlakit.registry import PairPaths, resolve_pair

from .devices import AUTOMATIC, DeviceOptions

if TYPE_CHECKING:
    from nlakit.card import NlaCard
    from nlakit.evals.eval_set import EvalSet
    from nlakit.pair.pair import Pair
    from nlakit.pair.source import PairSource


@Parameter(name="*")
@dataclass(frozen=True)
class PairOptions:
    """An NLA's directory, or the parts of a released pair."""

    nla: str | None = None
    """A directory, the name of an NLA that comes with nlakit (the storyworld's by default), or one
    of its rows for comparison, such as storyworld/plain-rl."""

    av: str | None = None
    """Instead of an NLA: directory or hub name of a verbalizer, or of its LoRA adapter."""

    ar: str | None = None
    """The reconstructor of the same pair."""

    target: str | None = None
    """The model that is read; by default the one beside the pair, or the one that it names."""

    mean: Path | None = None
    """File with mean and variance of training vectors; by default the one beside --av."""

    def check(self) -> None:
        """Raise `InputError` for options that do not go together, and for an NLA not there."""
        alone = (self.av, self.ar, self.mean) == (None, None, None)
        if alone and (self.nla is not None or self.target is None):
            resolve_pair(self.nla)
        elif self.nla is not None or self.av is None or self.ar is None:
            raise InputError(
                "A released pair needs both --av and --ar, and no --nla beside them; --mean "
                "belongs to it, and --target to it or to --nla."
            )

    def source(self) -> PairSource:
        """Where its parts are. Raises as `find_pair` and `check`."""
        from nlakit.pair.source import find_pair

        self.check()
        return find_pair(self.nla, av=self.av, ar=self.ar, target=self.target, mean=self.mean)

    def paths(self) -> PairPaths | None:
        """Where an NLA lies, and what lies beside it; None for a released pair."""
        return self.source().paths

    def load(self, devices: DeviceOptions = AUTOMATIC) -> Pair:
        """Read the pair. Raises as `load_source` does, and `check`."""
        from nlakit.pair.load import load_source

        return load_source(self.source(), devices.placement())

    def load_for_evaluation(self, eval_set: EvalSet, devices: DeviceOptions = AUTOMATIC) -> Pair:
        """Read the pair with what it is compared with, and a mean for one that knows none."""
        from nlakit.evals.baseline import with_baseline
        from nlakit.pair.load import load_source

        source = self.source()
        pair = load_source(source, devices.placement(), comparisons=True)
        return with_baseline(pair, source, eval_set)

    def card(self) -> NlaCard:
        """The pair's card; of a pair without one what is known without it."""
        from nlakit.pair.load import read_facts

        return read_facts(self.source())[0]


BUNDLED = PairOptions()
