"""A project: a directory with what was read of many transcripts.

    project.json                  which pair read, and how; another is refused
    index.sqlite                  transcripts and readings, searchable (`index`)
    readings/batch-00000.parquet  the same readings as a table
    batches/batch-00000/          how a batch came about:
        plan.json                 its transcripts and positions
        transcripts.parquet       tokens and spans, so that it can be finished without its sources
        activations/              the raw vectors (`data.shards`)
        explanations/             what was written (`data.bulk`)

A batch is in the index once it is whole, in one transaction with its own mark; so a scan that was
killed loses nothing and reads nothing twice.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from nlakit.config import FrozenModel, write_text_atomic
from nlakit.data.shards import read_model
from nlakit.errors import InputError, ResumeError

from .index import Index

CARD_NAME = "project.json"
INDEX_NAME = "index.sqlite"


class ProjectCard(FrozenModel):
    """What every reading of a project has in common."""

    schema_version: Literal[1] = 1
    kind: Literal["nla_project"] = "nla_project"
    nla: str
    nla_sha256: str
    """Of the weights that write and score."""
    target_sha256: str
    """Of the weights that are read."""
    layer: int
    d_model: int
    baseline: Literal["training_mean", "none"]
    dtype: str
    samples: int
    temperature: float
    max_new_tokens: int
    seed: int
    confidence: bool = False
    """Whether claims were given their confidence while scanning."""


class Project:
    """An opened project."""

    def __init__(self, directory: Path, card: ProjectCard) -> None:
        self.directory, self.card = directory, card

    @classmethod
    def open(cls, directory: str | Path) -> Project:
        """A project that is there. Raises `InputError` where there is none."""
        path = Path(directory)
        if not (path / CARD_NAME).is_file():
            raise InputError(
                f"{path} is no project: it has no {CARD_NAME}. Make one: nlakit scan {path} FILES…"
            )
        return cls(path, read_model(ProjectCard, path / CARD_NAME))

    @classmethod
    def create(cls, directory: str | Path, card: ProjectCard) -> Project:
        """Open a project, or make it.

        Raises:
            ResumeError: it was read by another pair or in another way, or the directory holds
                something else.
        """
        path = Path(directory)
        if not (path / CARD_NAME).is_file():
            if path.is_dir() and any(path.iterdir()):
                raise ResumeError(
                    f"Asked to make the project {path}, which holds something else. Give a "
                    "directory that is new or empty."
                )
            path.mkdir(parents=True, exist_ok=True)
            write_text_atomic(path / CARD_NAME, card.model_dump_json(indent=2))
        found = cls.open(path)
        found._check(card)
        return found

    def _check(self, card: ProjectCard) -> None:
        names = [n for n in ProjectCard.model_fields if getattr(self.card, n) != getattr(card, n)]
        if names:
            told = [f"{n} was {getattr(self.card, n)!r}, is {getattr(card, n)!r}" for n in names]
            raise ResumeError(
                f"{self.directory} was read in another way: {'; '.join(told)}. Give another "
                "directory, or the same settings."
            )

    @property
    def name(self) -> str:
        return self.directory.resolve().name

    def index(self) -> Index:
        """A connection to the index; close it, or use it in a `with`."""
        return Index(self.directory / INDEX_NAME)

    def batch(self, number: int) -> Path:
        return self.directory / "batches" / f"batch-{number:05d}"

    def readings(self, number: int) -> Path:
        return self.directory / "readings" / f"batch-{number:05d}.parquet"
