"""Token ids and spans of a project's transcripts, which its batches keep, and what follows them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.parquet as pq

from nlakit.models.patch import continuations
from nlakit.models.target import Target

from .project import Project
from .scan import TRANSCRIPTS_NAME

TOGETHER = 16


def token_table(project: Project, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Ids, offsets and sections of transcripts, by their ids; the batch that came first wins."""
    found: dict[str, dict[str, Any]] = {}
    wanted = set(names)
    with project.index() as index:
        numbers = list(index.batches())
    for number in numbers:
        missing = sorted(wanted - found.keys())
        path = project.batch(number) / TRANSCRIPTS_NAME
        table = pq.read_table(path, filters=[("id", "in", missing)]) if missing else None
        found |= {row["id"]: row for row in table.to_pylist()} if table is not None else {}
    return found


def continued(
    project: Project, target: Target, max_new_tokens: int
) -> Callable[[Sequence[str]], dict[str, str]]:
    """The target's greedy continuations of transcripts; one at the context's end has none."""

    def write(names: Sequence[str]) -> dict[str, str]:
        table = token_table(project, names)
        room = target.max_tokens - max_new_tokens
        ids = {name: row["ids"] for name, row in table.items() if 0 < len(row["ids"]) <= room}
        order = sorted(ids, key=lambda name: len(ids[name]))
        written: dict[str, str] = {}
        for start in range(0, len(order), TOGETHER):
            some = order[start : start + TOGETHER]
            rows = continuations(
                target, [ids[name] for name in some], max_new_tokens=max_new_tokens
            )
            for name, row in zip(some, rows, strict=True):
                written[name] = str(target.tokenizer.decode(row, skip_special_tokens=True))
        return written

    return write
