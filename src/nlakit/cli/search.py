"""`nlakit search` and `nlakit themes`: what an NLA said of many transcripts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nlakit.audit.embed import EmbedderName, embedder
from nlakit.audit.index import Filters
from nlakit.audit.project import Project
from nlakit.audit.search import Hit
from nlakit.audit.search import search as find
from nlakit.audit.themes import themes as find_themes
from nlakit.console import tell

from .results import write_json


@Parameter(name="*")
@dataclass(frozen=True)
class FilterOptions:
    """Which readings count; by default all."""

    transcript: str | None = None
    """Id or name of one transcript."""

    role: str | None = None
    """Only messages of this role."""

    section: str | None = None
    """content, thinking, tool_call, header or footer."""

    min_fidelity: float | None = None
    """Only explanations of at least this fidelity."""

    min_confidence: float | None = None
    """Only explanations whose claims have at least this mean confidence."""

    def filters(self) -> Filters:
        return Filters(
            self.transcript, self.role, self.section, self.min_fidelity, self.min_confidence
        )


ALL = FilterOptions()


def search(
    project: Path,
    query: str,
    /,
    *,
    meaning: Annotated[bool, Parameter(negative=())] = False,
    embedder_name: Annotated[EmbedderName, Parameter(name="--embedder")] = "auto",
    limit: int = 20,
    json: Annotated[bool, Parameter(negative=())] = False,
    only: FilterOptions = ALL,
) -> None:
    """Search what an NLA said, by words or by meaning.

    Parameters
    ----------
    project
        A project that `nlakit scan` made.
    query
        Words, or "a phrase" in quotes; with --meaning a sentence.
    meaning
        Find what means the same, not only what says the same words (extra: search).
    embedder_name
        minilm, wordllama, or the best that is installed.
    limit
        At most N results.
    json
        Print one JSON object.
    only
        Which readings count.
    """
    opened = Project.open(project)
    by = embedder(embedder_name, by_meaning=True) if meaning else None
    found = find(opened, query, limit, only.filters(), by)
    if json:
        results = [each._asdict() for each in found]
        told = {"query": query, "by": by.name if by else "words", "results": results}
        write_json(told)
        return
    Console().print(_table(found) if found else f"Nothing says {query!r}.")


def _table(found: list[Hit]) -> Table:
    table = Table(pad_edge=False)
    table.add_column("score", justify="right")
    table.add_column("transcript", no_wrap=True)
    table.add_column("position", justify="right")
    table.add_column("explanation", ratio=1)
    table.add_column("fidelity", justify="right")
    table.add_column("around", ratio=1)
    for each in found:
        fidelity = "" if each.fidelity is None else f"{each.fidelity:.2f}"
        cells = (f"{each.score:.2f}", each.name, str(each.position), each.explanation, fidelity)
        around = Text(" ".join(each.around.split()), style="dim")
        table.add_row(*(Text(cell) for cell in cells), around)
    return table


def themes(
    project: Path,
    /,
    *,
    embedder_name: Annotated[EmbedderName, Parameter(name="--embedder")] = "auto",
    min_size: int = 5,
    json: Annotated[bool, Parameter(negative=())] = False,
    only: FilterOptions = ALL,
) -> None:
    """Cluster what an NLA said into themes, each with its typical readings.

    Parameters
    ----------
    project
        A project that `nlakit scan` made.
    embedder_name
        minilm, wordllama, words, or the best that is installed.
    min_size
        Readings that a theme needs.
    json
        Print one JSON object.
    only
        Which readings count.
    """
    found = find_themes(Project.open(project), embedder(embedder_name), only.filters(), min_size)
    if json:
        rows = [
            {**each._asdict(), "typical": [row._asdict() for row in each.typical]}
            for each in found.themes
        ]
        told = {"embedder": found.embedder, "noise": found.noise, "themes": rows}
        write_json(told)
        return
    for each in found.themes:
        words = ", ".join(each.words)
        tell(f"{each.size} readings of {each.transcripts} transcripts: {words}")
        for row in each.typical:
            tell(f"    {row.name}:{row.position}  {row.explanation}")
    tell(f"{found.noise} readings belong to no theme (embedder: {found.embedder}).")
