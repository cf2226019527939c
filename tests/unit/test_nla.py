"""The facade: scores by hand, what is read, what is refused, and a pair on disk."""

from __future__ import annotations

import json
import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

import nlakit
from nlakit.card import NlaCard, read_card, write_card
from nlakit.cli import run
from nlakit.contract import Extraction, NlaMeta, PromptTemplates, Role, measure_tokens
from nlakit.core.site import Site
from nlakit.engines.fake import FakeEngine
from nlakit.errors import CheckpointError, ContractError, InputError
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.pair.pair import Pair
from nlakit.reading import Reading, TokenReading
from nlakit.registry import resolve
from nlakit.storyworld.grammar import generate
from nlakit.train.prompts import AR_TEMPLATE, AV_TEMPLATE
from nlakit.worlds.storyworld.tokenizer import MARKER, train_tokenizer

NAMES = ("bos", "eos", "pad")
ROLES: tuple[Role, ...] = ("av", "ar")
D_MODEL, LAYER, TEXT = 16, 1, "Basil rowed by the pier."
CARD = NlaCard(
    name="tiny",
    layer=LAYER,
    d_model=D_MODEL,
    variance=0.5,
    num_training_rows=0,
    floors={"mean": -0.1},
)


@pytest.fixture(scope="module")
def target() -> Target:
    texts = [document.text for document in islice(generate(0, "train"), 30)]
    tokenizer = train_tokenizer([*texts, AV_TEMPLATE, AR_TEMPLATE], 400, 128)
    special: dict[str, Any] = {f"{name}_token_id": tokenizer.vocab[f"<|{name}|>"] for name in NAMES}
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D_MODEL,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        **special,
    )
    return Target(LlamaForCausalLM(config).eval(), tokenizer, Site(LAYER))


@pytest.fixture(scope="module")
def pair(target, tmp_path_factory) -> Path:
    """A whole pair on disk, with random weights."""
    directory = tmp_path_factory.mktemp("pairs") / "tiny"
    target.save(directory / "target")
    for role, model_cls in zip(ROLES, (Verbalizer, Reconstructor), strict=True):
        meta = NlaMeta(
            role=role,
            d_model=D_MODEL,
            extraction=Extraction(layer_index=LAYER, injection_scale=4.0),
            tokens=measure_tokens(target.tokenizer, MARKER, AV_TEMPLATE, AR_TEMPLATE),
            prompt_templates=PromptTemplates(av=AV_TEMPLATE, ar=AR_TEMPLATE),
        )
        model_cls.from_target(target.model, target.tokenizer, meta).save(directory / role)
    save_file({"mean": torch.zeros(D_MODEL)}, directory / "mean.safetensors")
    write_card(directory, CARD)
    return directory


def axis(number: int) -> torch.Tensor:
    return torch.eye(D_MODEL)[number]


def scripted(target: Target, *script: str | None) -> Pair:
    """A pair whose engine says `script` and rebuilds "first" as axis 0, anything else as axis 1."""
    engine = FakeEngine(script, D_MODEL, lambda text: axis(0 if text == "first" else 1) * 3)
    return Pair(engine, target, CARD, torch.zeros(D_MODEL))


def test_a_right_explanation_scores_one_and_an_orthogonal_one_by_the_variance(target):
    right, wrong = scripted(target, "first", "other").describe(torch.stack([axis(0)] * 2)).tokens
    assert (right.fidelity, right.mse, right.cosine) == pytest.approx((1, 0, 1), abs=1e-6)
    # Orthogonal: mse = 2 (1 - 0) per component, so the fidelity is 1 - 2 / 0.5.
    assert (wrong.fidelity, wrong.mse, wrong.cosine) == pytest.approx((-3, 2, 0), abs=1e-6)


def test_only_the_direction_counts(target):
    nla = scripted(target, "first")
    assert nla.score("first", axis(0) * 1e-3).fidelity == pytest.approx(1, abs=1e-5)
    assert nla.score("first", -axis(0)).mse == pytest.approx(4, abs=1e-5)


def test_of_several_samples_the_best_is_shown_and_all_are_kept(target):
    row = scripted(target, "other", "first", None).describe(axis(0), samples=3).tokens[0]
    assert row.explanation == "first"
    assert [each.explanation for each in row.samples] == ["other", "first", ""]
    assert [each.closed for each in row.samples] == [True, True, False]


def test_every_token_of_the_text_is_read_and_the_bos_is_not(target):
    reading = scripted(target, "first").explain(TEXT)
    assert "".join(row.token for row in reading.tokens) == TEXT
    assert [row.position for row in reading.tokens] == list(range(1, len(reading.tokens) + 1))
    assert reading.floors == {"mean": -0.1}


def test_last_and_positions_choose_tokens(target):
    nla = scripted(target, "first")
    every = nla.explain(TEXT).tokens
    assert [row.token for row in nla.explain(TEXT, last=2).tokens] == [r.token for r in every[-2:]]
    assert [row.position for row in nla.explain(TEXT, positions=[0, -1]).tokens] == [
        0,
        every[-1].position,
    ]


def test_messages_are_read_through_the_chat_template(target):
    messages = [{"role": "user", "content": "I want to sell the net."}]
    reading = scripted(target, "first").explain(messages)
    assert reading.text == "<|bos|><|user|>I want to sell the net."
    assert (reading.tokens[0].position, reading.tokens[0].token) == (1, "<|user|>")


def test_a_role_token_inside_a_message_is_plain_text(target):
    reading = scripted(target, "first").explain([{"role": "user", "content": "a <|system|> b"}])
    assert reading.text == "<|bos|><|user|>a <|system|> b"
    assert "<|system|>" not in [each.token for each in reading.tokens]


@pytest.mark.parametrize(
    ("messages", "found"),
    [
        ([{"role": "user"}], "content"),
        ([{"role": "user", "content": 3}], "content is 3"),
        ([{"role": "user", "content": "half \ud83d"}], "surrogate"),
        ([], "empty"),
    ],
)
def test_messages_that_would_be_misread_are_refused(target, messages, found):
    with pytest.raises(InputError) as caught:
        scripted(target, "first").explain(messages)
    assert found in str(caught.value)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({"positions": [99]}, "99"),
        ({"positions": []}, "empty"),
        ({"positions": [1], "last": 1}, "Give one"),
        ({"last": 0}, "found 0"),
        ({"samples": 0}, "found 0"),
        ({"temperature": float("nan")}, "nan"),
    ],
)
def test_settings_out_of_range_are_refused_with_their_value(target, options, found):
    with pytest.raises(InputError, match=found):
        scripted(target, "first").explain(TEXT, **options)


@pytest.mark.parametrize(
    ("vectors", "found"),
    [
        (np.full(D_MODEL, np.nan), "nan"),
        (torch.full((2, D_MODEL), float("inf")), "inf"),
        (np.zeros((2, D_MODEL + 1)), str(D_MODEL + 1)),
        (np.zeros((0, D_MODEL)), "(0, "),
        (np.zeros((2, 1, D_MODEL)), "(2, 1, "),
        ([[1.0], [1.0, 2.0]], "rows of"),
    ],
)
def test_vectors_that_no_model_can_read_are_refused(target, vectors, found):
    with pytest.raises(InputError) as caught:
        scripted(target, "first").describe(vectors)
    assert found in str(caught.value)


def test_a_pair_on_disk_reads_the_same_twice(pair):
    nla = nlakit.load(pair)
    first, second = (nla.explain(TEXT, last=2, max_new_tokens=5) for _ in range(2))
    assert first == second
    assert nla.reconstruct("a story").shape == (D_MODEL,)
    assert nla.reconstruct(["a story", "a sum"]).shape == (2, D_MODEL)


def test_samples_differ_and_the_seed_decides_them(pair):
    nla = nlakit.load(pair)

    def read(seed: int) -> Reading:
        return nla.explain(TEXT, samples=4, last=1, max_new_tokens=8, seed=seed)

    first, again, other = map(read, (1, 1, 2))
    assert first == again != other
    assert len({each.explanation for each in first.tokens[0].samples}) > 1


@pytest.mark.parametrize("part", ["nla.json", "mean.safetensors", "av/config.json"])
def test_half_a_pair_is_refused_by_the_name_of_what_is_missing(pair, tmp_path, part):
    half = copied(pair, tmp_path)
    (half / part).unlink()
    with pytest.raises(CheckpointError, match=part):
        nlakit.load(half)


@pytest.mark.parametrize(
    ("change", "found"),
    [({"layer": 2}, "layer"), ({"d_model": 8}, "8"), ({"variance": 0}, "variance")],
)
def test_a_card_that_does_not_fit_is_refused(pair, tmp_path, change, found):
    other = copied(pair, tmp_path)
    card = json.loads((other / "nla.json").read_text()) | change
    (other / "nla.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match=found):
        nlakit.load(other)


def test_what_is_not_there_is_refused_with_the_path_asked_for(tmp_path):
    with pytest.raises(InputError, match="nowhere"):
        resolve(tmp_path / "nowhere")


def test_a_card_comes_back_the_same(pair):
    assert read_card(pair) == CARD


def test_the_command_prints_one_json_object(pair, capsys):
    arguments = ["explain", TEXT, "--json", "--last", "2", "--max-new-tokens", "4"]
    assert run([*arguments, "--nla", str(pair)]) == 0
    output = capsys.readouterr()
    tokens = json.loads(output.out)["tokens"]
    assert [token["token"] for token in tokens] == [row.token for row in last_two(pair)]


def last_two(pair: Path) -> tuple[TokenReading, ...]:
    return nlakit.load(pair).explain(TEXT, last=2, max_new_tokens=4).tokens


def copied(pair: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pair, tmp_path / "copy"))


# -- what load takes -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"path": 5}, "path is 5"),
        ({"path": ["a"]}, "path is"),
        ({"path": {}}, "path is"),
        ({"av": 1, "ar": "x"}, "av is 1"),
        ({"av": "x"}, "both av and ar"),
        ({"mean": "m.safetensors"}, "both av and ar"),
        ({"path": "bundled", "av": "x", "ar": "y"}, "no NLA beside"),
        ({"target": "somewhere"}, "both av and ar"),
    ],
)
def test_what_load_cannot_take_is_refused_by_its_name(arguments, said):
    with pytest.raises(InputError, match=said):
        nlakit.load(**arguments)


def test_a_pair_says_what_it_is(target):
    assert repr(scripted(target, "x")) == "Pair('tiny', block 1, d_model 16, on cpu)"


# -- adapters over a base --------------------------------------------------------------------------
def test_an_nla_of_adapters_has_its_base_somewhere_else(pair, tmp_path, capsys):
    """`av/` and `ar/` as PEFT writes them; the base is named, or given."""
    made = adapted(pair, tmp_path / "nla")
    base = pair / "target"
    with pytest.raises(ContractError, match="base_model"):
        nlakit.load(made)
    found = nlakit.load(made, target=base).explain(TEXT, last=1, max_new_tokens=6)
    # Adapters of zeros change nothing: the base is what the untrained pair is a copy of.
    expected = nlakit.load(pair).explain(TEXT, last=1, max_new_tokens=6)
    assert found.tokens[0].explanation == expected.tokens[0].explanation
    assert found.tokens[0].fidelity == pytest.approx(expected.tokens[0].fidelity, abs=1e-5)
    arguments = ["explain", TEXT, "--nla", str(made), "--target", str(base), "--last", "1"]
    assert run([*arguments, "--max-new-tokens", "6", "--json"]) == 0
    assert Reading.from_json(capsys.readouterr().out).tokens == found.tokens
    (made / "av/adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match="target/config.json, av/config.json"):
        resolve(made)


def adapted(pair: Path, directory: Path) -> Path:
    """The pair's AV and AR as adapters that change nothing, without the target."""
    shutil.copytree(pair, directory, ignore=shutil.ignore_patterns("target"))
    for role in ROLES:
        for name in ("model.safetensors", "config.json"):
            (directory / role / name).unlink()
        key = "base_model.model.model.layers.0.self_attn.q_proj"
        tensors = {
            f"{key}.lora_A.weight": torch.zeros(2, D_MODEL),
            f"{key}.lora_B.weight": torch.zeros(D_MODEL, 2),
        }
        save_file(tensors, directory / role / "adapter_model.safetensors")
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj"]}
        (directory / role / "adapter_config.json").write_text(json.dumps(config))
    return directory
