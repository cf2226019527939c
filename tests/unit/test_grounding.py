"""Re-wording, extents, the judge and the labels it grounds."""

import math
import random
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from support.serving import tiny_nla

from nlakit.claims.grounding import ClaimJudge, JudgedClaim, judge_curves
from nlakit.claims.system import ClaimSystem
from nlakit.cli.recipes import read_recipe
from nlakit.errors import ConfigError
from nlakit.storyworld import claims, teacher
from nlakit.storyworld.claims import check, parse
from nlakit.storyworld.extent import extent
from nlakit.storyworld.grammar import document
from nlakit.storyworld.rewording import reword
from nlakit.storyworld.teacher import Wish, describe
from nlakit.train.rewards import claim_log_odds
from nlakit.worlds.storyworld.claims import STORYWORLD
from nlakit.worlds.storyworld.grounding import LeastProbability, ground


def states(num: int):
    found = []
    for index in range(num):
        made = document(11, index)
        found.append(made.state(len(made.text) * 2 // 3))
    return found


def said(text: str) -> set[tuple[str, str]]:
    return {(claim.kind, claim.value) for claim in parse(text)}


# -- re-wording ------------------------------------------------------------------------------------
def test_reworded_labels_claim_the_same_in_other_words():
    texts = [describe(state, random.Random(row)).text for row, state in enumerate(states(150))]
    again = [reword(text, seed=1) for text in texts]
    assert [said(text) for text in again] == [said(text) for text in texts]
    assert sum(a == b for a, b in zip(texts, again, strict=True)) == 0
    assert not any("gloomy" in a and "gloomy" in b for a, b in zip(texts, again, strict=True))


def test_what_claims_nothing_is_left_as_it_is():
    assert reword("Colourless ideas sleep.", seed=1) == "Colourless ideas sleep."


def test_a_false_claim_stays_false():
    assert ("mood", "calm") in said(reword("A calm tale, told by a robot.", seed=3))


# -- what a description is asked for ---------------------------------------------------------------
def test_a_wish_is_met_exactly():
    for row, state in enumerate(states(40)):
        kinds = {"mood", "person", "last"} & {*state.facts, "last"}
        made = describe(state, random.Random(row), Wish(kinds, tail_words=(1,)))
        assert {kind for kind, _ in said(made.text)} == kinds
        assert dict(made.claims)["last"] == state.last_words[-1]


# -- extents ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "kind", "words", "wordings"),
    [
        ("Ana wants to find a buyer for the rope.", "goal", "find a buyer for", 2),
        ("A tale, told by a sailor.", "speaker", "sailor", 2),
        ("A tale about the sea.", "topic", "the sea", 2),
        ("It looks like a test.", "drill", "It looks like a test", 2),
        ('It ends on "the", then punctuation.', "next", "punctuation", 1),
        ('It ends on "old sea", then a noun.', "last", "old sea", 1),
        ("A joyful tale.", "mood", "joyful", 1),
    ],
)
def test_a_claim_begins_where_it_is_decided(text, kind, words, wordings):
    claim = next(each for each in parse(text) if each.kind == kind)
    found = extent(text, claim)
    assert (text[found.start : found.end], found.wordings) == (words, wordings)


# -- the judge -------------------------------------------------------------------------------------
def test_the_probability_is_that_of_the_words_times_their_number():
    tiny_verbalizer = tiny_nla().engine.verbalizer
    text = "A gloomy tale about the sea, told by a sailor."
    vector = torch.randn(1, tiny_verbalizer.meta.d_model, generator=torch.manual_seed(0))
    [judged] = ClaimJudge(tiny_verbalizer, STORYWORLD, "float32").judge(vector, [text])
    with torch.no_grad():
        logprobs, _ = tiny_verbalizer.logprobs(vector, [tiny_verbalizer.encode_response(text)])
    start = text.index("sailor")
    total = sum(
        value
        for value, (a, b) in zip(
            logprobs[0].tolist(), tiny_verbalizer.response_offsets(text), strict=True
        )
        if a < start + 6 and start < b
    )
    found = {each.claim.kind: each.probability for each in judged}
    assert found["speaker"] == pytest.approx(2 * math.exp(total), rel=1e-4)


@dataclass
class Scripted:
    """A judge that cannot read some kinds; two quoted words are one too many for it."""

    unread: set[str]
    system: ClaimSystem = STORYWORLD

    def judge(self, vectors, explanations):
        return [[JudgedClaim(c, self._probability(c)) for c in parse(t)] for t in explanations]

    def _probability(self, claim):
        too_long = claim.kind == "last" and " " in claim.value
        return 0.1 if claim.kind in self.unread or too_long else 0.9


def test_a_label_keeps_what_the_judge_can_read_and_nothing_else():
    found = states(60)
    grounded = ground(
        Scripted({"goal", "next"}), torch.zeros(60, 4), found, LeastProbability(0.5), seed=0
    )
    dropped = 0
    for state, each in zip(found, grounded, strict=True):
        kept = said(each.label.text)
        assert not {"goal", "next"} & {kind for kind, _ in kept}
        assert all(check(claim, state) == "true" for claim in parse(each.label.text))
        assert ("last", state.last_words[-1]) in kept
        assert {"mood", "topic"} & set(state.facts) <= {kind for kind, _ in kept}
        dropped += "goal" in each.dropped
    assert dropped > 10


def test_a_kind_has_a_bound_of_its_own():
    found, least = states(30), LeastProbability(0.95, {"mood": 0.8})
    grounded = ground(Scripted(set()), torch.zeros(30, 4), found, least, seed=0)
    kinds = {claim.kind for each in grounded for claim in parse(each.label.text)}
    assert kinds - {"next"} == {"mood"} and str(least) == "0.95 (mood 0.8)"
    with pytest.raises(ConfigError, match="'moot' is no kind of claim"):
        read_recipe(Path("recipes/storyworld.toml"), ["grounding.thresholds.moot=0.5"])


def test_curves_count_true_claims_that_stay():
    found = states(30)
    texts = [teacher.describe(state, random.Random(0)).text for state in found]
    texts[:10] = ["A gloomy tale about boats, told by a robot." for _ in range(10)]
    curve, _ = judge_curves(Scripted({"mood"}), torch.zeros(30, 4), texts, found, seed=0)
    checked = [
        (claim, check(claim, state) == "true")
        for text, state in zip(texts, found, strict=True)
        for claim in claims.parse(text)
        if check(claim, state) != "uncheckable"
    ]
    read = [
        true
        for claim, true in checked
        if claim.kind != "mood" and not (claim.kind == "last" and " " in claim.value)
    ]
    half = next(point for point in curve.points if point.threshold == 0.5)
    assert curve.claims == len(checked)
    assert half.precision == pytest.approx(sum(read) / len(read))
    assert half.kept == pytest.approx(sum(read) / sum(true for _, true in checked))
    assert 0 < half.kept < 1 and half.precision < 1


# -- the reward ------------------------------------------------------------------------------------
def test_log_odds_reward_a_sure_claim_and_punish_a_guess_more():
    assert claim_log_odds([0.8], neutral=0.8) == 0
    assert claim_log_odds([1.9], neutral=0.8) == pytest.approx(-math.log(0.8))
    assert claim_log_odds([0.4, 1e-12], neutral=0.8) == pytest.approx(math.log(0.5) - 1.5)
    assert claim_log_odds([], neutral=0.8) == 0
