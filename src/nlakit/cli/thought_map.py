"""`nlakit thought-map`: how the thoughts of one transcript move."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from nlakit.audit.embed import EmbedderName, embedder
from nlakit.audit.project import Project
from nlakit.audit.thought_map import ThoughtMap
from nlakit.audit.thought_map import thought_map as draw
from nlakit.console import tell

from .results import write_json


def thought_map(
    project: Path,
    transcript: str,
    /,
    *,
    theme: tuple[str, ...] = (),
    against: str | None = None,
    section: str | None = None,
    embedder_name: Annotated[EmbedderName, Parameter(name="--embedder")] = "auto",
    json: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Drift, turning points and odd readings of one transcript, position by position.

    Parameters
    ----------
    project
        A project that `nlakit scan` made.
    transcript
        Id or name of the transcript.
    theme
        A sentence whose nearness is followed; give it twice to hold two head to head.
    against
        Another transcript, followed beside it.
    section
        Only readings of this section, such as thinking.
    embedder_name
        minilm, wordllama, words, or the best that is installed.
    json
        Print one JSON object.
    """
    by = embedder(embedder_name)
    found = draw(Project.open(project), transcript, by, theme, against, section)
    if json:
        write_json(found.to_json())
    else:
        tell(_told(found))


def _told(found: ThoughtMap) -> str:
    lines = [f"{found.name}: {len(found.points)} readings (embedder: {found.embedder})"]
    for each in found.points:
        mark = "┤" if each.pivot else "│"
        bar = "█" * round(20 * min(1.0, max(0.0, each.drift)))
        odd = f"  [{'; '.join(each.odd)}]" if each.odd else ""
        lines.append(f"{each.position:6d} {mark}{bar:<20} {each.explanation}{odd}")
    return "\n".join([*lines, *found.notes])
