"""Search by words and by meaning, and themes."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from support.audit import FakeEmbedder, project_of

from nlakit.audit.embed import Words, embedder
from nlakit.audit.index import Filters, quoted_terms
from nlakit.audit.meaning import Embedded, embedded, nearest
from nlakit.audit.search import search
from nlakit.audit.themes import clustered, themes
from nlakit.audit.words import content_words, said_share, terms
from nlakit.errors import InputError, MissingExtraError

TALES = {
    "a": (
        "one two three",
        ["A boat on the tide.", "It thinks this is an exam.", "Bread and flour."],
    ),
    "b": ("four five", ["A sailor at sea.", "The grader looks on."]),
}


@pytest.fixture
def project(tmp_path):
    return project_of(tmp_path / "p", TALES)


def found(project, query, **options):
    return [(hit.name, hit.position) for hit in search(project, query, **options)]


def test_words_are_found_with_what_stands_around_them(project):
    (hit,) = search(project, "exams")  # stemmed
    assert (hit.transcript, hit.position, hit.around) == ("a-id", 1, "one ⟦two⟧ three")
    assert hit.score > 0 and hit.link == "/#project=p&transcript=a-id&position=1"
    assert found(project, '"at sea"') == [("b", 0)]
    # None has both: any will do.
    assert sorted(found(project, "boat flour")) == [("a", 0), ("a", 2)]


def test_a_query_is_never_a_command(project):
    for query in ("NEAR(boat", "explanation:boat*", "boat AND", 'x" OR "'):
        search(project, query)
    assert quoted_terms('a-b "c d') == ['"a b"', '"c"', '"d"']
    for query in ("", "  ", "!!"):
        with pytest.raises(InputError):
            search(project, query)


def test_meaning_is_found_without_the_words(project):
    ranked = found(project, "being tested", meaning=FakeEmbedder(), limit=2)
    assert sorted(ranked) == [("a", 1), ("b", 1)]
    assert found(project, "being tested", limit=5) == []


def test_filters_narrow_both_searches(project):
    for filters, expected in (
        (Filters(transcript="b"), [("b", 1)]),
        (Filters(role="assistant", transcript="a"), [("a", 1)]),
        (Filters(section="thinking"), []),
        (Filters(min_fidelity=0.505, transcript="b-id"), [("b", 1)]),
    ):
        by_meaning = found(project, "exam", meaning=FakeEmbedder(), filters=filters, limit=1)
        assert by_meaning == expected
    assert found(project, "grader", filters=Filters(transcript="a")) == []
    with pytest.raises(InputError, match="no transcript 'z'"):
        search(project, "exam", filters=Filters(transcript="z"))
    with pytest.raises(InputError, match="have no confidence"):
        search(project, "exam", filters=Filters(min_confidence=0.5))


def test_embeddings_grow_with_the_readings(project):
    class Counting(FakeEmbedder):
        seen = 0

        def embed(self, texts):
            self.seen += len(texts)
            return super().embed(texts)

    fake = Counting()
    with project.index() as index:
        first = embedded(project, index, fake)
        rows = [{"id": "c-id", "name": "c", "source": "", "text": "x", "num_tokens": 1}]
        reading = {
            **{"transcript": "c-id", "position": 0, "sample": 0, "token": "x", "char_start": 0},
            **{"char_end": 1, "role": None, "section": None, "message_index": None},
            **{"explanation": "A rose.", "closed": True, "fidelity": None, "cosine": 1.0},
            **{"mse": 0.0, "confidence": None, "batch": 1, "row": 0},
        }
        index.add_batch(1, [{**rows[0], "metadata": "{}", "notes": "[]"}], [reading])
        second = embedded(project, index, fake)
    assert fake.seen == 6 and len(second.ids) == 6
    np.testing.assert_array_equal(second.rows_NE[:5], first.rows_NE)


def test_the_nearest_of_many_are_those_of_all():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(3000, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    many = Embedded(list(range(1, 3001)), rows)
    exact = nearest(many, rows[7], 5)
    assert (
        exact[0] == (8, pytest.approx(1.0)) and nearest(many, rows[7], 5, exact_rows=100) == exact
    )
    assert [n for n, _ in nearest(many, rows[7], 2, allowed=[3, 9])] in ([3, 9], [9, 3])


def test_themes_are_clusters_with_typical_readings(tmp_path):
    boats = [f"A boat {n} on the tide at sea." for n in range(8)]
    loaves = [f"The baker {n} and a loaf of bread." for n in range(8)]
    words = " ".join(f"w{n}" for n in range(8))
    project = project_of(tmp_path / "p", {"a": (words, boats), "b": (words, loaves)})
    found = themes(project, FakeEmbedder(), Filters(), min_size=4)
    assert [each.size for each in found.themes] == [8, 8] and found.noise == 0
    told = {each.typical[0].name: each.words for each in found.themes}
    assert "tide" in told["a"] and "bread" in told["b"]
    assert all(each.transcripts == 1 for each in found.themes)
    with pytest.raises(InputError, match="too few"):
        themes(project, FakeEmbedder(), Filters(transcript="a"), min_size=9)


def test_of_very_many_readings_a_sample_is_clustered(monkeypatch):
    monkeypatch.setattr("nlakit.audit.themes.LARGEST_FIT", 60)
    rng = np.random.default_rng(0)
    corners = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 300)]
    rows = corners + rng.normal(scale=0.02, size=(300, 3)).astype(np.float32)
    labels = clustered(rows / np.linalg.norm(rows, axis=1, keepdims=True), 5)
    assert (labels >= 0).mean() > 0.8
    for corner in range(3):
        inside = labels[(corners[:, corner] == 1) & (labels >= 0)]
        assert len(set(inside.tolist())) == 1


# -- embedders -------------------------------------------------------------------------------------
def test_the_embedder_of_words_knows_the_same_words():
    same, other, none = (
        Words().embed(["A boat on the tide", "the boat and a tide", "bread"])
        @ (Words().embed(["boat tide"])[0])
    )
    assert same > 0.5 and other > 0.3 and none == 0
    assert Words().embed([]).shape[0] == 0


def test_without_a_package_meaning_asks_for_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert embedder().name == "words"
    with pytest.raises(MissingExtraError, match=r"nlakit\[search\]"):
        embedder(by_meaning=True)
    with pytest.raises(MissingExtraError):
        embedder("wordllama")
    with pytest.raises(InputError, match="same words only"):
        embedder("words", by_meaning=True)


def test_weights_that_were_changed_are_refused(tmp_path, monkeypatch):
    from nlakit.audit import embed
    from nlakit.errors import CheckpointError

    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"other")
    monkeypatch.setattr(embed, "_package_directory", lambda *names: tmp_path)
    embed._minilm.cache_clear()
    with pytest.raises(CheckpointError, match="not the published weights"):
        embedder("minilm")
    assert isinstance(sys.modules["nlakit.audit.embed"], ModuleType)


def test_content_words_and_what_a_text_says_of_them():
    assert content_words("The boats, and THE boats of 1912") == {"boats"}
    assert said_share("A boat at sea", "the boat sank") == 0.5
    assert said_share("of the", "x") is None
    assert terms("A false count of calls") == {"false", "count", "calls", "false count"}
