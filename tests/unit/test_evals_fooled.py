"""Evaluations of verbalizers that cheat: each must say so.

One repeats a fixed sentence; one copies the text; one writes a cipher that only its own
reconstructor understands.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.pairs import make_pair
from tests.support.serving import tiny_nla
from torch import Tensor

from nlakit.engines.base import Completion
from nlakit.engines.fake import FakeEngine
from nlakit.engines.local import LocalEngine
from nlakit.errors import InputError
from nlakit.evals.baselines import INVERTED, NEAREST, baselines, missed_claims
from nlakit.evals.cause import cause, nearest_rows, pca_code
from nlakit.evals.compare import DIFFERENCE, compare
from nlakit.evals.confidence import fit_confidence, measure
from nlakit.evals.inversion import Search
from nlakit.evals.private_code import (
    BY_TEACHER,
    asked,
    copied,
    private_code,
    sentences,
    shuffled,
    unquoted,
)
from nlakit.evals.report import read_section, render_sections, sections_in, write_section
from nlakit.evals.round_trips import claims_kept, round_trips
from nlakit.evals.rows import ReadSample, read_sample, read_vectors
from nlakit.evals.section import explained, ratio_figure, share
from nlakit.evals.select import select
from nlakit.pair.pair import Pair
from nlakit.storyworld.claims import parse
from nlakit.storyworld.document import State
from nlakit.storyworld.grammar import document
from nlakit.teachers.fake import FakeTeacher
from nlakit.worlds.storyworld.claims import STORYWORLD
from nlakit.worlds.storyworld.eval_set import StoryworldSet
from nlakit.worlds.storyworld.planned import due_places, planned
from nlakit.worlds.storyworld.readers import keyword_reading
from nlakit.worlds.storyworld.report import evaluate
from nlakit.worlds.storyworld.steering import line_end, steering

FIXED = 'A calm story about the sea. The rhyme will be "night". It ends on "x", then a noun.'
D_MODEL = 16


class CipherEngine(FakeEngine):
    """Writes a vector's numbers as letters, two sentences of them; reads only what it wrote."""

    def __init__(self) -> None:
        super().__init__(["unused"], D_MODEL)

    def verbalize(self, vectors_ND, sampling, on_text=None):
        return [[self._cipher(vector_D)] for vector_D in vectors_ND]

    def reconstruct(self, explanations):
        return torch.stack([self._plain(text) for text in explanations])

    def _cipher(self, vector_D: Tensor) -> Completion:
        levels = ((vector_D / vector_D.abs().max().clamp_min(1e-6) + 1) * 12).round().int().tolist()
        words = "".join(chr(ord("a") + level) for level in levels)
        text = f"Q{words[:8]}. Z{words[8:]}."
        return Completion(text, text, tuple(text.encode()), (0.0,) * len(text), True)

    def _plain(self, text: str) -> Tensor:
        if len(text) != 21 or text[0] != "Q":
            return torch.ones(D_MODEL)
        letters = text[1:9] + text[12:20]
        return torch.tensor([(ord(letter) - ord("a")) / 12 - 1 for letter in letters])


def fixed_direction(text: str) -> Tensor:
    """A reconstructor that hears only how long a text is."""
    return torch.randn(D_MODEL, generator=torch.Generator().manual_seed(len(text)))


@pytest.fixture(scope="module")
def places(tiny_target):
    return StoryworldSet().sample(tiny_target, "heldout", 3, 24)


@pytest.fixture(scope="module")
def mean_D(places):
    unit_ND = places.vectors_ND / places.vectors_ND.norm(dim=-1, keepdim=True)
    return 4 * unit_ND.mean(0)


@pytest.fixture(scope="module")
def fixed(tiny_target, places, mean_D) -> ReadSample:
    pair = make_pair("fixed", tiny_target, FakeEngine([FIXED], D_MODEL, fixed_direction), mean_D)
    return read_vectors(pair, StoryworldSet(), places, 3)


@pytest.fixture(scope="module")
def copying(tiny_target, places, mean_D) -> ReadSample:
    texts = [text[-160:] for text in places.rows.column("text").to_pylist()]
    engine = FakeEngine(texts, D_MODEL, fixed_direction)
    pair = make_pair("copying", tiny_target, engine, mean_D)
    return read_vectors(pair, StoryworldSet(), places, 3)


@pytest.fixture(scope="module")
def cipher(tiny_target, places, mean_D) -> ReadSample:
    def labels_only(texts: list[str]) -> Tensor:
        return torch.stack([fixed_direction(text) for text in texts])

    pair = make_pair("cipher", tiny_target, CipherEngine(), mean_D, control_ar=labels_only)
    return read_vectors(pair, StoryworldSet(), places, 3)


class NoisyCipher(CipherEngine):
    """Drawn again it writes the vector less exactly: the more is drawn, the better the best."""

    def verbalize(self, vectors_ND, sampling, on_text=None, first=0):
        generator = torch.Generator().manual_seed(sampling.seed)
        noise = torch.randn(sampling.samples, *vectors_ND.shape, generator=generator)
        drawn_SND = vectors_ND + 0.8 * vectors_ND.std() * noise
        return [
            [self._cipher(drawn_SND[sample, row]) for sample in range(sampling.samples)]
            for row in range(len(vectors_ND))
        ]


def copying_reader(pair, eval_set, rows, seed, temperature=0.0) -> ReadSample:
    """Takes the place of `read_vectors`: whoever verbalizes has seen the text."""
    texts = [text[-160:] for text in rows.rows.column("text").to_pylist()]
    engine = FakeEngine(texts, D_MODEL, fixed_direction)
    return read_vectors(replace(pair, engine=engine), eval_set, rows, seed, temperature)


def said(section, *words: str) -> bool:
    return any(all(word in each for word in words) for each in section.suspicions)


# -- private code ----------------------------------------------------------------------------------
def test_cipher_scores_well_and_is_found_out(cipher):
    section = private_code(cipher)
    assert section.figure("as written", "FVE").value > 0.9
    assert section.figure("sentences shuffled", "kept").value < 0.3
    assert said(section, "Private code", "sentences shuffled")
    assert said(section, "Private code", "labels only")
    assert said(section, "nothing that can be checked")


def test_fixed_sentence_is_content_blind(fixed):
    section = private_code(fixed)
    assert said(section, "Content-blind")
    own, other = (
        section.figure(name, "FVE").value
        for name in ("as written", "another document's explanation")
    )
    assert own == pytest.approx(other)


def test_copied_text_is_found_out(copying, fixed):
    assert said(private_code(copying), "Copies the text")
    assert not said(private_code(fixed), "Copies the text")


def test_teacher_s_versions_are_read_and_refused_ones_stay(cipher):
    def french(text: str) -> str | None:
        return None if text == refused else f"Un récit: {text}"

    refused = cipher.reading.texts[0]
    teacher = FakeTeacher(french)
    extra = {name: asked(teacher, cipher.reading.texts) for name in ("in French", BY_TEACHER)}
    section = private_code(cipher, extra)
    # The reconstructor knows no word of it, so what is kept is that of a text it cannot read.
    assert section.figure("in French", "kept").value < 0.1
    share_changed = section.figure("in French", "changed").value
    assert share_changed == pytest.approx(1 - 1 / len(cipher.reading.texts))
    assert said(section, "Private code", BY_TEACHER)
    assert not said(section, "in French")
    assert len(teacher.asked) == 2 * len(set(cipher.reading.texts))


def test_changes_leave_what_they_should():
    text = 'A calm story. It ends on "wet. sand", then a noun. End.'
    assert sentences(text) == ["A calm story.", 'It ends on "wet. sand", then a noun.', "End."]
    assert sorted(sentences(shuffled(text, 1))) == sorted(sentences(text))
    assert shuffled(text, 1) != text
    assert shuffled("One only.", 1) == "One only."
    assert unquoted(text, 0) == "A calm story. It ends on, then a noun. End."
    assert copied(["the cat sat on mats", "a"], ["and the cat sat on", "a"]) == [0.5, 0.0]


# -- cause -----------------------------------------------------------------------------------------
def test_cause_of_a_fixed_sentence_is_none(fixed):
    section = cause(fixed, bank_documents=20)
    assert said(section, "No cause")
    assert section.figure("mean", "KL recovered").value == pytest.approx(0, abs=1e-5)
    assert section.figure("zero", "KL recovered").value != pytest.approx(0, abs=1e-3)


def test_cause_of_what_the_cipher_rebuilds_is_the_activation_s(cipher):
    section = cause(cipher, bank_documents=20)
    assert section.figure("explanation", "KL recovered").value > 0.8
    low, high = section.figure("explanation", "KL recovered").interval
    assert low < section.figure("explanation", "KL recovered").value < high
    assert not said(section, "No cause")


def test_pca_of_all_numbers_loses_nothing_and_fewer_lose_more():
    bank = torch.randn(30, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pca_code(bank, bank, 6), bank, atol=1e-4, rtol=1e-4)
    losses = [(pca_code(bank, bank, num) - bank).square().sum().item() for num in (1, 3, 5)]
    assert losses == sorted(losses, reverse=True)
    assert nearest_rows(bank, 7 * bank[[4, 2]]) == [4, 2]


def test_prompts_end_at_their_places(cipher):
    ids, following = cipher.sample.prompts, cipher.sample.following_N
    rows = cipher.sample.rows
    assert [row[-1] for row in ids] == rows.column("token_id").to_pylist()
    assert len(following) == len(ids)


# -- baselines -------------------------------------------------------------------------------------
QUICK = Search(window=2, candidates=8, sweeps=1)


def test_fixed_sentence_adds_nothing(fixed):
    inverted = []
    section = baselines(fixed, 20, QUICK, lambda *told: inverted.append(told))
    assert said(section, "Says the same of all")
    assert section.figure("teacher, sees the text", "precision").value == 1.0
    assert section.figure("teacher, sees the text", "recall").value > 0.7
    assert section.figure("keywords of the text", "precision").value > 0.8
    nearest, found = (section.figure(name, "match") for name in (NEAREST, INVERTED))
    assert nearest.value < found.value < 1
    assert found.interval[0] < found.value < found.interval[1]
    assert inverted[-1] == (24, 24)


def test_copied_text_adds_nothing_to_who_reads_it(copying):
    section = baselines(copying, 20, QUICK)
    own = section.figure("explanation", "recall").value
    assert own < section.figure("keywords of the text", "recall").value
    # What a copy says truly, whoever sees the text says too.
    assert section.figure("teacher, sees the text", "explanation adds").value < 0.5


def test_keywords_give_the_facts_of_a_text():
    made = document(7, 2)
    state = made.state(len(made.text))
    found = {each.kind: each.value for each in parse(keyword_reading(made.text))}
    assert {kind: found.get(kind) for kind in ("topic", "mood")} == {
        kind: state.facts[kind] for kind in ("topic", "mood")
    }


def test_only_true_claims_can_be_missed():
    world = State({"mood": "calm", "topic": "sea"}, frozenset(), (), None, ())
    told = "A calm text about the sea, told by a kid."
    assert missed_claims(told, "A calm one.", world, STORYWORLD) == [False, True]


# -- round trips -----------------------------------------------------------------------------------
def test_fixed_sentence_survives_and_says_the_same_of_all(fixed):
    section = round_trips(fixed, trips=2)
    assert section.figure("after 2", "claims kept").value == 1.0
    assert said(section, "Says the same of all")


def test_cipher_survives_word_for_word_and_claims_nothing(cipher):
    section = round_trips(cipher, trips=2)
    assert section.figure("after 2", "cosine").value > 0.99
    assert said(section, "Nothing to keep")


def test_claims_kept_counts_the_first_one_s():
    told = ("A calm text about the sea.", "An angry text about the sea.")
    assert claims_kept(*told, STORYWORLD) == 0.5
    assert claims_kept("A text.", "A calm text.", STORYWORLD) is None


# -- planned ---------------------------------------------------------------------------------------
def test_fixed_rhyme_is_a_guess(fixed):
    section = planned(fixed.pair, 3, 5)
    assert said(section, "Guesses the rhyme")
    assert section.figure("rhyme", "named").value == section.figure("rhyme", "another's").value
    assert section.figure("rhyme", "precision").count == section.figure("rhyme", "named").count


def test_due_places_lie_between_plan_and_word(tiny_target):
    from nlakit.worlds.storyworld.steering import couplet_documents, couplet_place

    pair = make_pair("x", tiny_target, FakeEngine(["x"], D_MODEL), torch.ones(D_MODEL))
    ((encoded, facts), *_) = couplet_documents(pair, 5, "heldout", 1)
    fact = facts[0]
    due = due_places(encoded, "rhyme")
    places = [each for each in due if encoded.offsets[each.position][1] < fact.end]
    text = encoded.document.text
    first = places[0]
    assert [each.ahead for each in places] == sorted((p.ahead for p in places), reverse=True)
    assert places[-1].ahead == 1
    assert encoded.offsets[first.position][1] >= fact.start
    ends = [encoded.offsets[couplet_place(encoded, fact, name)][1] for name in ("line end", "x")]
    assert text[ends[0] - 1] == "\n"
    assert text[ends[1]] == " "


def test_copied_text_and_cipher_name_nothing_that_is_due(fixed, cipher, monkeypatch):
    assert said(planned(cipher.pair, 2, 5), "Names nothing", "at none of")
    assert not said(planned(fixed.pair, 2, 5), "Names nothing")
    monkeypatch.setattr("nlakit.worlds.storyworld.planned.read_vectors", copying_reader)
    section = planned(fixed.pair, 2, 5)
    assert said(section, "Names nothing")
    assert section.figure("rhyme", "named").value == 0.0


# -- steering --------------------------------------------------------------------------------------
def test_steering_by_a_reconstructor_that_does_not_read_is_found_out(tiny_target, mean_D):
    deaf = FakeEngine([FIXED], D_MODEL, lambda text: torch.ones(D_MODEL))
    section = steering(make_pair("deaf", tiny_target, deaf, mean_D), 3, 5, (1.0,), (), 20)
    assert section.figure("line end: names a rhyme", "share").value == 1.0
    assert section.figure("line end: edit, alpha 1", "shift").value == pytest.approx(0, abs=1e-6)
    assert section.figure("line end: edit, alpha 1", "KL").value == pytest.approx(0, abs=1e-5)
    assert said(section, "makes next to nothing")
    assert said(section, "in at most 0%")


def test_steering_without_a_rhyme_to_edit_is_found_out(cipher):
    assert said(steering(cipher.pair, 2, 5, (1.0,), (), 20), "No explanation names a rhyme")


def test_copied_text_names_no_rhyme_that_could_be_edited(fixed, monkeypatch):
    monkeypatch.setattr("nlakit.worlds.storyworld.steering.read_vectors", copying_reader)
    section = steering(fixed.pair, 3, 5, (1.0,), (), 20)
    assert section.figure("line end: names a rhyme", "share").value == 0.0
    assert said(section, "No explanation names a rhyme")


def test_last_word_of_the_line():
    assert line_end(" bowed before the crowned king.\nMira sang.") == "king"
    assert line_end("\nInes turned,\n") == "turned"
    assert line_end("") == ""


# -- confidence ------------------------------------------------------------------------------------
def test_engine_without_probabilities_has_no_confidences(fixed):
    with pytest.raises(InputError, match="no probabilities"):
        measure(fixed)
    with pytest.raises(InputError, match="no probabilities"):
        fit_confidence(fixed.pair, StoryworldSet(), 2, 5)


class Writing(LocalEngine):
    """Writes what it is told to of a vector, with the probabilities of its own verbalizer."""

    def __init__(self, text_of) -> None:
        nla = tiny_nla()
        super().__init__(nla.target, nla.engine.verbalizer, nla.engine.reconstructor)
        self.text_of = text_of

    @torch.no_grad()
    def verbalize(self, vectors_ND, sampling, on_text=None, first=0):
        return [[self._written(each)] * sampling.samples for each in vectors_ND]

    def _written(self, vector_D: Tensor) -> Completion:
        text = self.text_of(vector_D)
        ids = self.verbalizer.encode_response(text)
        logprobs, _ = self.verbalizer.logprobs(vector_D[None], [ids])
        raw = self.verbalizer.decode(ids)
        return Completion(text, raw, tuple(ids), tuple(logprobs[0].tolist()), True)


def confidence_of(text_of, documents=40):
    engine = Writing(text_of)
    mean_D = torch.full((engine.target.d_model,), 0.1)
    pair = make_pair("writing", engine.target, engine, mean_D)
    return measure(read_sample(pair, StoryworldSet(), documents, 3))


def test_confidences_of_a_fixed_sentence_tell_nothing():
    """It is as sure of what is false there as of what is true."""
    section = confidence_of(lambda vector_D: "A calm text.")
    assert section.figure("confidence", "ECE").count == 40
    assert section.figure("confidence", "AUROC").value < 0.6
    assert said(section, "Confidence tells nothing")


def test_a_cipher_has_no_confidence():
    code = CipherEngine()
    section = confidence_of(lambda vector_D: code._cipher(vector_D.repeat(2)).text, 8)
    assert said(section, "No confidence")


# -- best of N -------------------------------------------------------------------------------------
BEST = "best of 8 by fidelity"


def test_the_best_of_several_ciphers_is_a_private_gain(cipher):
    pair = replace(cipher.pair, engine=NoisyCipher())
    section = select(pair, StoryworldSet(), 12, 3, counts=(1, 8))
    one, best = (section.figure(name, "FVE").value for name in ("one drawn", BEST))
    assert best > one + 0.05
    assert section.figure(BEST, "precision").value is None
    assert said(section, "Private gain")


def test_copied_text_leaves_nothing_to_choose(fixed, places):
    """Whatever is drawn, it is the text."""
    texts = [text[-160:] for text in places.rows.column("text").to_pylist()]
    twice = [text for text in texts for _ in range(2)]
    pair = replace(fixed.pair, engine=FakeEngine(twice, D_MODEL, fixed_direction))
    assert said(select(pair, StoryworldSet(), 24, 3, counts=(2,)), "Nothing to choose")


# -- two pairs -------------------------------------------------------------------------------------
TRUTH = "A story. A poem. A chat. A quiz. A sum in words."


@pytest.fixture(scope="module")
def plain(fixed) -> Pair:
    """Says what is true somewhere, and rebuilds nothing."""
    return replace(fixed.pair.named("plain"), engine=FakeEngine([TRUTH], D_MODEL, fixed_direction))


def test_a_cipher_beats_the_truth_by_fve_alone(cipher, plain):
    section = compare(cipher.pair, plain, StoryworldSet(), 8, 3, probe_rows=60)
    assert section.figure(DIFFERENCE, "FVE").value > 0.5
    assert section.figure(DIFFERENCE, "precision").value is None
    assert said(section, "nothing that can be checked", "cipher")
    assert said(section, "Lower recall")


def test_copied_text_tells_less_than_who_understands_it(copying, fixed):
    """What is copied is mostly true, so only a pair that says more shows what is missing."""
    labels = StoryworldSet().reader.labels(copying.sample)
    reader = replace(
        fixed.pair.named("reader"), engine=FakeEngine(labels, D_MODEL, fixed_direction)
    )
    section = compare(copying.pair, reader, StoryworldSet(), 24, 3, probe_rows=60)
    assert section.figure("copying", "precision").value > 0.5
    assert section.figure(DIFFERENCE, "recall").interval.high < 0
    assert said(section, "Lower recall")


# -- the report ------------------------------------------------------------------------------------
def reported(sample: ReadSample):
    return evaluate(sample.pair, 24, 3, probe_rows=60)


def test_report_of_a_fixed_sentence_says_so(fixed):
    report = reported(fixed)
    assert report.floors.shuffled == pytest.approx(report.fve, abs=1e-5)
    assert said(report, "Content-blind")
    assert not said(report, "Copies the text")


def test_report_of_a_cipher_says_so(cipher):
    report = reported(cipher)
    assert report.fve > 0.9 and report.claims.checked == 0
    assert said(report, "Private code", "labels only")
    assert said(report, "nothing that can be checked")


def test_report_of_copied_text_says_so(copying):
    report = reported(copying)
    assert said(report, "Copies the text")
    assert report.claims.abstained > 0.5


# -- figures and pages -----------------------------------------------------------------------------
def test_figures_by_hand():
    names = list("aabb")
    assert share([True, False, True, True], names).value == 0.75
    assert share([1.0, 0.0], names[:2], [False, False]).value is None
    loss, worst = torch.tensor([1.0, 1.0]), torch.tensor([3.0, 1.0])
    assert explained(loss, worst, ["a", "b"]).value == 0.5
    assert ratio_figure(loss, -worst, ["a", "b"]).value is None


def test_sections_come_back_and_their_page_escapes(fixed, tmp_path):
    section = round_trips(fixed, trips=1)
    json_path, html_path = write_section(section, tmp_path)
    assert read_section(json_path) == section
    assert (json_path.name, html_path.name) == ("round-trips.json", "round-trips.html")
    assert sections_in(tmp_path) == [section]
    line = section.lines[0].model_copy(update={"name": "<b>bold</b>"})
    page = render_sections([section.model_copy(update={"lines": (line,)})])
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page
    assert "Says the same of all" in page


def test_one_document_is_refused(fixed):
    for measure_one in (planned, steering):
        with pytest.raises(InputError, match="at least 2"):
            measure_one(fixed.pair, 1, 5)
