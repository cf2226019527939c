"""A pair of adapters is one base in memory, and says what the merged pair says."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.serving import CARD, D_MODEL, meta_for, tiny_target

import nlakit
from nlakit.card import MEAN_NAME, write_card
from nlakit.models.adapters import adapted
from nlakit.models.families import backbone_of, truncated
from nlakit.models.lora import adapter_state, is_adapted
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.verbalizer import Verbalizer

TEXTS = ["A story about the sea.", "Basil rowed."]


def stirred(model, seed):
    """A view whose adapter changes something."""
    view = adapted(model, 3, 6, seed, "base")
    generator = torch.Generator().manual_seed(seed)
    for parameter in adapter_state(view).values():
        parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    return view


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """An NLA on disk: a target, and adapters of it."""
    home, target = tmp_path_factory.mktemp("nla"), tiny_target()
    target.save(home / "target")
    av, ar = meta_for("av", target), meta_for("ar", target)
    Verbalizer(stirred(target.model, 1), target.tokenizer, av).save(home / "av")
    cut, head = truncated(backbone_of(target.model), 2), torch.nn.Linear(D_MODEL, D_MODEL, False)
    Reconstructor(stirred(cut, 2), head, target.tokenizer, ar).save(home / "ar")
    save_file({"mean": torch.zeros(D_MODEL)}, home / MEAN_NAME)
    write_card(home, CARD.model_copy(update={"claims": "none"}))
    return home


def attention(pair):
    """The weight of one matrix, as the target, the AV and the AR have it."""
    found = (pair.target.model, pair.engine.verbalizer.model, pair.engine.reconstructor.backbone)
    backbones = [getattr(model, "model", model) for model in found]
    first = [each.layers[0].self_attn.q_proj for each in backbones]
    return [getattr(each, "base_layer", each).weight for each in first]


def test_three_roles_are_one_base_and_say_what_merged_ones_say(adapters):
    pair = nlakit.load(adapters, device="cpu")
    assert len({weight.data_ptr() for weight in attention(pair)}) == 1
    assert not is_adapted(pair.target.model) and is_adapted(pair.engine.verbalizer.model)
    target, untouched = pair.target, tiny_target()
    ids = [untouched.encode("Basil rowed by the pier.").ids]
    assert torch.equal(target.activations(ids, [[3]])[0], untouched.activations(ids, [[3]])[0])
    merged = [kind.load(adapters / part, base=adapters / "target")
              for kind, part in ((Verbalizer, "av"), (Reconstructor, "ar"))]  # fmt: skip
    found, expected = pair.engine.reconstruct(TEXTS), merged[1].reconstruct(TEXTS)
    assert torch.allclose(found, expected, atol=1e-5)
    responses = [merged[0].encode_response(text) for text in TEXTS]
    rows = torch.randn(2, D_MODEL, generator=torch.Generator().manual_seed(0))
    own, _ = pair.engine.verbalizer.logprobs(rows, responses)
    assert torch.allclose(own, merged[0].logprobs(rows, responses)[0], atol=1e-4)


@pytest.mark.parametrize("option", ["rank_pattern", "use_rslora", "layers_to_transform"])
def test_what_is_not_plain_lora_over_all_matrices_is_merged(adapters, tmp_path, option):
    home = shutil.copytree(adapters, tmp_path / "nla")
    path, values = home / "av" / "adapter_config.json", {
        "rank_pattern": {"layers.0.self_attn.q_proj": 2},
        "use_rslora": True,
        "layers_to_transform": [0],
    }  # fmt: skip
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(config | {option: values[option]}), encoding="utf-8")
    if option != "use_rslora":
        weights = home / "av" / "adapter_model.safetensors"
        kept = load_file(weights)
        for name in [each for each in kept if ".layers.0." not in each]:
            del kept[name]
        if option == "rank_pattern":
            for name in [each for each in kept if "q_proj" in each]:
                kept[name] = kept[name][:2] if "lora_A" in name else kept[name][:, :2]
        save_file({name: each.contiguous() for name, each in kept.items()}, weights)
    pair = nlakit.load(home, device="cpu")
    assert not is_adapted(pair.engine.verbalizer.model)
    assert len({weight.data_ptr() for weight in attention(pair)}) == 3
