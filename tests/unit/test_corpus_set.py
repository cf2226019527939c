"""Anybody's text as an evaluation set: which documents, which rows, and a whole report of them."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import pytest
import torch
from support.pairs import make_pair
from support.serving import save_nla

from nlakit.card import ReadSpan, read_card, write_card
from nlakit.claims.spans import SPANS
from nlakit.claims.system import NO_CLAIMS
from nlakit.claims.text.checking import TEXT
from nlakit.cli import run
from nlakit.cli.eval.common import corpus_set
from nlakit.cli.pairs import PairOptions
from nlakit.data.corpora import Corpus
from nlakit.engines.fake import FakeEngine
from nlakit.errors import InputError
from nlakit.evals.baseline import MEAN_SEED
from nlakit.evals.baselines import baselines
from nlakit.evals.cause import cause
from nlakit.evals.compare import DIFFERENCE, compare
from nlakit.evals.confidence import measure
from nlakit.evals.corpus_set import MAX_TOKENS, MINIMUM_POSITION, CorpusSet
from nlakit.evals.edited_words import edited_words, first_tokens
from nlakit.evals.evaluation import evaluate
from nlakit.evals.inversion import Search
from nlakit.evals.private_code import private_code
from nlakit.evals.readers import TeacherReader
from nlakit.evals.report import render_html
from nlakit.evals.round_trips import round_trips
from nlakit.evals.rows import read_sample
from nlakit.evals.select import select
from nlakit.models.patch import next_logprobs
from nlakit.split import is_for_calibration, split_of
from nlakit.storyworld.grammar import document
from nlakit.teachers.text import TextTeacher

WIDTH, DOCUMENTS = 16, 20
TOLD = 'A report from Genoa. It ends on "wet sand".'


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Corpus:
    """400 short texts with ids of their own."""
    path = tmp_path_factory.mktemp("corpus") / "own.jsonl"
    rows = ({"id": f"tale-{n}", "text": document(77, n, "story").text} for n in range(400))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Corpus(str(path))


@pytest.fixture(scope="module")
def own(corpus) -> CorpusSet:
    return CorpusSet(corpus, SPANS, minimum_position=8)


def vector_of(text: str) -> torch.Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(len(text)))


@pytest.fixture(scope="module")
def pair(tiny_target):
    engine = FakeEngine([TOLD, "A letter to Anna."], WIDTH, vector_of)
    return make_pair("x", tiny_target, engine, torch.full((WIDTH,), 0.1))


def test_rows_are_of_held_out_documents_and_a_function_of_the_seed(own, tiny_target):
    rows = own.sample(tiny_target, "heldout", 3, DOCUMENTS, positions=2)
    assert len(set(rows.doc_ids)) == DOCUMENTS and len(rows.doc_ids) == 2 * DOCUMENTS
    texts = {f"tale-{n}": document(77, n, "story").text for n in range(400)}
    assert {split_of(texts[name]) for name in rows.doc_ids} == {"heldout"}
    assert all(
        texts[name].startswith(text) for name, text in zip(rows.doc_ids, rows.prefixes, strict=True)
    )
    assert min(rows.positions) >= 8
    again = own.sample(tiny_target, "heldout", 3, DOCUMENTS, positions=2)
    assert torch.equal(rows.vectors_ND, again.vectors_ND) and rows.doc_ids == again.doc_ids
    assert own.sample(tiny_target, "heldout", 4, DOCUMENTS).doc_ids != rows.doc_ids[::2]


def test_activations_are_those_at_the_rows_positions(own, tiny_target):
    rows = own.sample(tiny_target, "heldout", 3, 4)
    for row, prompt in enumerate(rows.prompts):
        (vector_1D,) = tiny_target.activations([prompt], [[len(prompt) - 1]])
        torch.testing.assert_close(vector_1D[0], rows.vectors_ND[row], atol=1e-5, rtol=1e-4)
        assert rows.tokens[row][len(prompt)] == rows.following_N[row]


def test_calibration_reads_no_document_that_a_report_can_read(own, tiny_target):
    kept = set(own.calibration(tiny_target, 3, 1000).doc_ids)
    reported = set(own.sample(tiny_target, "heldout", 3, 1000).doc_ids)
    trained = set(own.sample(tiny_target, "train", 3, 1000).doc_ids)
    assert kept and not kept & reported and not trained & (kept | reported)
    assert {is_for_calibration(document(77, int(n[5:]), "story").text) for n in kept} == {True}


def test_corpus_without_a_document_that_is_long_enough_is_refused(corpus, tiny_target):
    with pytest.raises(InputError, match="token at 400 or later"):
        CorpusSet(corpus, NO_CLAIMS, minimum_position=400).sample(tiny_target, "heldout", 1, 3)


def test_report_leaves_out_what_nobody_can_check(pair, own):
    report = evaluate(pair, own, documents=DOCUMENTS, seed=3)
    assert (report.documents, report.rows, report.claims, report.probes) == (
        DOCUMENTS,
        20,
        None,
        {},
    )
    assert report.fve == pytest.approx(1 - report.mse / report.variance)
    assert report.fve_interval.low < report.fve < report.fve_interval.high
    assert report.paraphrase_kept is None and report.claims_teacher is None
    assert all(each.label is None for each in report.samples)
    page = render_html(report)
    assert "Claims, beside" not in page and "teacher’s label" not in page


def test_every_evaluation_without_a_storyworld_fact_runs_on_a_corpus(pair, own):
    sample = read_sample(pair, own, 12, 3)
    quick = Search(window=2, candidates=4, sweeps=1)
    sections = [
        private_code(sample),
        cause(sample, 10),
        baselines(sample, 10, quick),
        round_trips(sample, 2),
        select(pair, own, 12, 3, counts=(1, 2)),
        compare(pair, pair.named("y"), own, 12, 3),
    ]
    assert all(line.figures for section in sections for line in section.lines)
    assert sections[1].figure("logit lens, as text", "KL, nats").value > 0
    assert sections[3].figure("after 2", "claims kept").value is not None
    assert list(sections[5].lines[2].figures) == ["FVE"]
    assert any("Nobody has labels" in each for each in sections[2].notes)
    assert sections[5].figure(DIFFERENCE, "FVE").value == 0.0


def test_confidence_of_claims_that_nobody_can_check_is_refused(pair, own):
    with pytest.raises(InputError, match="no probabilities|Nobody knows|nobody can check"):
        measure(read_sample(pair, own, 4, 3))


def test_mean_of_a_pair_that_knows_none_is_the_corpus_s(own, tiny_target):
    rows = own.sample(tiny_target, "train", MEAN_SEED, 1_000, 5)
    assert 100 < len(set(rows.doc_ids)) < 400


# -- where a pair's card says that it was trained --------------------------------------------------
def test_a_corpus_is_read_where_the_pair_was_trained(corpus, pair):
    card = pair.card.model_copy(update={"span": ReadSpan(minimum_position=9, max_tokens=30)})

    class Options(PairOptions):
        def card(self):
            return card

    def read(*asked: int | None) -> tuple[int, int]:
        found = corpus_set(corpus.source, Options(), *asked)
        return found.minimum_position, found.max_tokens

    assert read(None, None) == (9, 30)
    assert (read(12, None), read(None, 20), read(2, 500)) == ((12, 30), (9, 20), (2, 500))
    with pytest.raises(InputError, match="position 9 and --max-tokens 9: expected"):
        read(None, 9)
    card = card.model_copy(update={"span": None})
    assert read(None, None) == (MINIMUM_POSITION, MAX_TOKENS)


# -- claims that are checked against the text ------------------------------------------------------
@pytest.fixture(scope="module")
def checked(corpus) -> CorpusSet:
    return CorpusSet(corpus, TEXT, minimum_position=8, reader=TeacherReader(TextTeacher()))


def test_states_have_the_target_s_next_tokens(checked, tiny_target):
    rows = checked.sample(tiny_target, "heldout", 3, 6)
    logprobs_NV = next_logprobs(tiny_target, rows.prompts)
    for row, state in enumerate(rows.states):
        best = int(logprobs_NV[row].argmax())
        assert state.guesses[0].text == tiny_target.tokenizer.decode([best])
        assert state.guesses[0].probability == pytest.approx(
            logprobs_NV[row, best].exp().item(), rel=1e-3
        )
        assert state.text == rows.prefixes[row]


def test_report_with_claims_of_text(pair, checked):
    report = evaluate(pair, checked, documents=DOCUMENTS, seed=3, probe_rows=400)
    assert report.claims.checked > 0 and report.claims.precision < 0.5
    assert report.claims_teacher.precision == 1.0 and report.claims_teacher.recall == 1.0
    assert {"subject", "last", "next"} <= set(report.claims.per_kind)
    assert {"last", "next"} <= set(report.probes)
    assert 0 <= report.probes["next"].mlp <= 1
    page = render_html(report)
    assert "Claims, beside" in page and "teacher’s label" in page


def test_readers_of_the_text_are_baselines(pair, checked):
    sample = read_sample(pair, checked, 12, 3)
    section = baselines(sample, 10, Search(window=2, candidates=4, sweeps=1))
    assert section.figure("teacher, sees the text", "precision").value == 1.0
    keywords = section.figure("keywords of the text", "precision").value
    assert keywords == 1.0 and not section.notes


def test_compressed_lines_are_a_corpus_too(corpus, tmp_path):
    plain = Path(corpus.source).read_bytes()
    for name, compress in (("own.jsonl.xz", lzma.compress), ("own.jsonl.gz", gzip.compress)):
        (tmp_path / name).write_bytes(compress(plain))
        found = [each.content for each in Corpus(str(tmp_path / name))]
        assert found == [each.content for each in corpus]


# -- the command -----------------------------------------------------------------------------------
def test_verb_measures_on_a_corpus(corpus, tmp_path, capsys):
    arguments = ["eval", "corpus", "--corpus", corpus.source, "--documents", "4", "--seed", "7"]
    arguments += ["--nla", str(save_nla(tmp_path / "nla")), "--minimum-position", "8"]
    assert run([*arguments, "--max-new-tokens", "12", "--json"]) == 0, capsys.readouterr().err
    report = json.loads(capsys.readouterr().out)
    assert (report["documents"], report["seed"], report["claims"]) == (4, 7, None)
    assert report.keys() >= {
        "fve", "fve_interval", "fve_warm_start", "fve_control_ar", "floors", "probes",
        "paraphrase_kept", "variance", "lengths", "fve_renormalized_mean",
    }  # fmt: skip


def test_verb_checks_the_claims_that_the_card_declares(corpus, tmp_path, capsys):
    directory = save_nla(tmp_path / "nla")
    write_card(directory, read_card(directory).model_copy(update={"claims": "text"}))
    arguments = ["eval", "corpus", "--corpus", corpus.source, "--documents", "4", "--nla"]
    arguments += [str(directory), "--minimum-position", "8", "--max-new-tokens", "12", "--json"]
    assert run(arguments) == 0, capsys.readouterr().err
    report = json.loads(capsys.readouterr().out)
    assert report["claims"].keys() >= {"precision", "readable_recall", "ece", "per_kind"}
    assert report["claims_teacher"]["precision"] == 1.0


def test_other_verbs_take_a_corpus(corpus, tmp_path, capsys):
    arguments = ["eval", "private-code", "--corpus", corpus.source, "--documents", "3", "--nla"]
    assert (
        run([*arguments, str(save_nla(tmp_path / "nla")), "--minimum-position", "8", "--json"]) == 0
    )
    section = json.loads(capsys.readouterr().out)
    assert (section["name"], section["documents"]) == ("private-code", 3)


# -- edited words ----------------------------------------------------------------------------------
SAYING = ["lamp", "sea", "house", "garden", "captain", "night"]


def steered_by(tiny_target, checked, vector_of):
    """The evaluation on a pair whose explanations say a likely next token each."""
    script = [f'A story about boats. Next may come "{word}".' for word in SAYING]
    engine = FakeEngine(script, WIDTH, vector_of)
    pair = make_pair("x", tiny_target, engine, torch.full((WIDTH,), 0.1))
    return edited_words(read_sample(pair, checked, 24, 3), (1.0, 4.0))


def test_an_edit_that_points_at_its_word_makes_it_likely(tiny_target, checked):
    embedding_VD = tiny_target.model.get_output_embeddings().weight.detach()

    def pointing(text: str) -> torch.Tensor:
        word = text.partition('"')[2].partition('"')[0]
        return embedding_VD[list(first_tokens(tiny_target, word))].sum(0)

    section = steered_by(tiny_target, checked, pointing)
    edit = section.figure("next: edit, alpha 4", "gain")
    noise = section.figure("next: random direction, alpha 4", "gain")
    assert edit.interval.low > max(noise.value, 0.0) and edit.count == 24
    assert section.figure("next: edit, alpha 4", "raised").value > 0.8
    assert section.figure("next: edit, alpha 4", "KL").value > 0
    assert not section.suspicions


def test_an_ar_that_is_deaf_to_the_edit_is_told_of(tiny_target, checked):
    section = steered_by(tiny_target, checked, lambda text: torch.ones(WIDTH))
    assert section.figure("next: edit, alpha 1", "shift").value == 0
    assert section.figure("next: edit, alpha 1", "gain").value == pytest.approx(0, abs=1e-5)
    assert any(
        each.startswith("next: an edit raises its word by 0.00") for each in section.suspicions
    )


def test_explanations_that_claim_nothing_cannot_be_edited(tiny_target, checked):
    engine = FakeEngine(["It is so."], WIDTH, vector_of)
    pair = make_pair("x", tiny_target, engine, torch.full((WIDTH,), 0.1))
    with pytest.raises(InputError, match="0 claims of 12 explanations can be edited"):
        edited_words(read_sample(pair, checked, 12, 3))
