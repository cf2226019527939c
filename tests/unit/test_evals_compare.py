"""Two pairs on the same places: the difference, its interval, and what is called a fall."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.pairs import make_pair

from nlakit.engines.fake import FakeEngine
from nlakit.errors import InputError
from nlakit.evals.bootstrap import difference_interval, ratio_interval
from nlakit.evals.claims import score_claims, tally_rows
from nlakit.evals.compare import DIFFERENCE, compare
from nlakit.evals.probes import measure_probes
from nlakit.pair.pair import Pair
from nlakit.worlds.storyworld.claims import STORYWORLD
from nlakit.worlds.storyworld.eval_set import StoryworldSet
from nlakit.worlds.storyworld.extraction import sample_storyworld

WIDTH, DOCUMENTS = 16, 12
TRUTH = "A story. A poem. A chat. A quiz. A sum in words."
LIE = 'It will own up to four calls. The rhyme will be "zzz".'


@pytest.fixture(scope="module")
def mean_D(tiny_target) -> torch.Tensor:
    vectors_ND = sample_storyworld(tiny_target, 3, "heldout", DOCUMENTS).vectors_ND
    return 4 * (vectors_ND / vectors_ND.norm(dim=-1, keepdim=True)).mean(0)


def pair_of(target, script, mean_D, sign=1.0) -> Pair:
    return make_pair("x", target, FakeEngine(script, WIDTH, lambda _: sign * mean_D), mean_D)


# -- the interval ----------------------------------------------------------------------------------
def test_what_makes_documents_hard_for_both_does_not_widen_the_interval():
    hits = torch.tensor([0.0, 1.0] * 50)
    documents, ones = [str(row) for row in range(100)], torch.ones(100)
    low, high = ratio_interval(hits, ones, documents)
    assert high - low > 0.15
    found = difference_interval((hits + 0.01, ones), (hits, ones), documents)
    assert found == pytest.approx((0.01, 0.01))


def test_interval_of_a_difference_has_its_sign_and_ratios_of_their_own():
    documents = [str(row) for row in range(50)]
    ours, theirs = (torch.ones(50), 4 * torch.ones(50)), (torch.ones(50), 2 * torch.ones(50))
    assert difference_interval(ours, theirs, documents) == pytest.approx((-0.25, -0.25))


def test_tallies_sum_to_the_scores(tiny_target):
    sample = StoryworldSet().sample(tiny_target, "heldout", 3, DOCUMENTS)
    states, texts = sample.states or (), [TRUTH, LIE] * (DOCUMENTS // 2)
    probes = measure_probes(tiny_target, StoryworldSet(), sample, 400)
    scores = score_claims(texts, states, STORYWORLD, probes)
    true, checked, recalled, facts, read, readable = map(
        sum, zip(*tally_rows(texts, states, STORYWORLD, probes), strict=True)
    )
    assert (true, checked, facts, readable) == (
        scores.true, scores.checked, scores.facts, scores.readable_facts,
    )  # fmt: skip
    assert true > 0 and checked > true
    assert recalled / facts == pytest.approx(scores.recall)
    if readable:
        assert read / readable == pytest.approx(scores.readable_recall)


# -- the comparison --------------------------------------------------------------------------------
def test_a_pair_does_not_differ_from_itself(tiny_target, mean_D):
    pair = pair_of(tiny_target, [TRUTH, LIE], mean_D)
    section = compare(
        pair, pair_of(tiny_target, [TRUTH, LIE], mean_D), StoryworldSet(), DOCUMENTS, 3, 0.0, 400
    )
    assert [line.name for line in section.lines] == ["x", "x (other)", DIFFERENCE]
    for name in ("FVE", "precision", "recall"):
        figure = section.figure(DIFFERENCE, name)
        assert (figure.value, figure.interval) == (0.0, (0.0, 0.0))
    assert section.suspicions == ()


def test_lies_and_a_worse_reader_are_found_out(tiny_target, mean_D):
    liar = pair_of(tiny_target, [TRUTH, LIE], mean_D, sign=-1.0)
    section = compare(
        liar, pair_of(tiny_target, [TRUTH], mean_D), StoryworldSet(), DOCUMENTS, 3, 0.0, 400
    )
    ours, theirs = (section.figure(name, "precision").value or 0.0 for name in ("x", "x (other)"))
    assert section.figure(DIFFERENCE, "precision").value == pytest.approx(ours - theirs)
    assert ours < theirs
    found = " ".join(section.suspicions)
    assert "Lower FVE" in found and "Lower recall" in found


def test_pairs_of_two_targets_are_refused(tiny_target, mean_D):
    pair = pair_of(tiny_target, [TRUTH], mean_D)
    other = replace(pair.named("y"), weights={"target/model.safetensors": "00"})
    with pytest.raises(InputError, match="x and y read different targets"):
        compare(pair, other, StoryworldSet(), DOCUMENTS, 3)
