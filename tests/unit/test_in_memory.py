"""Models and vectors that a researcher has in memory already: read where they lie, or refused."""

from __future__ import annotations

import copy
import shutil

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

import nlakit
from nlakit import Site
from nlakit.errors import InputError
from nlakit.registry import bundled_path

TEXT = "Mary was calm. The boat left the harbour"
FEW = {"last": 2, "max_new_tokens": 6}


@pytest.fixture(scope="module")
def pair():
    return nlakit.load()


@pytest.fixture(scope="module")
def vectors(pair):
    """Activations of a text, as another library would have cached them: 1 x T x D."""
    encoded = pair.encode(TEXT)
    return pair.engine.extract(encoded, range(len(encoded.ids)))[None]


def test_a_model_in_memory_is_read_as_it_lies_there(pair):
    model, tokenizer = pair.target.model, pair.target.tokenizer
    found = nlakit.load(target=model, tokenizer=tokenizer)
    assert found.target.model is model and found.name == pair.name
    said = [row.explanation for row in found.explain(TEXT, **FEW)]
    assert said == [row.explanation for row in pair.explain(TEXT, **FEW)]


def test_a_pair_without_a_target_takes_the_one_in_memory(pair, tmp_path):
    parts = {role: shutil.copytree(bundled_path() / role, tmp_path / role) for role in ("av", "ar")}
    found = nlakit.load(**parts, target=pair.target.model, tokenizer=pair.target.tokenizer)
    said = [row.explanation for row in found.explain(TEXT, **FEW)]
    assert said == [row.explanation for row in pair.explain(TEXT, **FEW)]


def test_other_weights_are_told_or_refused(pair):
    tuned = copy.deepcopy(pair.target.model)
    with torch.no_grad():
        tuned.model.layers[0].mlp.up_proj.weight.mul_(1.1)
    with pytest.raises(InputError, match="No NLA of the package"):
        nlakit.load(target=tuned, tokenizer=pair.target.tokenizer)
    found = nlakit.load("bundled", target=tuned, tokenizer=pair.target.tokenizer)
    assert "other weights" in found.notes[0]


def small(width: int = 16) -> LlamaForCausalLM:
    sizes = {"num_hidden_layers": 8, "num_attention_heads": 2, "vocab_size": 32}
    return LlamaForCausalLM(LlamaConfig(hidden_size=width, intermediate_size=16, **sizes)).eval()


@pytest.mark.parametrize(
    ("path", "target", "said"),
    [
        (None, small(), "No NLA of the package"),
        ("bundled", small(), "vectors of 192 numbers"),
        ("bundled", small().train(), "model.eval()"),
        ("bundled", torch.nn.Linear(2, 2), "merge_and_unload"),
        ("bundled", 7, "target is a int"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(pair, path, target, said):
    with pytest.raises(InputError) as refused:
        nlakit.load(path, target=target, tokenizer=pair.target.tokenizer)
    assert said in str(refused.value)


def test_a_model_needs_its_tokenizer_and_a_directory_has_one(pair):
    with pytest.raises(InputError, match="AutoTokenizer"):
        nlakit.load(target=pair.target.model)
    with pytest.raises(InputError, match="Leave it out"):
        nlakit.load(tokenizer=pair.target.tokenizer)


# -- vectors ---------------------------------------------------------------------------------------
def test_vectors_of_other_libraries_say_what_the_text_says(pair, vectors):
    last = vectors.shape[1] - 1
    expected = pair.explain(TEXT, positions=[last], max_new_tokens=6)[0]
    row = vectors[0, last]
    for given in (
        row,
        row.numpy(),
        row[None, None],
        [row.clone().requires_grad_()],
        [np.asarray(row)],
        row.double().tolist(),
    ):
        found = pair.describe(given, site=Site(pair.card.layer), max_new_tokens=6)[0]
        assert found.explanation == expected.explanation
        assert found.fidelity == pytest.approx(expected.fidelity, abs=1e-3)


def test_a_cache_of_one_text_is_its_rows(pair, vectors):
    found = pair.describe(vectors, site="blocks.3.hook_resid_post", max_new_tokens=2)
    assert len(found) == vectors.shape[1]
    with pytest.raises(InputError, match="shape"):
        pair.describe(torch.cat([vectors, vectors]))


def test_vectors_of_another_site_are_refused(pair, vectors):
    with pytest.raises(InputError, match="after block 2; .* reads block 3"):
        pair.describe(vectors, site=Site(2))
    with pytest.raises(InputError, match="after block 2"):
        pair.describe(vectors, site="blocks.3.hook_resid_pre")


@pytest.mark.parametrize(
    ("name", "layer"), [("blocks.3.hook_resid_post", 3), ("blocks.3.hook_resid_pre", 2)]
)
def test_a_site_has_transformer_lens_s_name(name, layer):
    assert Site.named(name) == Site(layer)


@pytest.mark.parametrize("name", ["blocks.0.hook_resid_pre", "blocks.3.hook_mlp_out", "3", ""])
def test_other_hooks_are_no_site(name):
    with pytest.raises(InputError, match="after a block"):
        Site.named(name)


# -- many texts ------------------------------------------------------------------------------------
def test_many_texts_are_read_as_each_alone_would_be(pair, monkeypatch):
    monkeypatch.setattr("nlakit.pair.many.ROWS_PER_CALL", 3)
    texts = [TEXT, "A sum of seven", [{"role": "user", "content": "Where is the key?"}]]
    told: list[tuple[int, int]] = []
    found = pair.explain_many(texts, **FEW, progress=lambda *each: told.append(each))
    for one, text in zip(found, texts, strict=True):
        alone = pair.explain(text, **FEW)
        assert [row.explanation for row in one] == [row.explanation for row in alone]
        # Which rows share a batch moves the last digits.
        expected = pytest.approx([row.fidelity for row in alone], abs=1e-3)
        assert (one.text, [row.fidelity for row in one]) == (alone.text, expected)
    assert told == [(3, 6), (6, 6)]


def test_a_bar_is_for_those_who_ask_for_it(pair, capsys):
    pair.explain_many([TEXT], last=1, max_new_tokens=1, progress=True)
    pair.explain_many([TEXT], last=1, max_new_tokens=1)
    assert capsys.readouterr().out == ""


def test_a_bad_text_among_many_has_its_number(pair):
    with pytest.raises(InputError, match="Text 1: "):
        pair.explain_many([TEXT, ""])
    with pytest.raises(InputError, match="No texts"):
        pair.explain_many([])
