"""Each family of the table, as a tiny random model of its real class, against Hugging Face."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import CASES, D_MODEL, make, make_multimodal
from transformers import AutoModelForCausalLM

from nlakit.contract import Extraction, NlaMeta, PromptTemplates, measure_tokens
from nlakit.core.site import Site
from nlakit.engines.base import Sampling
from nlakit.engines.decode import Decoder
from nlakit.engines.local import LocalEngine
from nlakit.engines.modules import ModuleDecoder, decoder_for
from nlakit.errors import CheckpointError
from nlakit.models.families import FAMILIES, PLAIN_CHAT, WRAPPERS, backbone_of, embedding_of
from nlakit.models.io import load_backbone, load_config, load_tokenizer
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer

LAYER, SCALE = 1, 5.0
AV_PROMPT = "Here is a vector: <concept>{injection_char}</concept> Please provide an explanation."
AR_PROMPT = "Summary of the following text: <text>{explanation}</text> <summary>"
TEXTS = ["the cat", "the cat sat on the mat, the cat sat on the mat", "a"]


@pytest.fixture(scope="module", params=CASES)
def model(request, tokenizer) -> Any:
    return make(request.param, len(tokenizer))


@pytest.fixture(scope="module")
def metas(tokenizer) -> dict[str, NlaMeta]:
    return {
        role: NlaMeta.model_validate(
            {
                "role": role,
                "d_model": D_MODEL,
                "extraction": Extraction(layer_index=LAYER, injection_scale=SCALE),
                "tokens": measure_tokens(tokenizer, "㈎", AV_PROMPT, AR_PROMPT),
                "prompt_templates": PromptTemplates(av=AV_PROMPT, ar=AR_PROMPT),
            }
        )
        for role in ("av", "ar")
    }


@pytest.fixture(scope="module")
def engine(model, tokenizer, metas) -> LocalEngine:
    return LocalEngine(
        Target(model, tokenizer, Site(LAYER)),
        Verbalizer(model, tokenizer, metas["av"]),
        Reconstructor.from_target(model, tokenizer, metas["ar"]),
    )


def site_of(model: Any, ids: list[int]) -> torch.Tensor:
    """Hugging Face's residual stream after block LAYER, T x D."""
    with torch.no_grad():
        output = model(torch.tensor([ids]), output_hidden_states=True)
    return output.hidden_states[LAYER + 1][0]


def test_every_row_of_the_table_is_tested():
    assert {model_type for model_type, _ in CASES.values()} == FAMILIES.keys()
    assert WRAPPERS.keys() == {"gemma3"}


def test_capture_equals_hidden_states_alone_and_in_a_batch(engine, model):
    encoded = [engine.target.encode(text).ids for text in TEXTS]
    together = engine.target.activations(encoded)
    for ids, found in zip(encoded, together, strict=True):
        assert torch.allclose(found, site_of(model, ids), atol=1e-5)
        assert torch.allclose(found, engine.target.activations([ids])[0], atol=1e-5)


def test_reconstructor_is_the_model_cut_at_the_site(engine, model):
    ar = engine.reconstructor
    found = engine.reconstruct(TEXTS)
    for text, vector in zip(TEXTS, found, strict=True):
        assert torch.allclose(vector, site_of(model, ar.encode(text))[-1], atol=1e-5)


def test_padding_on_the_left_gives_the_same_vectors(engine):
    ar = engine.reconstructor
    prompts = [ar.encode(text) for text in TEXTS]
    width = max(map(len, prompts))
    padded = torch.tensor([[1] * (width - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    with torch.no_grad():
        output = ar.backbone(
            input_ids=padded,
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp_min(0),
            use_cache=False,
        )
        left = ar.head(output.last_hidden_state[:, -1])
    assert torch.allclose(left, engine.reconstruct(TEXTS), atol=1e-4)


def test_engine_writes_what_hugging_face_writes(engine, model, vectors):
    verbalizer = engine.verbalizer
    prompt = [*verbalizer.prefix_ids, 0, *verbalizer.suffix_ids]
    for vector, group in zip(
        vectors[:3], engine.verbalize(vectors[:3], Sampling(max_new_tokens=12)), strict=True
    ):
        answer = group[0]
        embeds = model.get_input_embeddings()(torch.tensor([prompt + list(answer.ids)])).detach()
        # Behind the family's embedding scale, so it is not scaled.
        embeds[0, len(verbalizer.prefix_ids)] = vector / vector.norm() * SCALE
        with torch.no_grad():
            logits = model(inputs_embeds=embeds).logits[0, len(prompt) - 1 : -1]
        assert tuple(logits.argmax(-1).tolist()) == answer.ids
        expected = logits.log_softmax(-1).gather(1, torch.tensor(answer.ids)[:, None])[:, 0]
        assert torch.allclose(torch.tensor(answer.logprobs), expected, atol=2e-4)


def test_a_row_does_not_depend_on_its_batch(engine, vectors, monkeypatch):
    monkeypatch.setattr(engine.verbalizer, "eos_ids", list(range(0, 340, 12)))
    sampling = Sampling(samples=2, temperature=1.0, max_new_tokens=12, seed=3)
    found = []
    for max_rows in (1, 3, 64):
        monkeypatch.setattr(engine, "max_rows", max_rows)
        groups = engine.verbalize(vectors, sampling)
        found.append([each.ids for group in groups for each in group])
    assert found[0] == found[1] == found[2]
    assert len({len(ids) for ids in found[0]}) > 2


def test_training_sees_what_the_engine_saw(engine, vectors):
    sampling = Sampling(samples=2, temperature=1.0, max_new_tokens=9, seed=4)
    answers = [each for group in engine.verbalize(vectors[:2], sampling) for each in group]
    assert len({each.ids for each in answers}) > 1
    vectors_BD = vectors[:2].repeat_interleave(2, 0)
    responses = [list(each.ids) for each in answers]
    expected, mask = engine.verbalizer.logprobs(vectors_BD, responses)
    found = torch.cat([torch.tensor(each.logprobs) for each in answers])
    assert torch.allclose(found, expected[mask].detach(), atol=2e-4)


def test_disk_changes_nothing(engine, model, vectors, tmp_path):
    for name, part in (
        ("target", engine.target),
        ("av", engine.verbalizer),
        ("ar", engine.reconstructor),
    ):
        part.save(tmp_path / name)
    target = Target.load(tmp_path / "target", LAYER)
    again = LocalEngine(
        target, Verbalizer.load(tmp_path / "av"), Reconstructor.load(tmp_path / "ar")
    )
    ids = [engine.target.encode(TEXTS[1]).ids]
    assert torch.equal(target.activations(ids)[0], engine.target.activations(ids)[0])
    assert torch.equal(again.reconstruct(TEXTS), engine.reconstruct(TEXTS))
    short = Sampling(max_new_tokens=6)
    assert again.verbalize(vectors[:2], short) == engine.verbalize(vectors[:2], short)
    # The same files are what plain transformers reads.
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "target", dtype=torch.float32)
    assert torch.equal(plain(torch.tensor(ids)).logits, model(torch.tensor(ids)).logits)


def test_embedding_scale_is_a_fact(model):
    backbone = backbone_of(model)
    embedding = embedding_of(backbone)
    ratio = (embedding(torch.tensor([7])) / embedding.weight[7]).mean().item()
    is_scaled = FAMILIES[model.config.model_type].embedding_scale == "sqrt_d_model"
    assert ratio == pytest.approx(math.sqrt(D_MODEL) if is_scaled else 1.0, rel=1e-4)


@pytest.mark.parametrize(
    ("case", "expected"),
    [("llama", Decoder), ("mistral-window", ModuleDecoder), ("gpt2", ModuleDecoder)],
)
def test_the_fast_decoder_is_used_where_it_is_right(case, expected, tokenizer):
    assert type(decoder_for(make(case, len(tokenizer)))) is expected


def test_a_base_model_gets_a_plain_chat_template(tokenizer, tmp_path):
    Target(make("gpt2", len(tokenizer)), tokenizer, Site(LAYER)).save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    assert load_tokenizer(tmp_path).chat_template == PLAIN_CHAT
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": "llama"}))
    assert not load_tokenizer(tmp_path).chat_template


def test_the_text_model_is_read_out_of_the_multimodal_gemma(tokenizer, tmp_path):
    """As transformers saves it, by the names it has in memory, and cut to a reconstructor's."""
    whole = make_multimodal(len(tokenizer))
    whole.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    ids = torch.tensor([[0, 5, 9, 44, 17, 3, 2, 8, 21, 60, 61, 7]])
    expected = whole(ids).logits
    assert torch.allclose(load_backbone(tmp_path)(ids).logits, expected, atol=1e-4)
    assert load_config(tmp_path).eos_token_id == [1, 5]
    path = tmp_path / "model.safetensors"
    saved = load_file(path).keys()
    in_memory = {k: v for k, v in whole.state_dict().items() if k != "lm_head.weight"}
    assert "model.language_model.norm.weight" in in_memory.keys() - saved
    save_file(in_memory, path)
    assert torch.allclose(load_backbone(tmp_path)(ids).logits, expected, atol=1e-4)
    site = whole.model.language_model(ids, output_hidden_states=True).hidden_states[2]
    cut = load_backbone(tmp_path, 2, headless=True)
    assert torch.allclose(cut(ids).last_hidden_state, site, atol=1e-4)


def test_old_names_of_gpt_neox_and_masks_of_gpt2_are_read(tokenizer, tmp_path):
    for case, change in (
        ("gpt_neox", lambda w: {k.replace("lm_head", "embed_out"): v for k, v in w.items()}),
        ("gpt2", lambda w: {**w, "transformer.h.0.attn.bias": torch.ones(1)}),
    ):
        model = make(case, len(tokenizer))
        Target(model, tokenizer, Site(LAYER)).save(tmp_path / case)
        path = tmp_path / case / "model.safetensors"
        weights = change(load_file(path))
        assert weights.keys() != load_file(path).keys()
        save_file(weights, path)
        ids = torch.tensor([[4, 8, 9]])
        assert torch.equal(load_backbone(tmp_path / case)(ids).logits, model(ids).logits)


def test_a_cut_config_may_still_list_every_layer(tokenizer, tmp_path):
    Target(make("gemma3_text", len(tokenizer)), tokenizer, Site(LAYER)).save(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | {"num_hidden_layers": 2}))
    assert load_config(tmp_path).layer_types == ["sliding_attention", "full_attention"]


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"model_type": "bert"}, "'bert' is not supported.*embedding_scale.*llama_shape"),
        ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0"),
    ],
)
def test_what_is_not_in_the_table_is_refused(change, found, tokenizer, tmp_path):
    Target(make("gemma3_text", len(tokenizer)), tokenizer, Site(LAYER)).save(tmp_path)
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw | change))
    with pytest.raises(CheckpointError, match=found):
        load_config(tmp_path)


def test_the_page_shows_the_table():
    page = (Path(__file__).parents[2] / "docs" / "families.md").read_text(encoding="utf-8")
    shown = page.split("<!-- families: begin -->\n")[1].split("<!-- families: end -->")[0]
    assert shown == table()


def table() -> str:
    """The facts that a reader of the docs needs."""
    lines = ["| `model_type` | blocks | embedding scale | positions | chat | decoder |"]
    lines.append("|" + "---|" * 6)
    for family in FAMILIES.values():
        cells = [
            f"`{family.model_type}`",
            f"`{family.backbone}.{family.blocks}`",
            "√d" if family.embedding_scale else "1",
            family.positions,
            "plain fallback" if family.chat_template else "the tokenizer's",
            "fast" if family.llama_shape else "modules",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    wrapped = ", ".join(f"`{name}` (in `{each.text_config}`)" for name, each in WRAPPERS.items())
    return "\n".join([*lines, "", f"Wrappers: {wrapped}.", ""])
