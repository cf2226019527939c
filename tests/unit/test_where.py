"""Where a pair reads well: the groups of positions, and that their figures are theirs alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support.pairs import make_pair

from nlakit.claim import Claim
from nlakit.engines.fake import FakeEngine
from nlakit.evals.rows import read_sample
from nlakit.evals.where import FEWEST, said_groups, token_kind, where
from nlakit.worlds.storyworld.eval_set import StoryworldSet

WIDTH = 16


class Names:
    """A tokenizer by its pieces, as byte-level ones name them."""

    all_special_ids = (0,)
    pieces = ("<|end|>", "Ġboat", "boat", "Ġ12", "7th", "Ġ?!", "Ċ", "ĠÃ©tÃ©", "Ġ3.")
    texts = ("<|end|>", " boat", "boat", " 12", "7th", " ?!", "\n", " été", " 3.")

    def decode(self, ids):
        return self.texts[ids[0]]

    def convert_ids_to_tokens(self, token_id):
        return self.pieces[token_id]


def test_a_token_is_what_its_text_says():
    assert [token_kind(Names(), number) for number in range(9)] == [
        "special", "word", "piece of a word", "number", "piece of a word", "mark", "blank", "word",
        "number",
    ]  # fmt: skip


def test_a_word_whose_blank_is_not_decoded_is_one():
    class Stripped(Names):
        texts = ("<|end|>", "boat", "boat")
        pieces = ("<|end|>", "▁boat", "boat")

    assert [token_kind(Stripped(), number) for number in (1, 2)] == ["word", "piece of a word"]


def test_groups_are_by_all_that_is_said_of_a_kind():
    def said(*verdicts):
        return [(Claim("next", str(n), n, n + 1), each) for n, each in enumerate(verdicts)]

    rows = [
        said("true"),
        said("true", "false"),
        said("true", "uncheckable"),
        said("uncheckable"),
        [],
    ]
    assert said_groups(rows) == {"next: true": [0, 2], "next: false": [1], "next: not said": [4]}


@pytest.fixture(scope="module")
def sample(tiny_target):
    engine = FakeEngine(["A calm story."], WIDTH, lambda text: torch.ones(WIDTH))
    pair = make_pair("x", tiny_target, engine, torch.full((WIDTH,), 0.1))
    return read_sample(pair, StoryworldSet(), 40, 3)


def test_figures_are_of_a_group_s_own_positions(sample):
    half = len(sample.doc_ids) // 2
    completions = [
        replace(each, text="A calm story." if row < half else "A story.")
        for row, each in enumerate(sample.reading.completions)
    ]
    # The first half is rebuilt without an error, the others no better than by the mean.
    mse_N = sample.reading.errors.variance_N.clone()
    mse_N[:half] = 0
    reading = replace(
        sample.reading,
        completions=completions,
        errors=sample.reading.errors._replace(mse_N=mse_N),
    )
    section = where(replace(sample, reading=reading))
    assert section.figure("mood: not said", "FVE").value == 0
    assert section.figure("mood: not said", "share").value == 0.5
    assert section.figure("mood: not said", "claims").value == 1
    silent = {line.name for line in section.lines}
    assert "all" in silent and not any(name.startswith("goal") for name in silent)
    calm = [name for name in ("mood: true", "mood: false") if name in silent]
    assert calm and all(section.figure(name, "FVE").value == 1 for name in calm)
    assert section.figure("all", "claims").value == 1.5


def test_a_group_of_few_positions_is_named_and_not_measured(sample):
    section = where(sample)
    rows = len(sample.doc_ids)
    shares = {line.name: line.figures["share"].value * rows for line in section.lines}
    assert min(shares.values()) >= FEWEST
    ids = [ids[at] for ids, at in zip(sample.sample.tokens, sample.sample.positions, strict=True)]
    kinds = [token_kind(sample.pair.target.tokenizer, each) for each in ids]
    few = {f"token: {kind}" for kind in kinds if kinds.count(kind) < FEWEST}
    assert all(name in " ".join(section.notes) for name in few)
    assert sum(value for name, value in shares.items() if name.startswith("token:")) == (
        pytest.approx(len(kinds) - sum(kinds.count(name.removeprefix("token: ")) for name in few))
    )
