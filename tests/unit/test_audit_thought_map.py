"""The map of a transcript whose thoughts turn, on a project put together by hand."""

from __future__ import annotations

import builtins
import json

import pytest
import torch
from support.audit import FakeEmbedder, project_of

from nlakit.audit import thought_map as module
from nlakit.audit.thought_map import thought_map
from nlakit.errors import InputError

TEXT = " ".join(f"word{n}" for n in range(23)) + " bread"
TURNS = ["A boat at sea."] * 12 + ["Bread and flour of a baker."] * 12


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Two transcripts; the activations of the first turn where its thoughts do."""
    made = project_of(tmp_path / "p", {"turns": (TEXT, TURNS), "calm": (TEXT, TURNS[:12])})
    rows = torch.eye(4)[[0 if n < 12 else 1 for n in range(24)]]
    monkeypatch.setattr(module, "vectors_of", lambda project, found: rows[: len(found)])
    return made


def test_drift_starts_at_nothing_and_shows_the_turn(project):
    found = thought_map(project, "turns", FakeEmbedder(), themes=["sea", "baker"])
    drifts = [each.drift for each in found.points]
    assert max(drifts[:12]) < 1e-5 and min(drifts[12:]) > 0.9
    assert [round(each.activation_drift) for each in found.points] == [0] * 12 + [1] * 12
    assert found.pivots == (12,) and [p.position for p in found.points if p.pivot] == [12]
    sea, bread = zip(*(each.themes for each in found.points), strict=True)
    assert sea[0] > 0.9 > 0.2 > sea[-1] and bread[0] < 0.2 < 0.9 < bread[-1]
    assert json.loads(json.dumps(found.to_json()))["points"][12]["pivot"] is True


def test_what_the_text_says_already_is_told_apart(project):
    points = thought_map(project, "turns", FakeEmbedder()).points
    assert points[0].said == 0 and points[22].said == 0
    assert points[23].said == pytest.approx(1 / 3)  # of bread, flour, baker the text has one


def test_readings_that_no_other_transcript_has_are_odd(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "vectors_of", lambda project, found: torch.ones(len(found), 4))
    told = [*TURNS[:23], "A rose in the garden."]
    project = project_of(tmp_path / "q", {"turns": (TEXT, told), "calm": (TEXT, TURNS)})
    points = thought_map(project, "turns", FakeEmbedder()).points
    assert [each.position for each in points if each.odd] == [23]
    assert "far from" in points[23].odd[0] and points[0].nearest == pytest.approx(0, abs=1e-6)


def test_two_transcripts_head_to_head(project):
    found = thought_map(project, "turns", FakeEmbedder(), against="calm")
    assert found.against is not None
    assert min(found.against[:12]) > 0.9 and max(found.against[12:]) < 0.2


def test_too_few_readings_and_unknown_names_are_refused(project):
    with pytest.raises(InputError, match="too few readings"):
        thought_map(project, "turns", FakeEmbedder(), section="thinking")
    with pytest.raises(InputError, match="no transcript 'x'"):
        thought_map(project, "x", FakeEmbedder())


def test_without_the_extra_turning_points_are_left_out_and_told(project, monkeypatch):
    real = builtins.__import__

    def without(name, *arguments, **options):
        if name == "ruptures":
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    found = thought_map(project, "turns", FakeEmbedder())
    assert found.pivots == () and "nlakit[search]" in found.notes[-1]
