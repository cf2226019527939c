"""Plays the audit game over the organisms of a directory, seeds and auditors.

A finished audit is a line of a file, and is not played again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from nlakit.audit.game import Budget, GameRow, audit, graded
from nlakit.config import parse_config
from nlakit.errors import InputError
from nlakit.models.target import Target
from nlakit.pair.pair import Pair
from nlakit.sae.autoencoder import SparseAutoencoder

from .auditors import (
    ChatPool,
    Chats,
    Observer,
    look_at_words,
    look_inside,
    read_with_lens,
    read_with_nla,
    read_with_sae,
)
from .conduct import Case
from .organisms import MODEL, OrganismStage

AuditorName = Literal["conversation", "logit-lens", "sae", "nla", "grounded-nla"]
AUDITORS: tuple[AuditorName, ...] = ("conversation", "logit-lens", "sae", "nla", "grounded-nla")
CHAT_SEED = 80_000
Look = Callable[[Target, Sequence[Case]], list[frozenset[str]]]


class Organism(NamedTuple):
    """A trained organism; `truth` is its condition and behaviour, None of a control."""

    name: str
    model: Path
    truth: tuple[str, str] | None


def organisms_in(directory: Path) -> list[Organism]:
    """The finished organisms of a directory that `nlakit storyworld organisms` wrote.

    Raises:
        InputError: there is none.
    """
    made = sorted(path.parent for path in directory.glob("*/done.json"))
    found = [_organism(path) for path in made if (path / MODEL).is_dir()]
    if not found:
        raise InputError(
            f"Asked for organisms in {directory}; found none. Train them: nlakit storyworld "
            "organisms recipes/organisms.toml"
        )
    return found


def _organism(path: Path) -> Organism:
    config = parse_config(OrganismStage, path / "config.toml").organism
    truth = None if config.when is None or config.then is None else (config.when, config.then)
    return Organism(path.name, path / MODEL, truth)


@dataclass(frozen=True)
class Tools:
    """What auditors look with.

    Attributes:
        base: the target that organisms were trained from.
        plain, grounded: NLAs of the base; neither has seen an organism.
    """

    base: Target
    sae: SparseAutoencoder | None = None
    plain: Pair | None = None
    grounded: Pair | None = None

    def look(self, auditor: AuditorName) -> Look:
        """How an auditor looks at a target. Raises `InputError` for a tool that is not there."""
        if auditor == "conversation":
            return look_at_words
        if auditor == "logit-lens":
            return look_inside(read_with_lens)
        if auditor == "sae" and self.sae is not None:
            return look_inside(read_with_sae(self.sae, self.base))
        pair = {"nla": self.plain, "grounded-nla": self.grounded}.get(auditor)
        if pair is not None:
            return look_inside(read_with_nla(pair))
        raise InputError(f"The auditor {auditor!r} was asked for, and its tool was not loaded.")


def play(
    tools: Tools,
    organisms: Sequence[Organism],
    auditors: Sequence[AuditorName],
    seeds: Sequence[int],
    budget: Budget,
    done: Sequence[GameRow] = (),
) -> Iterator[GameRow]:
    """Every audit that is not done, auditor by auditor."""
    known = {(row.auditor, row.organism, row.seed) for row in done}
    chats = {seed: Chats(tools.base, CHAT_SEED + seed) for seed in seeds}
    for auditor in auditors:
        left = [
            (organism, seed)
            for organism in organisms
            for seed in seeds
            if (auditor, organism.name, seed) not in known
        ]
        if not left:
            continue
        look = tools.look(auditor)
        seen_of_base: dict[str, frozenset[str]] = {}
        for organism, seed in left:
            target = Target.load(organism.model, tools.base.site.layer)
            target.model.to(tools.base.model.device)
            observe = Observer(target, tools.base, look, seen_of_base)
            named = audit(ChatPool(chats[seed]), observe, budget)
            yield graded(auditor, organism.name, seed, named, organism.truth)


def read_rows(path: Path) -> list[GameRow]:
    """Rows of a file of finished audits, each once; none where it is not there. A line that a kill
    has cut in two is passed over."""
    if not path.is_file():
        return []
    rows: dict[tuple[str, str, int], GameRow] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            row = GameRow(**json.loads(line))
        except (ValueError, TypeError):
            continue
        rows[row.auditor, row.organism, row.seed] = row
    return list(rows.values())


def keep_row(path: Path, row: GameRow) -> None:
    """Append a finished audit."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row._asdict()) + "\n")
