"""What a teacher is. The interface belongs to `data.labels`, which calls it."""

from __future__ import annotations

from nlakit.data.labels import Place, Teacher, TeacherLabel

__all__ = ["Place", "Teacher", "TeacherLabel"]
