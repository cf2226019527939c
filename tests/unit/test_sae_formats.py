"""Autoencoders of every format: tiny files of the real layout against values worked out by hand."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nlakit import sae
from nlakit.errors import CheckpointError, InputError
from nlakit.sae.formats.dictionary_learning import CONVERSION

X = torch.tensor([[1.0, 2.0]])
HAND = {
    "W_enc": torch.tensor([[1.0, 0.0, -1.0], [0.0, 1.0, 0.5]]),
    "b_enc": torch.tensor([0.0, 0.0, 0.1]),
    "W_dec": torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 1.0]]),
    "b_dec": torch.tensor([0.5, 0.0]),
}
THRESHOLD = torch.full((3,), 0.55)
WITH_BIAS, WITHOUT_BIAS = [[-0.1, 2.6]], [[1.5, 2.0]]
"""The facts' two outputs: b_dec taken off the input, and not."""


def put(directory, name, tensors, **files):
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: t.contiguous() for key, t in tensors.items()}, path)
    for file, content in files.items():
        (directory / f"{file}.json").write_text(json.dumps(content))
    return directory


def close(found, expected):
    return torch.allclose(found, torch.tensor(expected), atol=1e-5)


def six(**more):
    metadata = {"sae_lens_version": "6.54.12", "model_name": "m", "hook_name": "blocks.3.hook_z"}
    return {"architecture": "topk", "d_in": 2, "d_sae": 3, "metadata": metadata, **more}


@pytest.mark.parametrize(
    ("config", "more", "expected"),
    [
        (six(k=2), {}, WITH_BIAS),
        (six(k=2, apply_b_dec_to_input=False), {}, WITHOUT_BIAS),
        (six(architecture="jumprelu"), {"threshold": THRESHOLD}, WITH_BIAS),
        (
            six(architecture="jumprelu", apply_b_dec_to_input=False),
            {"threshold": THRESHOLD},
            WITHOUT_BIAS,
        ),
        (six(architecture="batchtopk"), {"topk_threshold": torch.tensor(0.55)}, WITH_BIAS),
        (six(architecture="standard"), {}, [[0.4, 2.6]]),
    ],
)
def test_saelens_six(tmp_path, config, more, expected):
    put(tmp_path, "sae_weights.safetensors", {**HAND, **more}, cfg=config)
    found = sae.load(tmp_path)
    assert close(found.reconstruct(X), expected)
    assert close(found.decode(found.encode(X)), expected)


def test_saelens_before_six_is_flat_and_names_things_otherwise(tmp_path):
    old = {
        "d_in": 2,
        "d_sae": 3,
        "hook_point": "blocks.5.hook_resid_pre",
        "activation_fn_str": "topk",
        "activation_fn_kwargs": {"k": 2},
        "normalize_activations": False,
        "model_name": "gpt2-small",
    }
    found = sae.load(put(tmp_path, "sae_weights.safetensors", HAND, cfg=old))
    assert (found.architecture, found.config.k, found.config.layer) == ("topk", 2, 4)
    assert found.config.model == "gpt2-small"
    assert close(found.reconstruct(X), WITH_BIAS)


def test_saelens_chooses_by_rescaled_pre_activations_where_the_config_says_so(tmp_path):
    # pre (.5, 2, .6): of one latent the second; rescaled by norms the second, too. With k=2 the
    # third has .6·√2 = .85 against .5, and its output is the same latent times its direction.
    config = six(k=2, rescale_acts_by_decoder_norm=True)
    found = sae.load(put(tmp_path, "sae_weights.safetensors", HAND, cfg=config))
    assert close(found.encode(X), [[0.0, 2.0, 0.6 * math.sqrt(2)]])
    assert close(found.reconstruct(X), WITH_BIAS)


def test_saelens_scaling_factors_are_folded_into_the_decoder(tmp_path):
    old = {"d_in": 2, "d_sae": 3, "hook_point": "x", "finetuning_scaling_factor": True}
    tensors = {**HAND, "finetuning_scaling_factor": torch.tensor([1.0, 2.0, 1.0])}
    found = sae.load(put(tmp_path, "sae_weights.safetensors", tensors, cfg=old))
    assert close(found.reconstruct(X), [[0.4, 4.6]])


def test_weights_of_scaled_activations_need_the_mean_norm(tmp_path):
    config = six(k=2, normalize_activations="expected_average_only_in")
    put(tmp_path, "sae_weights.safetensors", HAND, cfg=config)
    with pytest.raises(InputError, match="mean_norm"):
        sae.load(tmp_path)
    found = sae.load(tmp_path, mean_norm=math.sqrt(2) * 4)  # s = 1/4
    assert close(found.reconstruct(4 * X), [[-0.4, 10.4]])
    assert close(found.encode(4 * X), [[0.0, 2.0, 0.6]])


def test_layer_norm_is_undone_and_decode_alone_is_refused(tmp_path):
    config = six(architecture="standard", normalize_activations="layer_norm")
    identity = {
        "W_enc": torch.tensor([[1.0, -1.0], [1.0, -1.0]]),
        "b_enc": torch.zeros(2),
        "W_dec": torch.eye(2),
        "b_dec": torch.zeros(2),
    }
    config |= {"d_sae": 2}
    found = sae.load(put(tmp_path, "sae_weights.safetensors", identity, cfg=config))
    # Both inner values are ±.7071, so their sum is 0 and only the mean is left.
    assert close(found.reconstruct(X), [[1.5, 1.5]])
    with pytest.raises(InputError, match="reconstruct"):
        found.decode(found.encode(X))


def test_a_gated_one_has_two_biases(tmp_path):
    weights = {name: HAND[name] for name in ("W_enc", "W_dec", "b_dec")} | {
        "b_gate": torch.tensor([-0.6, 0.0, 0.0]),
        "r_mag": torch.tensor([0.0, math.log(2), 0.0]),
        "b_mag": torch.tensor([1.0, 0.5, 0.0]),
    }
    config = six(architecture="gated")
    found = sae.load(put(tmp_path, "sae_weights.safetensors", weights, cfg=config))
    assert close(found.encode(X), [[0.0, 4.5, 0.5]])
    assert close(found.pre_activations(X), [[-0.1, 2.0, 0.5]])


@pytest.mark.parametrize("architecture", ["transcoder", "jumprelu_skip_transcoder"])
def test_transcoders_are_refused(tmp_path, architecture):
    config = six(architecture=architecture)
    put(tmp_path, "sae_weights.safetensors", HAND, cfg=config)
    with pytest.raises(CheckpointError, match="reads one site and writes another"):
        sae.load(tmp_path)


def test_what_would_be_lost_is_refused(tmp_path):
    tensors = {**HAND, "W_skip": torch.eye(2)}
    put(tmp_path, "sae_weights.safetensors", tensors, cfg=six(k=2))
    with pytest.raises(CheckpointError, match="W_skip"):
        sae.load(tmp_path)
    put(tmp_path, "sae_weights.safetensors", HAND, cfg=six(architecture="temporal"))
    with pytest.raises(CheckpointError, match="temporal"):
        sae.load(tmp_path)


def test_gemma_scope_one_takes_no_bias_off_and_tells_its_site_by_its_folder(tmp_path):
    directory = tmp_path / "gemma-scope-2b-pt-res" / "layer_20" / "width_16k" / "average_l0_71"
    directory.mkdir(parents=True)
    np.savez(
        directory / "params.npz",
        w_enc=HAND["W_enc"].numpy(),
        W_dec=HAND["W_dec"].numpy(),
        b_enc=HAND["b_enc"].numpy(),
        b_dec=HAND["b_dec"].numpy(),
        threshold=THRESHOLD.numpy(),
    )
    found = sae.load(directory)
    assert close(found.reconstruct(X), WITHOUT_BIAS)
    assert (found.config.layer, found.config.model) == (20, "google/gemma-2-2b")
    assert sae.load(directory / "params.npz").config == found.config


def test_gemma_scope_embeddings_are_scaled(tmp_path):
    directory = tmp_path / "gemma-scope-2b-pt-res" / "embedding" / "width_4k" / "average_l0_6"
    directory.mkdir(parents=True)
    arrays = {name: tensor.numpy() for name, tensor in HAND.items()}
    np.savez(directory / "params.npz", threshold=THRESHOLD.numpy(), **arrays)
    found = sae.load(directory)
    assert torch.allclose(found.weights["W_enc"], HAND["W_enc"] / math.sqrt(2))
    assert torch.allclose(found.weights["W_dec"], HAND["W_dec"] * math.sqrt(2))


def test_a_pickle_inside_npz_is_not_opened(tmp_path):
    np.savez(tmp_path / "params.npz", W_enc=np.array([{"a": 1}], dtype=object))
    with pytest.raises(CheckpointError, match="allow_pickle"):
        sae.load(tmp_path)


def test_gemma_scope_two_has_a_config(tmp_path):
    tensors = {name.lower() if name[0] == "W" else name: t for name, t in HAND.items()}
    config = {
        "architecture": "jump_relu",
        "hf_hook_point_in": "model.layers.9.output",
        "hf_hook_point_out": "model.layers.9.output",
        "affine_connection": False,
        "model_name": "gemma-3-270m",
    }
    tensors["threshold"] = THRESHOLD
    found = sae.load(put(tmp_path, "params.safetensors", tensors, config=config))
    assert close(found.reconstruct(X), WITHOUT_BIAS)
    assert (found.config.layer, found.config.model) == (9, "gemma-3-270m")
    config["hf_hook_point_out"] = "model.layers.9.mlp.output"
    put(tmp_path, "params.safetensors", tensors, config=config)
    with pytest.raises(CheckpointError, match="transcoder"):
        sae.load(tmp_path)


SPARSIFY = {"activation": "topk", "k": 2, "d_in": 2, "num_latents": 3, "transcode": False}


def sparsify_tensors():
    return {
        "encoder.weight": HAND["W_enc"].T,
        "encoder.bias": HAND["b_enc"],
        "W_dec": HAND["W_dec"],
        "b_dec": HAND["b_dec"],
    }


def test_sparsify_takes_the_bias_off(tmp_path):
    directory = tmp_path / "layers.7"
    found = sae.load(put(directory, "sae.safetensors", sparsify_tensors(), cfg=SPARSIFY))
    assert close(found.reconstruct(X), WITH_BIAS)
    assert found.config.layer == 7


def test_sparsify_is_written_as_it_was(tmp_path):
    first = sae.load(
        put(tmp_path / "layers.7", "sae.safetensors", sparsify_tensors(), cfg=SPARSIFY)
    )
    first.save(tmp_path / "again" / "layers.7", format="sparsify")
    again = sae.load(tmp_path / "again" / "layers.7")
    assert again.config == first.config
    assert all(torch.equal(again.weights[name], t) for name, t in first.weights.items())


@pytest.mark.parametrize("change", [{"transcode": True}, {"activation": "groupmax"}])
def test_sparsify_of_another_kind_is_refused(tmp_path, change):
    put(tmp_path, "sae.safetensors", sparsify_tensors(), cfg=SPARSIFY | change)
    with pytest.raises(CheckpointError):
        sae.load(tmp_path)


def dictionary(name, **more):
    trainer = {"dict_class": name, "layer": 8, "lm_name": "EleutherAI/pythia-160m-deduped", **more}
    return {"trainer": trainer, "buffer": {"ctx_len": 1024}}


LINEAR = {
    "encoder.weight": HAND["W_enc"].T,
    "encoder.bias": HAND["b_enc"],
    "decoder.weight": HAND["W_dec"].T,
}


@pytest.mark.parametrize(
    ("config", "tensors", "expected"),
    [
        (
            dictionary("AutoEncoderTopK", k=2),
            {
                **LINEAR,
                "b_dec": HAND["b_dec"],
                "k": torch.tensor(2),
                "threshold": torch.tensor(9.0),
            },
            WITH_BIAS,
        ),
        (
            dictionary("BatchTopKSAE", k=2),
            {**LINEAR, "b_dec": HAND["b_dec"], "threshold": torch.tensor(0.55)},
            WITH_BIAS,
        ),
        (
            dictionary("MatryoshkaBatchTopKSAE", k=2),
            {**HAND, "threshold": torch.tensor(0.55)},
            WITH_BIAS,
        ),
        (dictionary("JumpReluAutoEncoder"), {**HAND, "threshold": THRESHOLD}, WITHOUT_BIAS),
        (dictionary("AutoEncoder"), {**LINEAR, "bias": HAND["b_dec"]}, [[0.4, 2.6]]),
        (dictionary("AutoEncoderNew"), {**LINEAR, "decoder.bias": HAND["b_dec"]}, [[1.4, 2.1]]),
    ],
)
def test_dictionary_learning_once_converted(tmp_path, config, tensors, expected):
    found = sae.load(put(tmp_path, "ae.safetensors", tensors, config=config))
    assert close(found.reconstruct(X), expected)
    assert found.config.layer == 8


def test_dictionary_learning_scales_gated_and_jump_relu_latents_by_decoder_norms(tmp_path):
    tensors = {**HAND, "threshold": torch.full((3,), 0.05)}
    config = dictionary("JumpReluAutoEncoder")
    found = sae.load(put(tmp_path, "ae.safetensors", tensors, config=config))
    assert close(found.encode(X), [[1.0, 2.0, 0.1 * math.sqrt(2)]])


def test_an_unset_threshold_is_refused(tmp_path):
    tensors = {**LINEAR, "b_dec": HAND["b_dec"], "threshold": torch.tensor(-1.0)}
    put(tmp_path, "ae.safetensors", tensors, config=dictionary("BatchTopKSAE", k=2))
    with pytest.raises(CheckpointError, match="before it was ever set"):
        sae.load(tmp_path)


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path):
    (tmp_path / "ae.pt").write_bytes(b"never opened")
    with pytest.raises(CheckpointError, match="is a pickle") as refused:
        sae.load(tmp_path)
    assert CONVERSION in str(refused.value)


def test_llama_scope_folds_its_norm_and_scales_its_threshold(tmp_path):
    config = {
        "d_model": 2,
        "hook_point_in": "blocks.8.hook_resid_post",
        "hook_point_out": "blocks.8.hook_resid_post",
        "jump_relu_threshold": 0.55 * 4,
        "dataset_average_activation_norm": {"in": math.sqrt(2) * 4, "out": math.sqrt(2) * 4},
        "act_fn": "jumprelu",
    }
    tensors = {**LINEAR, "decoder.bias": HAND["b_dec"]}
    put(tmp_path, "checkpoints/final.safetensors", tensors, hyperparams=config)
    found = sae.load(tmp_path)
    assert found.weights["threshold"].tolist() == pytest.approx([0.55] * 3)
    assert close(found.encode(4 * X), [[1.0, 2.0, 0.0]])
    assert close(found.reconstruct(4 * X), [[6.0, 8.0]])
    assert found.config.layer == 8


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
def test_saelens_is_written_as_it_was_read(tmp_path, architecture, dtype):
    tensors = dict(HAND)
    if architecture == "jumprelu":
        tensors["threshold"] = THRESHOLD
    if architecture == "gated":
        tensors |= {name: torch.randn(3) for name in ("b_gate", "r_mag", "b_mag")}
        del tensors["b_enc"]
    config = six(architecture=architecture, dtype=str(dtype).removeprefix("torch."))
    config |= {"k": 2} if architecture == "topk" else {}
    stored = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    first = sae.load(put(tmp_path / "one", "sae_weights.safetensors", stored, cfg=config))
    first.save(tmp_path / "two", format="saelens")
    again = sae.load(tmp_path / "two")
    assert again.config == first.config
    assert all(torch.equal(again.weights[name], t) for name, t in first.weights.items())
    assert torch.equal(again.encode(X), first.encode(X))


def test_errors_say_what_is_there(tmp_path):
    with pytest.raises(InputError, match="nothing is there"):
        sae.load(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match="found notes.txt"):
        sae.load(tmp_path)
    found = sae.load(put(tmp_path, "sae_weights.safetensors", HAND, cfg=six(k=2)))
    with pytest.raises(InputError, match="width 2; found 3"):
        found.encode(torch.zeros(1, 3))
    with pytest.raises(InputError, match="Did you mean 'saelens'"):
        found.save(tmp_path / "x", format="saelen")
    jump = six(architecture="jumprelu")
    with pytest.raises(CheckpointError, match="threshold: expected"):
        sae.load(put(tmp_path, "sae_weights.safetensors", HAND, cfg=jump))
    broken = {**HAND, "b_enc": torch.tensor([0.0, math.nan, 0.0])}
    with pytest.raises(CheckpointError, match="b_enc holds numbers that are not finite"):
        sae.load(put(tmp_path, "sae_weights.safetensors", broken, cfg=six(k=2)))
