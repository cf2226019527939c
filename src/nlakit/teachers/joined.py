"""Several teachers of one label: what each writes, one paragraph behind the other."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from nlakit.data.labels import ask

from .base import Place, Teacher, TeacherLabel


class JoinedTeacher:
    """The labels of several teachers in their order, as one.

    A teacher that has none for a position leaves the others' standing; a position of which nobody
    has any is refused for the first one's reason.
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        self.teachers = tuple(teachers)
        self.name = " + ".join(each.name for each in self.teachers)

    def key(self, place: Place) -> str:
        """A hash of all that decides the label."""
        keys = [f"{each.name}/{each.key(place)}" for each in self.teachers]
        return hashlib.sha256("\n".join(keys).encode()).hexdigest()

    def label(self, place: Place) -> TeacherLabel:
        """The label of a position."""
        return self.label_many([place])[0]

    def label_many(self, places: Sequence[Place]) -> list[TeacherLabel]:
        """The labels of the positions, in their order. Raises as the teachers do."""
        found = [ask(each, places) for each in self.teachers]
        return [_joined(labels) for labels in zip(*found, strict=True)]


def _joined(labels: Sequence[TeacherLabel]) -> TeacherLabel:
    told = [label for label in labels if label.explanation is not None]
    if not told:
        return labels[0]
    claims = dict.fromkeys(claim for label in told for claim in label.claims)
    return TeacherLabel("\n\n".join(str(each.explanation) for each in told), tuple(claims))
