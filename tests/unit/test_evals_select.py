"""Best of N: what is kept, and selections that buy nothing."""

from __future__ import annotations

import pytest
import torch
from support.pairs import make_pair
from tests.support.serving import tiny_nla

from nlakit.claims.confidence import Calibrator, ClaimConfidence
from nlakit.engines.base import Completion
from nlakit.engines.fake import FakeEngine
from nlakit.engines.local import LocalEngine
from nlakit.errors import InputError
from nlakit.evals.select import select
from nlakit.pair.pair import Pair
from nlakit.worlds.storyworld.eval_set import StoryworldSet
from nlakit.worlds.storyworld.extraction import sample_storyworld

WIDTH = 16
TOLD, SHORT = "A calm story about the sea.", "A calm text."


@pytest.fixture(scope="module")
def mean_D(tiny_target) -> torch.Tensor:
    vectors_ND = sample_storyworld(tiny_target, 3, "heldout", 12).vectors_ND
    return 4 * (vectors_ND / vectors_ND.norm(dim=-1, keepdim=True)).mean(0)


def pair_of(target, script, mean_D, vector_of=None) -> Pair:
    engine = FakeEngine(script, WIDTH, vector_of or (lambda _: mean_D))
    return make_pair(
        "x", target, engine, mean_D, control_ar=lambda texts: mean_D.expand(len(texts), -1)
    )


# -- fooled on purpose -----------------------------------------------------------------------------
def test_fixed_sentence_gives_nothing_to_choose(tiny_target, mean_D):
    section = select(pair_of(tiny_target, [TOLD], mean_D), StoryworldSet(), 4, 3, counts=(1, 3))
    assert section.suspicions == (
        "Nothing to choose: in 100% of the places all 3 explanations are the same.",
    )
    assert [line.name for line in section.lines] == [
        "greedy",
        "one drawn",
        "best of 3 by fidelity",
    ]


def test_word_that_only_its_own_reader_knows_is_a_private_gain(tiny_target, mean_D):
    def vector_of(text: str) -> torch.Tensor:
        return mean_D if text == "xyzzy" else -mean_D

    pair = pair_of(tiny_target, [TOLD, "xyzzy", SHORT], mean_D, vector_of)
    section = select(pair, StoryworldSet(), 6, 3, counts=(1, 3))
    best = "best of 3 by fidelity"
    assert section.figure(best, "words").value < section.figure("one drawn", "words").value
    assert section.figure(best, "FVE").value > section.figure("one drawn", "FVE").value + 0.05
    assert any(each.startswith("Private gain") for each in section.suspicions)


def test_selection_that_prefers_what_is_false_is_found_out(tiny_target, mean_D):
    """Facts that never hold together are rebuilt best."""
    lie = 'It will own up to nine calls. The rhyme will be "zzz".'

    def vector_of(text: str) -> torch.Tensor:
        return mean_D if text == lie else -mean_D

    truths = "A story. A poem. A chat. A quiz. A sum in words."
    section = select(
        pair_of(tiny_target, [truths, lie], mean_D, vector_of), StoryworldSet(), 6, 3, counts=(1, 2)
    )
    one, best = (
        section.figure(name, "precision").value for name in ("one drawn", "best of 2 by fidelity")
    )
    assert best < one - 0.02
    assert any(each.startswith("Truth is lost") for each in section.suspicions)


# -- by confidence ---------------------------------------------------------------------------------
class Telling(LocalEngine):
    """Tells two explanations of every vector, by turns, as the verbalizer would have."""

    def verbalize(self, vectors_ND, sampling, on_text=None, first=0):
        return [
            [self._told(v, (TOLD, SHORT)[n % 2]) for n in range(sampling.samples)]
            for v in vectors_ND
        ]

    @torch.no_grad()
    def _told(self, vector_D, text) -> Completion:
        ids = self.verbalizer.encode_response(text)
        logprobs, _ = self.verbalizer.logprobs(vector_D[None], [ids])
        raw = self.verbalizer.decode(ids)
        return Completion(text, raw, tuple(ids), tuple(logprobs[0].tolist()), True)


def test_the_explanation_whose_claims_are_worth_most_is_kept():
    nla = tiny_nla()
    engine = Telling(nla.target, nla.engine.verbalizer, nla.engine.reconstructor)
    hopeless_topics = Calibrator(
        features=("fidelity",), center=(0.0,), spread=(1.0,), weights=(0.0,), bias=0.0,
        kinds={"mood": 3.0, "topic": -3.0}, claims=9,
    )  # fmt: skip
    known = ClaimConfidence(
        greedy=hopeless_topics,
        sampled=hopeless_topics,
        source="hand",
        claims="storyworld",
        seed=99,
        documents=2,
    )
    pair = make_pair("x", nla.target, engine, torch.ones(nla.card.d_model), confidence=known)
    section = select(pair, StoryworldSet(), 4, 3, counts=(1, 2))
    assert section.figure("one drawn", "words").value == len(TOLD.split())
    assert section.figure("best of 2 by confidence", "words").value == len(SHORT.split())
    seconds = [
        section.figure(f"best of 2 by {rule}", "seconds").value
        for rule in ("fidelity", "confidence")
    ]
    assert 0 < seconds[0] < seconds[1]


@pytest.mark.parametrize(
    ("documents", "temperature", "counts", "found"),
    [(1, 1.0, (1,), "found 1"), (4, 0.0, (1,), "found 0"), (4, 1.0, (0,), r"found \[0\]")],
)
def test_what_cannot_be_drawn_is_refused(
    tiny_target, mean_D, documents, temperature, counts, found
):
    with pytest.raises(InputError, match=found):
        select(
            pair_of(tiny_target, [TOLD], mean_D), StoryworldSet(), documents, 3, temperature, counts
        )
