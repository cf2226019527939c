"""`nlakit mcp`: a project and a pair as tools for an auditing agent."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from nlakit.audit.embed import Embedder, EmbedderName, embedder
from nlakit.audit.mcp_server import Desk, build_server
from nlakit.audit.project import Project

from .devices import AUTOMATIC, DeviceOptions
from .pairs import BUNDLED, PairOptions


def mcp(
    project: Path | None = None,
    /,
    *,
    transport: Literal["stdio", "streamable-http"] = "stdio",
    embedder_name: Annotated[EmbedderName, Parameter(name="--embedder")] = "auto",
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
    devices
        Where models run.
    """

    @cache
    def meaning() -> Embedder:
        return embedder(embedder_name, by_meaning=True)

    opened = None if project is None else Project.open(project)
    wanted = opened is None or pair != BUNDLED
    loaded = pair.load(devices) if wanted else None
    build_server(Desk(opened, loaded, meaning)).run(transport)
