"""Two projects side by side: what differs is found, and what does not is not."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support.audit import FakeEmbedder, project_of
from support.serving import tiny_nla

from nlakit.audit.compare import _direction, compare, log_odds, permutation_p
from nlakit.audit.positions import Selection
from nlakit.audit.scan import Scanner
from nlakit.errors import InputError

from .test_audit_scan import CHATS, SAMPLING, project_at

WORDS = "the boat went out with the tide at noon today"


def two(tmp_path, changed: int, transcripts: int = 12):
    """B says `drill` in some transcripts where A says `bread`."""
    same = {f"t{n}": (WORDS, ["A boat, then bread."] * 5) for n in range(transcripts)}
    other = {
        name: (text, ["A boat, then a drill."] * 5 if n < changed else said)
        for n, (name, (text, said)) in enumerate(same.items())
    }
    return project_of(tmp_path / "a", same), project_of(tmp_path / "b", other)


def test_a_theme_of_one_side_is_found_with_its_rates(tmp_path):
    found = compare(*two(tmp_path, changed=12), FakeEmbedder())
    by_term = {each.term: each for each in found.themes}
    drill, boat = by_term["drill"], by_term["boat"]
    assert (drill.rate_a, drill.rate_b) == (0, 1) and drill.q < 0.01 and drill.log_odds > 3
    assert by_term["bread"].q < 0.01 and by_term["bread"].log_odds < -3
    assert boat.rate_a == boat.rate_b == 1 and boat.p == 1
    assert (found.transcripts, found.positions) == (12, 60)


def test_many_positions_of_one_transcript_are_one_transcript(tmp_path):
    """Five positions that differ, all of one transcript, prove nothing."""
    found = compare(*two(tmp_path, changed=2), FakeEmbedder())
    assert all(each.q > 0.05 for each in found.themes)


def test_the_same_twice_has_no_difference(tmp_path):
    found = compare(*two(tmp_path, changed=0), FakeEmbedder())
    assert found.partings == () and {each.p for each in found.themes} == {1.0}


def test_positions_are_ranked_by_how_far_their_readings_part(tmp_path):
    found = compare(*two(tmp_path, changed=3), FakeEmbedder(), limit=4)
    assert len(found.partings) == 4
    first = found.partings[0]
    assert (first.a, first.b) == ("A boat, then bread.", "A boat, then a drill.")
    assert first.distance > 0.3 and json.loads(json.dumps(found.to_json()))["partings"]


def test_a_permutation_test_keeps_its_level():
    rng = np.random.default_rng(0)
    p = permutation_p(rng.normal(size=(15, 400)), count=999)
    assert 0.02 < (p < 0.05).mean() < 0.09
    assert log_odds(np.array([5.0, 5.0]), np.array([5.0, 5.0])).tolist() == [0.0, 0.0]


def test_projects_of_other_transcripts_cannot_be_compared(tmp_path):
    first = project_of(tmp_path / "a", {"x": (WORDS, ["A boat."])})
    second = project_of(tmp_path / "b", {"y": (WORDS, ["A boat."])})
    with pytest.raises(InputError, match="no position of a transcript in common"):
        compare(first, second, FakeEmbedder())


def test_the_mean_difference_stands_beside_random_directions(tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(json.dumps({"messages": chat}) for chat in CHATS))
    pair, projects = tiny_nla(), []
    for name in "ab":
        project = project_at(tmp_path / name, pair)
        Scanner(project, pair, SAMPLING).scan([str(path)], Selection(every=4))
        projects.append(project)
    assert compare(*projects, FakeEmbedder(), reader=pair).direction is None
    rows = [index.readings() for index in (project.index() for project in projects)]
    shifted = list(zip(rows[0], rows[1][1:] + rows[1][:1], strict=True))[:5]
    found = _direction(*projects, shifted, pair, seed=0)
    assert found is not None and 0 <= found.share_below <= 1 and len(found.random) == 5
    assert found.random_max >= found.random_mean
