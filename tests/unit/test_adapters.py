"""Adapters on one base: the base stays as it is, and what is merged says what the views said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support.families import D_MODEL, make
from support.serving import tiny_tokenizer
from torch import Tensor

from nlakit.contract import Extraction, NlaMeta, PromptTemplates, Role, measure_tokens
from nlakit.core.site import Site
from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine
from nlakit.errors import CheckpointError
from nlakit.models.adapters import adapted, load_adapter, shared_copy
from nlakit.models.families import FAMILIES, backbone_of, truncated
from nlakit.models.io import save_model
from nlakit.models.lora import adapter_state
from nlakit.models.precision import bring_to
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer
from nlakit.train.model_recipe import ModelShape
from nlakit.train.plan import lora_parameters
from nlakit.train.prompts import AR_TEMPLATE, AV_TEMPLATE
from nlakit.train.rl import policy_gap
from nlakit.worlds.storyworld.tokenizer import MARKER

BLOCKS, RANK = 2, 4
# Matrices of a block where they are not Llama's seven; "c_proj" is two.
FUSED = {
    "phi3": {"qkv_proj", "o_proj", "gate_up_proj", "down_proj"},
    "gpt2": {"c_attn", "c_proj", "c_fc"},
    "gpt_neox": {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"},
}


def meta_for(role: Role) -> NlaMeta:
    return NlaMeta(
        role=role,
        d_model=D_MODEL,
        extraction=Extraction(layer_index=BLOCKS - 1, injection_scale=5.0),
        tokens=measure_tokens(tiny_tokenizer(), MARKER, AV_TEMPLATE, AR_TEMPLATE),
        prompt_templates=PromptTemplates(av=AV_TEMPLATE, ar=AR_TEMPLATE),
    )


def stir(view: Any, size: float = 0.3) -> Any:
    """An adapter that changes something; a fresh one is a product with zero."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in adapter_state(view).values():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * size)
    return view


def verbalizer_on(base: Any) -> Verbalizer:
    return Verbalizer(adapted(base, RANK, 8, 0, "base"), tiny_tokenizer(), meta_for("av"))


def reconstructor_on(base: Any) -> Reconstructor:
    view = adapted(truncated(backbone_of(base), BLOCKS), RANK, 8, 1, "base")
    return Reconstructor(view, torch.nn.Linear(D_MODEL, D_MODEL), tiny_tokenizer(), meta_for("ar"))


def vectors(num_rows: int) -> Tensor:
    return torch.randn(num_rows, D_MODEL, generator=torch.Generator().manual_seed(1))


@pytest.fixture(params=FAMILIES)
def base(request: pytest.FixtureRequest) -> Any:
    return make(request.param, len(tiny_tokenizer()))


def test_a_shared_copy_holds_no_tensor_of_its_own(base):
    copied = shared_copy(base)
    own = {id(tensor) for tensor in (*base.parameters(), *base.buffers())}
    assert {id(tensor) for tensor in (*copied.parameters(), *copied.buffers())} == own
    assert copied is not base and backbone_of(copied) is not backbone_of(base)


def test_the_base_is_bit_equal_while_adapters_learn(base):
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = make(base.config.model_type, len(tiny_tokenizer()))(ids).logits
    av, ar = verbalizer_on(base), reconstructor_on(base)
    stir(av.model)
    stir(ar.backbone)
    logprobs, mask = av.logprobs(vectors(2), [[5, 6, 7], [8, 9]])
    (-(logprobs * mask).sum() + ar.forward([[5, 6, 7]]).square().sum()).backward()
    assert base(ids).logits.equal(plain)
    assert not av.model(ids).logits.allclose(plain, atol=1e-2)
    assert all(parameter.grad is None for parameter in base.parameters())
    moved = [*adapter_state(av.model).values(), *adapter_state(ar.backbone).values()]
    assert all(bool(p.grad.abs().sum() > 0) for p in moved if p.grad is not None)
    assert len([p for p in moved if p.grad is not None]) == len(moved) > 0


@pytest.mark.parametrize("family", FUSED)
def test_fused_matrices_have_adapters_in_every_block(family):
    names = adapter_state(verbalizer_on(make(family, len(tiny_tokenizer()))).model)
    assert {name.split(".")[-3] for name in names} == FUSED[family]
    assert len(names) == 2 * 4 * 3  # two factors, four matrices, three blocks


def test_a_fresh_adapter_changes_nothing_and_follows_its_seed(base):
    ids = torch.tensor([[5, 6, 7]])
    one, same, other = (adapted(base, RANK, 8, seed, "base") for seed in (0, 0, 1))
    assert one(ids).logits.allclose(base(ids).logits, atol=1e-6)
    halves = [torch.cat([p.flatten() for p in adapter_state(v).values()]) for v in (one, same)]
    assert halves[0].equal(halves[1])
    other_half = torch.cat([p.flatten() for p in adapter_state(other).values()])
    assert not halves[0].equal(other_half)


def test_the_plan_counts_the_adapters_as_they_are():
    base = make("qwen2", len(tiny_tokenizer()))
    config = base.config
    shape = ModelShape(
        d_model=D_MODEL,
        num_layers=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        num_kv_heads=config.num_key_value_heads,
        head_dim=D_MODEL // config.num_attention_heads,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
    )
    for view, num_blocks in ((verbalizer_on(base).model, 3), (reconstructor_on(base).backbone, 2)):
        found = sum(p.numel() for p in adapter_state(view).values())
        assert found == lora_parameters(shape, RANK, num_blocks)


def test_two_adapters_on_one_base_do_not_meet(base):
    av, reference = verbalizer_on(base), verbalizer_on(base)
    before, _ = reference.logprobs(vectors(1), [[5, 6, 7]])
    stir(av.model)
    after, _ = reference.logprobs(vectors(1), [[5, 6, 7]])
    assert after.equal(before)


def test_the_engine_writes_with_the_adapter(base):
    av = verbalizer_on(base)
    stir(av.model)
    engine = LocalEngine(None, av, reconstructor_on(base))
    (answer,) = engine.verbalize(vectors(1), Sampling(max_new_tokens=6))[0]
    with torch.no_grad():
        scored, _ = av.logprobs(vectors(1), [list(answer.ids)])
    assert torch.tensor(answer.logprobs).allclose(scored[0], atol=1e-4)


def test_a_merged_policy_in_bfloat16_is_the_trainers():
    """k3 of the engine's log-probabilities to the training forward's, as RL takes it."""
    av = verbalizer_on(make("llama", len(tiny_tokenizer())))
    stir(av.model, 0.1)
    bring_to(av.model, "bfloat16")
    engine = LocalEngine(None, av, reconstructor_on(make("llama", len(tiny_tokenizer()))))
    sampling = Sampling(samples=4, temperature=1.0, max_new_tokens=16)
    answers = [each for group in engine.verbalize(vectors(8), sampling) for each in group]
    with torch.no_grad():
        trained, mask = av.logprobs(
            vectors(8).repeat_interleave(4, 0), [list(each.ids) for each in answers]
        )
    gap = policy_gap([list(each.logprobs) for each in answers], trained, mask)
    assert 0 < gap / mask.sum() < 0.01


def test_merged_checkpoints_say_what_the_views_said(base, tmp_path):
    Target(base, tiny_tokenizer(), Site(BLOCKS - 1)).save(tmp_path / "base")
    av, ar = verbalizer_on(base), reconstructor_on(base)
    stir(av.model)
    stir(ar.backbone)
    av.save(tmp_path / "av")
    ar.save(tmp_path / "ar")
    assert not (tmp_path / "av" / "model.safetensors").exists()
    for name, kind in (("av", Verbalizer), ("ar", Reconstructor)):
        kind.load(tmp_path / name, base=tmp_path / "base").save(tmp_path / "merged" / name)
    merged_av = Verbalizer.load(tmp_path / "merged" / "av")
    merged_ar = Reconstructor.load(tmp_path / "merged" / "ar")
    pairs = [LocalEngine(None, *each) for each in ((av, ar), (merged_av, merged_ar))]
    said = [each.verbalize(vectors(4), Sampling(max_new_tokens=8)) for each in pairs]
    assert [g[0].ids for g in said[0]] == [g[0].ids for g in said[1]]
    rebuilt = [each.reconstruct(["a cat", "two dogs by the pier"]) for each in pairs]
    assert rebuilt[0].allclose(rebuilt[1], atol=1e-4)
    back = load_adapter(verbalizer_on(base).model, tmp_path / "av", frozen=True)
    assert torch.equal(back(torch.tensor([[5, 6]])).logits, av.model(torch.tensor([[5, 6]])).logits)
    assert not any(p.requires_grad for p in back.parameters())


def test_an_adapter_of_another_rank_is_refused(tmp_path):
    base = make("qwen2", len(tiny_tokenizer()))
    verbalizer_on(base).save(tmp_path / "av")
    with pytest.raises(CheckpointError, match="another model or rank"):
        load_adapter(adapted(base, RANK + 1, 8, 0, "base"), Path(tmp_path / "av"))


def test_the_docs_say_what_was_measured():
    root = Path(__file__).parents[2]
    found = json.loads((root / "benchmarks" / "results" / "one_base.json").read_text())
    page = (root / "docs" / "train-for-your-model.md").read_text()
    held, peak = found["held_mib"], found["peak_mib"]
    assert held["within"] and peak["within"]
    for name, key in (("one base, three roles", "one_base"), ("three check", "three_checkpoints")):
        row = next(line for line in page.splitlines() if line.startswith(f"| {name}"))
        figures = [f"{each[f'{key}_over_base']:.2f}" for each in (held, peak)]
        assert [cell.strip() for cell in row.split("|")[2:4]] == figures


def test_recomputed_blocks_give_the_same_gradients(base):
    av, ar = verbalizer_on(base), reconstructor_on(base)
    stir(av.model)
    stir(ar.backbone)

    def gradients(recompute: bool) -> list[Tensor]:
        av.recompute = ar.recompute = recompute
        parameters = [*adapter_state(av.model).values(), *adapter_state(ar.backbone).values()]
        logprobs, mask = av.logprobs(vectors(2), [[5, 6, 7], [8, 9]])
        loss = (logprobs * mask).sum() + ar.forward([[5, 6, 7], [8, 9]]).square().sum()
        return list(torch.autograd.grad(loss, parameters))

    for kept, remade in zip(gradients(False), gradients(True), strict=True):
        assert (remade - kept).norm() < 1e-4 * kept.norm()
    assert not any(m.training for m in (*av.model.modules(), *ar.backbone.modules()))


def test_adapted_matrices_are_written_in_order(tmp_path):
    """PEFT keeps them as a set: its order, each process's own, would change the file's bytes."""
    model = adapted(make("qwen2", 512), 2, 4, 0, "base")
    save_model(tmp_path, model, tiny_tokenizer(), None)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert len(config["target_modules"]) == 7  # sorted by accident once in 5 040 times
    assert config["target_modules"] == sorted(config["target_modules"])
