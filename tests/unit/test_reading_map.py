"""Two NLAs' readings whose neighbours are known; the places come from a stand-in for UMAP."""

from __future__ import annotations

import sys
import types
from types import SimpleNamespace

import numpy as np
import pytest

from nlakit.audit.reading_map import map_readings
from nlakit.cli.serve import served_readings
from nlakit.errors import InputError
from nlakit.sae.dual_map import DualMap, plot, read_dual_map

WORDS = ("boat", "pier", "sum", "rhyme")


class BagOfWords:
    """Each of four words is a direction."""

    name, by_meaning = "bag", False

    def embed(self, texts):
        rows = np.array([[float(w in text.split()) for w in WORDS] for text in texts], np.float32)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


class StandIn:
    """Keeps the first two components."""

    def __init__(self, **settings):
        pass

    def fit_transform(self, rows):
        return rows[:, :2]


@pytest.fixture
def umap(monkeypatch):
    module = types.ModuleType("umap")
    module.UMAP = StandIn
    monkeypatch.setitem(sys.modules, "umap", module)


def said(name, *texts):
    """What one NLA says of three tokens of as many documents."""
    return SimpleNamespace(
        pair=SimpleNamespace(name=name),
        reading=SimpleNamespace(texts=list(texts)),
        doc_ids=["a", "b", "c"],
        prefixes=["the old boat", "x" * 200, "two and two"],
        other_documents=lambda: [1, 2, 0],
    )


@pytest.fixture
def found(umap) -> DualMap:
    first = said("one", "a boat", "a pier", "a sum")
    return map_readings(first, said("one", "a boat", "a boat pier", "a <rhyme>"), BagOfWords(), 1)


def test_readings_of_one_token_are_held_side_by_side(found):
    same = found.same_token
    assert (found.of, found.names) == ("readings", ("one", "one (other)"))
    assert same is not None and same.identical == pytest.approx(1 / 3)
    assert same.cosine == pytest.approx((1 + 0.5**0.5 + 0) / 3)
    assert same.interval.low <= same.cosine <= same.interval.high
    # a boat : a boat pier; a pier : a rhyme; a sum : a boat
    assert same.other_document == pytest.approx(0.5**0.5 / 3)
    points = {(p.dictionary, p.latent): p for p in found.points}
    assert points[0, 1].text == "a pier" and points[1, 1].text == "a boat pier"
    assert (points[0, 1].nearest, round(points[0, 1].cosine, 3)) == (1, 0.707)
    assert points[0, 0].same == pytest.approx(1) and points[0, 2].same == pytest.approx(0)
    assert points[0, 1].around == "x" * 80


def test_the_map_survives_its_file_and_is_served(found, tmp_path):
    path = tmp_path / "map.json"
    path.write_text(found.model_dump_json(), encoding="utf-8")
    assert served_readings(path) == read_dual_map(path) == found
    assert "readings of one and one (other)" in plot(found)


def test_a_map_of_dictionaries_is_no_map_of_readings(found, tmp_path):
    path = tmp_path / "map.json"
    latents = found.model_copy(update={"of": "latents"})
    path.write_text(latents.model_dump_json(), encoding="utf-8")
    with pytest.raises(InputError, match="give it as --latent-map"):
        served_readings(path)
