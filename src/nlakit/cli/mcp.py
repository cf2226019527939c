"""`nlakit mcp`: a project and a pair as tools for an auditing agent."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from nlakit.audit.embed import Embedder, EmbedderName, embedder
from nlakit.audit.mcp_server import Desk, build_server
from nlakit.audit.project import Project
from nlakit.card import read_card
from nlakit.errors import InputError
from nlakit.models.target import Target
from nlakit.pair.pair import Pair
from nlakit.registry import bundled_path
from nlakit.worlds.storyworld.audit_game import keep_row, organisms_in
from nlakit.worlds.storyworld.game_tools import GameTable

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions


def mcp(
    project: Path | None = None,
    /,
    *,
    transport: Literal["stdio", "streamable-http"] = "stdio",
    embedder_name: Annotated[EmbedderName, Parameter(name="--embedder")] = "auto",
    game: Annotated[Path | None, Parameter(negative=())] = None,
    game_auditor: str = "agent",
    game_thoughts: Annotated[bool, Parameter(negative=())] = False,
    game_budget: int = 64,
    game_answers: Annotated[Path | None, Parameter(negative=())] = None,
    pair: PairOptions = BUNDLED,
    devices: DeviceOptions = AUTOMATIC,
) -> None:
    """Serve tools over the Model Context Protocol: search, detect, compare, explain, steer.

    With a project alone no model is loaded; name a pair, or nothing at all, to read texts too.

    Parameters
    ----------
    project
        A project that `nlakit scan` made.
    transport
        stdio for an agent on this machine, or streamable-http on 127.0.0.1.
    embedder_name
        minilm, wordllama, or the best that is installed.
    game
        Instead: play the audit game on one organism, such as runs/organisms/trigger-word.
    game_auditor
        What the audit's row calls the agent.
    game_thoughts
        Give the agent an NLA, by --nla or the bundled one; else it has conversation only.
    game_budget
        Chats that the agent may look at.
    game_answers
        File of audits that the answer is appended to, as `nlakit audit-game --output` reads it; by
        default audits-agents.jsonl beside the organism.
    devices
        Where models run.
    """

    @cache
    def meaning() -> Embedder:
        return embedder(embedder_name, by_meaning=True)

    if game is not None:
        thoughts = pair.load(devices) if game_thoughts else None
        table = game_table(game, game_auditor, thoughts, game_budget, game_answers)
        build_server(
            Desk(None, None, meaning, looking=table.tools(), writing=[table.name_quirk])
        ).run(transport)
        return
    opened = None if project is None else Project.open(project)
    wanted = opened is None or pair != BUNDLED
    loaded = pair.load(devices) if wanted else None
    build_server(Desk(opened, loaded, meaning)).run(transport)


def game_table(
    organism: Path, auditor: str, thoughts: Pair | None, budget: int, answers: Path | None
) -> GameTable:
    """One audit of an organism by an agent.

    Raises:
        InputError: there is no such organism, or a budget below 1.
    """
    if budget < 1:
        raise InputError(f"--game-budget must be 1 or more, found {budget}.")
    found = next((o for o in organisms_in(organism.parent) if o.name == organism.name), None)
    if found is None:
        raise InputError(f"{organism} is no finished organism. nlakit storyworld organisms")
    layer = read_card(bundled_path()).layer
    path = answers or organism.parent / "audits-agents.jsonl"
    return GameTable(
        auditor=auditor,
        organism=found.name,
        model=Target.load(found.model, layer),
        base=Target.load(bundled_path() / "target", layer),
        truth=found.truth,
        budget=budget,
        keep=partial(keep_row, path),
        pair=thoughts,
    )
