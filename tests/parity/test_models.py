"""Target, verbalizer and reconstructor against Hugging Face's own forward and against a disk."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from support.families import make
from transformers import AutoConfig, AutoModelForCausalLM

from nlakit.contract import Injection, write_meta
from nlakit.core.losses import token_logprobs
from nlakit.core.site import Site
from nlakit.engines.base import Sampling
from nlakit.engines.local import LocalEngine
from nlakit.errors import CheckpointError, ContractError, InputError
from nlakit.models.chat import ChatOptions
from nlakit.models.io import load_backbone
from nlakit.models.padding import longrope_length
from nlakit.models.reconstructor import Reconstructor
from nlakit.models.target import Target
from nlakit.models.verbalizer import Verbalizer

RESPONSES = [[5, 9, 11], [7], [12, 13, 14, 15, 1]]


def test_activations_equal_hidden_states(model, tokenizer):
    target = Target(model, tokenizer, Site(1))
    ids = [[0, 5, 9, 44, 17], [0, 3], [0, 8, 8, 8, 21, 60, 61]]
    found = target.activations(ids, [[0, 4], [1], [6, 2]])
    for row, places, vectors in zip(ids, [[0, 4], [1], [6, 2]], found, strict=True):
        hidden = model(torch.tensor([row]), output_hidden_states=True).hidden_states[2]
        assert torch.allclose(vectors, hidden[0, places], atol=1e-5)


def test_long_and_short_rows_are_rotated_apart_by_longrope(tokenizer):
    plain = make("phi3", len(tokenizer)).config.to_dict()
    factors = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [9.0] * 4}
    del plain["rope_parameters"], plain["model_type"]
    rope = {"rope_scaling": factors, "original_max_position_embeddings": 16}
    config = AutoConfig.for_model("phi3", **{**plain, **rope})
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    ids = [[*range(2, 42)], [7, 9, 11, 13, 15, 22, 31, 43]]
    found = Target(model, tokenizer, Site(1)).activations(ids)
    for row, vectors in zip(ids, found, strict=True):
        with torch.no_grad():
            states = model(torch.tensor([row]), output_hidden_states=True).hidden_states
        assert torch.allclose(vectors, states[2][0], atol=1e-5)
    assert longrope_length(config) == 16 and longrope_length(make("llama", 99).config) is None


def test_activations_run_no_later_block(llama, tokenizer):
    ran = []
    for index, block in enumerate(llama.model.layers):
        block.register_forward_hook(lambda *_, index=index: ran.append(index))
    found = Target(llama, tokenizer, Site(1)).activations([[0, 1, 2]])
    assert ran == [0, 1] and found[0].shape == (3, 32)
    assert len(llama.model.layers) == 4 and llama.config.num_hidden_layers == 4


def test_activations_refuse_positions_outside(llama, tokenizer):
    target = Target(llama, tokenizer, Site(1))
    with pytest.raises(InputError, match="Position 3 was asked of sequence 0"):
        target.activations([[0, 1, 2]], [[3]])
    with pytest.raises(InputError, match="Sequence 1 has 0 tokens"):
        target.activations([[0], []])
    with pytest.raises(InputError, match="blocks 0 to 3"):
        Target(llama, tokenizer, Site(4))


def test_encode_refuses_empty_and_too_long(llama, tokenizer):
    target = Target(llama, tokenizer, Site(1))
    with pytest.raises(InputError, match="empty"):
        target.encode("")
    with pytest.raises(InputError, match=r"300 tokens long; the target reads at most 256"):
        target.encode("\u0001" * 300)


def test_messages_render_through_the_template(llama, tokenizer):
    target = Target(llama, tokenizer, Site(1))
    encoded = target.encode_messages(
        [{"role": "user", "content": "a cat"}], ChatOptions(add_generation_prompt=True)
    )
    assert encoded.text == "<s><user>a cat</s><assistant>"
    assert encoded.ids.count(0) == 1 and encoded.ids.count(1) == 1
    assert "".join(encoded.tokens) == encoded.text


def test_logprobs_equal_a_plain_forward(model, tokenizer, av_meta, vectors):
    verbalizer = Verbalizer(model, tokenizer, av_meta)
    logprobs, mask = verbalizer.logprobs(vectors[:3], RESPONSES)
    assert mask.sum(1).tolist() == [3, 1, 5]
    for row, response in enumerate(RESPONSES):
        prompt = [*verbalizer.prefix_ids, 0, *verbalizer.suffix_ids]
        embeds = model.get_input_embeddings()(torch.tensor([prompt + response])).detach()
        scaled = vectors[row] / vectors[row].norm() * 5.0
        embeds[0, len(verbalizer.prefix_ids)] = scaled
        logits = model(inputs_embeds=embeds).logits[:, len(prompt) - 1 : -1]
        expected = token_logprobs(logits, torch.tensor([response]))
        assert torch.allclose(logprobs[row, : len(response)], expected[0], atol=1e-4)
        assert (logprobs[row, len(response) :] == 0).all()


def test_verbalizer_refuses_bad_vectors(llama, tokenizer, av_meta, vectors):
    verbalizer = Verbalizer(llama, tokenizer, av_meta)
    with pytest.raises(InputError, match=r"found \(3, 31\)"):
        verbalizer.logprobs(vectors[:3, :31], RESPONSES)
    with pytest.raises(InputError, match="row 0 contains inf"):
        verbalizer.logprobs(vectors[:3] / 0.0 * 1.0, [[1], [1], [1]])
    with pytest.raises(InputError, match="2 vectors were given with 3 responses"):
        verbalizer.logprobs(vectors[:2], RESPONSES)


def test_responses_parse_back(llama, tokenizer, av_meta):
    verbalizer = Verbalizer(llama, tokenizer, av_meta)
    ids = verbalizer.encode_response("the cat </s> sat")
    assert ids[-1] == 1 and ids.count(1) == 1
    assert verbalizer.parse(ids) == ("the cat </s> sat", True)
    assert verbalizer.parse(ids[: len(verbalizer.open_ids) + 2]).closed is False
    assert verbalizer.parse(verbalizer.close_ids) == ("", False)


def test_reconstructor_starts_as_the_site_and_reads_the_last_token(model, tokenizer, ar_meta):
    reconstructor = Reconstructor.from_target(model, tokenizer, ar_meta)
    ids = [reconstructor.encode(text) for text in ("the cat", "the cat sat on the mat", "")]
    found = reconstructor.forward(ids)
    for row, vector in zip(ids, found, strict=True):
        hidden = model(torch.tensor([row]), output_hidden_states=True).hidden_states[2]
        assert torch.allclose(vector, hidden[0, -1], atol=1e-4)
    tail = list(ar_meta.tokens.critic_suffix_ids or ())
    assert tail and ids[0][-len(tail) :] == tail


def test_reconstructor_head_stays_float32_under_autocast(llama, tokenizer, ar_meta):
    reconstructor = Reconstructor.from_target(llama, tokenizer, ar_meta)
    with torch.autocast("cpu", torch.bfloat16):
        found = reconstructor.forward([reconstructor.encode("a cat")])
    assert found.dtype == torch.float32
    found.sum().backward()
    assert all(p.grad is not None for p in reconstructor.parameters())


def test_reconstructor_refuses_long_text(llama, tokenizer, ar_meta):
    reconstructor = Reconstructor.from_target(llama, tokenizer, ar_meta)
    with pytest.raises(InputError, match="Explanation 1 makes a prompt of"):
        reconstructor.forward([[1, 2], reconstructor.encode("\u0001" * 300)])


def test_reconstructor_cuts_what_it_cannot_read(llama, tokenizer, ar_meta):
    ar = Reconstructor.from_target(llama, tokenizer, ar_meta)
    limit = llama.config.max_position_embeddings
    for text in ("é" * limit, "a cat. " * limit):  # a letter is two tokens; words are some
        cut = ar.fitting(text)
        assert text.startswith(cut) and len(ar.encode(cut)) in (limit - 1, limit)
    assert ar.fitting("a cat") == "a cat"


def test_verbalizer_survives_the_disk(model, tokenizer, av_meta, vectors, tmp_path):
    verbalizer = Verbalizer(model, tokenizer, av_meta)
    verbalizer.save(tmp_path / "av")
    verbalizer.save(tmp_path / "av")
    again = Verbalizer.load(tmp_path / "av")
    assert again.meta == av_meta and again.eos_ids == [1]
    expected, _ = verbalizer.logprobs(vectors[:3], RESPONSES)
    assert torch.equal(again.logprobs(vectors[:3], RESPONSES)[0], expected)
    assert [p.name for p in tmp_path.iterdir()] == ["av"]


def test_reconstructor_survives_the_disk(model, tokenizer, ar_meta, tmp_path):
    reconstructor = Reconstructor.from_target(model, tokenizer, ar_meta)
    reconstructor.head.weight.data.mul_(1 / 3)
    reconstructor.save(tmp_path / "ar", torch.bfloat16)
    again = Reconstructor.load(tmp_path / "ar")
    assert torch.equal(again.head.weight, reconstructor.head.weight)
    assert json.loads((tmp_path / "ar/config.json").read_text())["num_hidden_layers"] == 2
    assert load_file(tmp_path / "ar/model.safetensors")["model.layers.1.mlp.up_proj.weight"].dtype
    ids = [again.encode("a cat")]
    assert again.forward(ids).dtype == torch.float32
    assert torch.cosine_similarity(again.forward(ids), reconstructor.forward(ids)) > 0.99


def test_loading_can_cut_blocks_and_read_a_bare_backbone(llama, tokenizer, tmp_path):
    Target(llama, tokenizer, Site(1)).save(tmp_path / "target")
    cut = load_backbone(tmp_path / "target", 2, headless=True)
    hidden = llama(torch.tensor([[0, 4]]), output_hidden_states=True).hidden_states[2]
    assert torch.allclose(cut(torch.tensor([[0, 4]])).last_hidden_state, hidden, atol=1e-6)
    path = tmp_path / "target/model.safetensors"
    save_file({k.removeprefix("model."): v for k, v in load_file(path).items()}, path)
    assert Target.load(tmp_path / "target", 1).model.lm_head.weight.equal(llama.lm_head.weight)
    with pytest.raises(CheckpointError, match="5 blocks were asked"):
        load_backbone(tmp_path / "target", 5)


def test_sharded_weights_load(llama, tokenizer, tmp_path):
    Target(llama, tokenizer, Site(1)).save(tmp_path / "t")
    whole = load_file(tmp_path / "t/model.safetensors")
    (tmp_path / "t/model.safetensors").unlink()
    names = {key: f"part-{index % 2}.safetensors" for index, key in enumerate(whole)}
    for name in set(names.values()):
        save_file({k: v for k, v in whole.items() if names[k] == name}, tmp_path / "t" / name)
    index = tmp_path / "t/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    assert Target.load(tmp_path / "t", 1).model.model.norm.weight.equal(llama.model.norm.weight)
    (tmp_path / "t/part-1.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"part-1.safetensors is missing"):
        Target.load(tmp_path / "t", 1)


@pytest.mark.parametrize("damage", ["truncate", "shape", "key", "json", "family"])
def test_damaged_directories_are_refused(llama, tokenizer, tmp_path, damage):
    Target(llama, tokenizer, Site(1)).save(tmp_path / "t")
    weights, config = tmp_path / "t/model.safetensors", tmp_path / "t/config.json"
    tensors = load_file(weights)
    if damage == "truncate":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "shape":
        save_file({**tensors, "model.norm.weight": torch.ones(31)}, weights)
    elif damage == "key":
        tensors["model.layers.0.extra"] = tensors.pop("model.norm.weight")
        save_file(tensors, weights)
    else:
        old, new = ("{", "") if damage == "json" else ('"llama"', '"bert"')
        config.write_text(config.read_text().replace(old, new, 1))
    words = {"truncate": "corrupt", "shape": r"\(31,\)", "key": "layers.0.extra"}
    expected = {**words, "json": "not JSON", "family": "'bert' is not supported"}[damage]
    with pytest.raises(CheckpointError, match=expected):
        Target.load(tmp_path / "t", 1)


def test_wrong_role_is_refused_before_any_weight(llama, tokenizer, ar_meta, tmp_path):
    Reconstructor.from_target(llama, tokenizer, ar_meta).save(tmp_path / "ar")
    (tmp_path / "ar/model.safetensors").unlink()
    with pytest.raises(ContractError, match="role"):
        Verbalizer.load(tmp_path / "ar")


def test_a_failed_save_leaves_the_old_directory(llama, tokenizer, av_meta, tmp_path, monkeypatch):
    verbalizer = Verbalizer(llama, tokenizer, av_meta)
    verbalizer.save(tmp_path / "av")
    monkeypatch.setattr(verbalizer, "meta", None)
    with pytest.raises(AttributeError):
        verbalizer.save(tmp_path / "av")
    assert Verbalizer.load(tmp_path / "av").meta == av_meta
    assert [p.name for p in tmp_path.iterdir()] == ["av"]


# ---- the other convention: added to the residual of a block


@pytest.fixture
def adding_meta(av_meta):
    return av_meta.model_copy(update={"injection": Injection(convention="add", layer=1)})


def hooked_logits(verbalizer, vector, response):
    """Logits over a response, the vector added by a hook of the test's own."""
    prompt = [*verbalizer.prefix_ids, verbalizer.meta.tokens.injection_token_id]
    slot = len(prompt) - 1
    prompt += verbalizer.suffix_ids

    def add(_module, _inputs, output):
        changed = output.clone()
        changed[0, slot] += output[0, slot].norm() * vector / vector.norm()
        return changed

    hook = verbalizer.model.model.layers[1].register_forward_hook(add)
    with torch.no_grad():
        logits = verbalizer.model(torch.tensor([prompt + response])).logits
    hook.remove()
    return logits[0, len(prompt) - 1 : -1]


def test_vectors_can_be_added_to_a_residual(llama, tokenizer, adding_meta, ar_meta, vectors):
    verbalizer = Verbalizer(llama, tokenizer, adding_meta)
    engine = LocalEngine(
        None, verbalizer, Reconstructor.from_target(llama, tokenizer, ar_meta), max_rows=2
    )
    answers = [group[0] for group in engine.verbalize(vectors[:3], Sampling(max_new_tokens=8))]
    for vector, answer in zip(vectors, answers, strict=False):
        logits = hooked_logits(verbalizer, vector, list(answer.ids))
        assert tuple(logits.argmax(-1).tolist()) == answer.ids
    assert len({answer.ids for answer in answers}) > 1
    expected = hooked_logits(verbalizer, vectors[2], RESPONSES[2]).log_softmax(-1)
    picked = expected.gather(1, torch.tensor(RESPONSES[2])[:, None])[:, 0]
    # By our blocks, and by Hugging Face's modules, which any hook asks for.
    hook = llama.model.layers[0].register_forward_hook(lambda *_: None)
    found = [verbalizer.logprobs(vectors[:3], RESPONSES)[0]]
    hook.remove()
    found.append(verbalizer.logprobs(vectors[:3], RESPONSES)[0])
    assert all(torch.allclose(each[2], picked, atol=1e-4) for each in found)


def test_the_convention_survives_the_disk_and_is_checked(llama, tokenizer, adding_meta, tmp_path):
    Verbalizer(llama, tokenizer, adding_meta).save(tmp_path / "av")
    assert Verbalizer.load(tmp_path / "av").meta.injection == Injection(convention="add", layer=1)
    meta = adding_meta.model_copy(update={"injection": Injection(convention="add", layer=4)})
    Verbalizer(llama, tokenizer, meta).save(tmp_path / "av")
    with pytest.raises(ContractError, match=r"injection.layer: found 4, expected less than 4"):
        Verbalizer.load(tmp_path / "av")


# ---- LoRA adapters


def write_adapter(directory, meta, tensors, **changes):
    directory.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, **changes}
    (directory / "adapter_config.json").write_text(json.dumps(config))
    save_file(
        {f"base_model.model.{key}": tensor for key, tensor in tensors.items()},
        directory / "adapter_model.safetensors",
    )
    write_meta(directory, meta)


def low_rank(model, block, seed=0):
    weight = model.model.layers[block].self_attn.q_proj.weight
    generator = torch.Generator().manual_seed(seed)
    down = torch.randn(2, weight.shape[1], generator=generator)
    up = torch.randn(weight.shape[0], 2, generator=generator)
    name = f"model.layers.{block}.self_attn.q_proj.lora_"
    return {f"{name}A.weight": down, f"{name}B.weight": up}, weight.detach() + 3 * up @ down


def test_adapters_are_merged_into_their_base(llama, tokenizer, av_meta, ar_meta, tmp_path):
    Target(llama, tokenizer, Site(1)).save(tmp_path / "base")
    first, expected = low_rank(llama, 0)
    last, _ = low_rank(llama, 3)
    write_adapter(tmp_path / "av", av_meta, first)
    av = Verbalizer.load(tmp_path / "av", base=tmp_path / "base")
    assert torch.allclose(av.model.model.layers[0].self_attn.q_proj.weight, expected, atol=1e-5)
    assert av.model.model.layers[1].mlp.up_proj.weight.equal(
        llama.model.layers[1].mlp.up_proj.weight
    )
    # A reconstructor's adapter may have been trained on the whole model: cut blocks do not matter.
    named = {"base_model_name_or_path": str(tmp_path / "base")}
    write_adapter(tmp_path / "ar", ar_meta, {**first, **last}, **named)
    save_file({"weight": torch.eye(32) * 2, "bias": torch.ones(32)},
              tmp_path / "ar/value_head.safetensors")  # fmt: skip
    ar = Reconstructor.load(tmp_path / "ar")
    assert len(ar.backbone.layers) == 2
    assert torch.allclose(ar.backbone.layers[0].self_attn.q_proj.weight, expected, atol=1e-5)
    assert ar.head.bias is not None


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True"),
        ({"fan_in_fan_out": True, "r": 1}, None),
    ],
)
def test_other_adapters_are_refused(llama, tokenizer, av_meta, tmp_path, changes, found):
    Target(llama, tokenizer, Site(1)).save(tmp_path / "base")
    tensors, _ = low_rank(llama, 0)
    if found is None:
        tensors = {"model.layers.9.mlp.up_proj.lora_A.weight": torch.zeros(2, 32),
                   "model.layers.9.mlp.up_proj.lora_B.weight": torch.zeros(48, 2)}  # fmt: skip
        found = r"layers.9.mlp.up_proj.weight, which the base does not have"
    write_adapter(tmp_path / "av", av_meta, tensors, **changes)
    with pytest.raises(CheckpointError, match=found):
        Verbalizer.load(tmp_path / "av", base=tmp_path / "base")
    with pytest.raises(CheckpointError, match=r"names no base|peft_type|use_dora"):
        Verbalizer.load(tmp_path / "av")
