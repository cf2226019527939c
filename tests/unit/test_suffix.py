"""Same-document suffix prediction: who chooses, among what, and what is reported of those who say
nothing of what follows."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from support.pairs import make_pair

from nlakit.claims.system import NO_CLAIMS
from nlakit.claims.text.checking import TEXT
from nlakit.data.corpora import Corpus
from nlakit.engines.fake import FakeEngine
from nlakit.errors import InputError
from nlakit.evals import suffix
from nlakit.evals.corpus_set import CorpusSet
from nlakit.evals.readers import TeacherReader
from nlakit.evals.rows import read_sample
from nlakit.evals.suffix import THE_TEXT, make_trials, suffix_logprobs, suffix_prediction
from nlakit.storyworld.grammar import document
from nlakit.teachers.text import TextTeacher
from nlakit.worlds.storyworld.claims import STORYWORLD

WIDTH = 16


@pytest.fixture(scope="module")
def sample(tmp_path_factory, tiny_target):
    path = tmp_path_factory.mktemp("corpus") / "own.jsonl"
    rows = ({"id": f"tale-{n}", "text": document(77, n, "story").text} for n in range(300))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    read = CorpusSet(Corpus(str(path)), TEXT, 8, reader=TeacherReader(TextTeacher()))
    engine = FakeEngine(["A novel."], WIDTH, lambda text: torch.ones(WIDTH))
    return read_sample(make_pair("x", tiny_target, engine, torch.full((WIDTH,), 0.1)), read, 12, 3)


def test_a_suffix_has_the_probability_of_its_tokens_one_by_one(tiny_target):
    context = list(tiny_target.encode("The lonely boat drifted").ids)
    suffixes = [[5, 9, 4], [7, 7, 30]]
    with torch.no_grad():
        alone = []
        for each in suffixes:
            logits = tiny_target.model(torch.tensor([context + each])).logits[0].float()
            logprobs = logits.log_softmax(-1)[len(context) - 1 : -1]
            alone.append(logprobs[range(len(each)), each].sum())
    torch.testing.assert_close(
        suffix_logprobs(tiny_target, context, suffixes), torch.stack(alone), atol=1e-4, rtol=1e-4
    )
    one = suffix_logprobs(tiny_target, context, [[5], [7]])
    torch.testing.assert_close(one.exp().sum() < 1, torch.tensor(True))


def test_the_lens_is_written_as_the_claims_of_the_pair_are_read():
    said = TEXT.say_next(["of", "", "in"])
    assert [(each.kind, each.value) for each in TEXT.find(said)] == [("next", "of"), ("next", "in")]
    assert NO_CLAIMS.say_next(["of", "in"]) == 'Then "of", "in".'
    found = [(each.kind, each.value) for each in STORYWORLD.find(STORYWORLD.say_next(["boat"]))]
    assert found == [("next", "word boat")]


def test_candidates_are_of_the_document_and_do_not_overlap_the_true_one(sample):
    trials = make_trials(sample, 5, 4)
    assert trials and trials == make_trials(sample, 5, 4)
    for trial in trials:
        ids, position = sample.sample.tokens[trial.row], sample.sample.positions[trial.row]
        assert trial.suffixes[0] == list(ids[position + 1 : position + 5])
        assert len(trial.suffixes) == 5 and {len(each) for each in trial.suffixes} == {4}
        assert len(set(map(tuple, trial.suffixes))) == 5
        behind = [list(ids[at : at + 4]) for at in range(position + 5, len(ids) - 3)]
        assert all(each in behind for each in trial.suffixes[1:])
    assert len(make_trials(sample, 5, 400)) == 0
    with pytest.raises(InputError, match="longer documents"):
        suffix_prediction(sample, 5, 400)


@pytest.fixture
def word_judge(monkeypatch, tiny_target):
    """Takes a continuation for likelier, the more of its tokens stand in the context."""

    def judge(target, context, suffixes):
        return torch.tensor([float(sum(each in context for each in row)) for row in suffixes])

    monkeypatch.setattr(suffix, "suffix_logprobs", judge)


def test_explanations_that_say_what_follows_are_right_and_others_are_found_out(
    sample, tiny_target, word_judge
):
    decode = tiny_target.tokenizer.decode
    places = zip(sample.sample.tokens, sample.sample.positions, strict=True)
    following = [str(decode(list(ids[at + 1 : at + 5]))) for ids, at in places]
    telling = suffix_prediction(replace(sample, reading=SimpleNamespace(texts=following)), 4, 4)
    silent = ["A novel."] * len(following)
    same = suffix_prediction(replace(sample, reading=SimpleNamespace(texts=silent)), 4, 4)
    ours, other = telling.figure("explanation", "right"), same.figure("explanation", "right")
    assert ours.value > 0.6 > other.value
    assert not telling.suspicions
    assert any("Nothing of what follows" in each for each in same.suspicions)
    names = [line.name for line in telling.lines]
    assert {"teacher's label", "topic alone", "last token alone", THE_TEXT} <= set(names)
    assert telling.figure("explanation", "among the first 3").value >= ours.value
    assert [line.name for line in telling.lines if line.floor] == ["another document's explanation"]
