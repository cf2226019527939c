"""A tiny pair of every family, from training to a server: the same words all the way."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file
from support.families import CASES, D_MODEL, make
from support.serving import client_for, tiny_tokenizer

import nlakit
from nlakit.card import MEAN_NAME, NlaCard, write_card
from nlakit.config import parse_config
from nlakit.contract import Extraction, NlaMeta, PromptTemplates, Role, measure_tokens
from nlakit.core.site import Site
from nlakit.data.datasets import PairSet
from nlakit.engines.base import Completion, Sampling
from nlakit.models.families import FAMILIES
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.publish.checks import mean_and_variance
from nlakit.publish.export import export, source_of_nla
from nlakit.storyworld.grammar import generate
from nlakit.train.prompts import AR_TEMPLATE, AV_TEMPLATE
from nlakit.train.recipe import Recipe
from nlakit.train.sft import train_reconstructor, train_verbalizer
from nlakit.train.tokenizer import MARKER

RECIPE = Path(__file__).parents[2] / "recipes" / "smoke.toml"
SHORT = ("steps=3", "batch_size=8", "held_out=8", "evaluate_every=9")
TEXT, ROWS = "Basil rowed by the pier.", 24


def meta_for(role: Role, target: Target) -> NlaMeta:
    return NlaMeta(
        role=role,
        d_model=D_MODEL,
        extraction=Extraction(layer_index=1, injection_scale=5.0),
        tokens=measure_tokens(target.tokenizer, MARKER, AV_TEMPLATE, AR_TEMPLATE),
        prompt_templates=PromptTemplates(av=AV_TEMPLATE, ar=AR_TEMPLATE),
    )


def pairs_for(target: Target) -> PairSet:
    texts = [document.text[:120] for document in islice(generate(3, "train"), ROWS)]
    vectors = [target.activations([target.encode(text).ids])[0][-1] for text in texts]
    rows = pa.table({"row": list(range(ROWS))})
    return PairSet(torch.stack(vectors), [f"A text about {text[:20]}" for text in texts], rows)


def train(target: Target, directory: Path, work: Path) -> None:
    """Both warm starts, a few steps of each, and the NLA's directory."""
    overrides = [f"{part}.{each}" for part in ("verbalizer", "reconstructor") for each in SHORT]
    recipe = parse_config(Recipe, RECIPE, overrides)
    av = Verbalizer.from_target(target.model, target.tokenizer, meta_for("av", target))
    ar = Reconstructor.from_target(target.model, target.tokenizer, meta_for("ar", target))
    pairs = pairs_for(target)
    mean_D, variance = mean_and_variance(pairs.vectors, D_MODEL**0.5)
    before = av.model.state_dict()["lm_head.weight"].clone()
    train_verbalizer(recipe, av, pairs, work / "av")
    train_reconstructor(recipe, ar, pairs, mean_D, work / "ar")
    assert not before.equal(av.model.state_dict()["lm_head.weight"])
    for name, part in (("target", target), ("av", av), ("ar", ar)):
        part.save(directory / name)
    save_file({"mean": mean_D}, directory / MEAN_NAME)
    write_card(
        directory,
        NlaCard(name="tiny", layer=1, d_model=D_MODEL, variance=variance, num_training_rows=ROWS),
    )


def answers(nla: nlakit.NLA) -> list[Completion]:
    """What is said of the text's last two tokens, with probabilities."""
    encoded = nla.encode(TEXT)
    vectors = nla.engine.extract(encoded, range(len(encoded.ids) - 2, len(encoded.ids)))
    return [group[0] for group in nla.engine.verbalize(vectors, Sampling(max_new_tokens=10))]


@pytest.mark.parametrize("family", FAMILIES)
def test_words_are_equal_from_training_to_a_server(family, tmp_path):
    assert CASES[family][0] == family
    tokenizer = tiny_tokenizer()
    target = Target(make(family, len(tokenizer)), tokenizer, Site(1))
    train(target, tmp_path / "trained", tmp_path / "work")
    trained = nlakit.load(tmp_path / "trained")
    before = trained.explain(TEXT, last=2, max_new_tokens=10)
    # Random models may repeat one token whatever the vector; their probabilities still tell.
    first, second = answers(trained)
    assert first.logprobs != second.logprobs
    export(source_of_nla(tmp_path / "trained"), tmp_path / "out")
    again = nlakit.load(tmp_path / "out")
    assert again.explain(TEXT, last=2, max_new_tokens=10) == before
    assert answers(again) == [first, second]
    with client_for(again, tmp_path / "data") as client:
        positions = [row.position for row in before.tokens]
        body = {"text": TEXT, "positions": positions, "reverse": False, "temperature": 0}
        body["max_new_tokens"] = 10
        served = client.post("/v1/explain", json=body).json()["results"]
    assert [each["description"] for each in served] == [row.explanation for row in before.tokens]
