"""Projects put together by hand, and an embedder that knows a few meanings."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nlakit.audit.project import Project, ProjectCard
from nlakit.errors import InputError

CARD = ProjectCard(
    nla="made up",
    nla_sha256="0",
    target_sha256="0",
    layer=1,
    d_model=4,
    baseline="training_mean",
    dtype="float32",
    samples=1,
    temperature=0.0,
    max_new_tokens=20,
    seed=0,
)
MEANINGS = (
    {"test", "tested", "testing", "exam", "evaluation", "drill", "grader"},
    {"boat", "boats", "sea", "harbour", "tide", "sailor"},
    {"bread", "oven", "baker", "flour", "loaf"},
    {"garden", "rose", "soil", "seed"},
)


class FakeEmbedder:
    """A dimension a meaning, and one for all other words."""

    name = "fake"
    by_meaning = True

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        rows = np.zeros((len(texts), len(MEANINGS) + 1), np.float32)
        for row, text in enumerate(texts):
            words = text.lower().replace(".", " ").replace(",", " ").split()
            for column, meaning in enumerate(MEANINGS):
                rows[row, column] = sum(word in meaning for word in words)
            rows[row, -1] = 0.1
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def project_of(
    directory: Path, transcripts: dict[str, tuple[str, Sequence[str]]], **changes: object
) -> Project:
    """A project of transcripts: name to (text, explanation of each of its words)."""
    project = Project.create(directory, CARD.model_copy(update=changes))
    rows, readings, number = [], [], 0
    for name, (text, explanations) in transcripts.items():
        starts = [match.start() for match in re.finditer(r"\S+", text)]
        if len(starts) < len(explanations):
            raise InputError(f"{name} has {len(starts)} words, {len(explanations)} explanations.")
        rows.append(
            {
                **{"id": f"{name}-id", "name": name, "source": "here", "text": text},
                **{"num_tokens": len(starts), "metadata": json.dumps({"n": name}), "notes": "[]"},
            }
        )
        for position, explanation in enumerate(explanations):
            start = starts[position]
            end = start + len(text[start:].split()[0])
            readings.append(
                {
                    **{"transcript": f"{name}-id", "position": position, "sample": 0},
                    **{"token": text[start:end], "char_start": start, "char_end": end},
                    **{"role": "assistant" if position % 2 else "user", "section": "content"},
                    **{"message_index": position % 2, "explanation": explanation, "closed": True},
                    **{"fidelity": 0.5 + position / 100, "cosine": 0.9, "mse": 0.1},
                    **{"confidence": None, "batch": 0, "row": number},
                }
            )
            number += 1
    with project.index() as index:
        index.add_batch(0, rows, readings)
    return project
