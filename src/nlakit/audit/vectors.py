"""The activations behind the readings of a project, which its batches keep."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nlakit.data.bulk import VectorSource

from .index import ReadingRow
from .project import Project


def vectors_of(project: Project, rows: Sequence[ReadingRow]) -> Float[Tensor, "N D"]:
    """The raw activation of each reading, float32."""
    made = torch.zeros(len(rows), project.card.d_model)
    wanted: defaultdict[int, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        wanted[row.batch].append(place)
    for number, places in wanted.items():
        source = VectorSource(project.batch(number) / "activations")
        batch_ND = source.read(range(source.num_rows))
        made[places] = batch_ND[[rows[place].row for place in places]]
    return made
