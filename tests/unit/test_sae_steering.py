"""Steering by a latent: what is added at the site, and what is refused."""

from __future__ import annotations

import json

import pytest
import torch

from nlakit.cli import run
from nlakit.errors import InputError
from nlakit.sae import steering
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.config import SaeConfig, residual_hook
from nlakit.sae.steering import steer_by_latent

TEXT = "the old boat by the pier"


def parts(width, **more):
    """Latents are the positive and the negative part of every component."""
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    config = SaeConfig(architecture="standard", d_in=width, d_sae=2 * width, **more)
    zero = torch.zeros(2 * width)
    weights = {"W_enc": both.T.contiguous(), "b_enc": zero, "W_dec": both.clone()}
    return SparseAutoencoder(config, {**weights, "b_dec": torch.zeros(width)})


def steered(target, latent, value, **more):
    ids = target.encode(TEXT).ids
    return steer_by_latent(parts(16), target, ids, latent, value, name="x", **more)


def test_the_latent_has_its_new_value_and_all_else_stays(tiny_target, monkeypatch):
    seen = {}

    def continuations(target, ids, added_BD, places, num):
        seen.update(added_BD=added_BD, places=places)
        return [[1], [2]]

    monkeypatch.setattr(steering, "continuations", continuations)
    ids = tiny_target.encode(TEXT).ids
    x_D = tiny_target.activations([ids], [[2]])[0][0]
    latent = int(parts(16).encode(x_D).argmax())
    found = steered(tiny_target, latent, 7.0, position=2)
    assert seen["places"] == [2, 2] and not seen["added_BD"][0].any()
    after_M = parts(16).encode(x_D + seen["added_BD"][1])
    before_M = parts(16).encode(x_D)
    assert after_M[latent].item() == pytest.approx(7.0, abs=1e-4)
    others = torch.arange(32) != latent
    assert torch.equal(after_M[others], before_M[others])
    assert found.found == pytest.approx(before_M[latent].item()) and found.changed
    assert found.strength == pytest.approx(abs(7.0 - found.found) / x_D.norm().item(), rel=1e-4)


def test_its_own_value_changes_nothing(tiny_target):
    ids = tiny_target.encode(TEXT).ids
    x_D = tiny_target.activations([ids], [[len(ids) - 1]])[0][0]
    latents_M = parts(16).encode(x_D)
    same = steered(tiny_target, 3, latents_M[3].item())
    assert same.before == same.after and not same.changed
    assert (same.strength, same.kl_unrelated) == (0.0, 0.0)
    assert steered(tiny_target, 3, 500.0).kl_unrelated > 0


def test_what_cannot_be_done_is_refused(tiny_target):
    with pytest.raises(InputError, match="Latent 32 was asked for"):
        steered(tiny_target, 32, 1.0)
    with pytest.raises(InputError, match="0 or above"):
        steered(tiny_target, 0, -1.0)
    with pytest.raises(InputError, match="0 or above"):
        steered(tiny_target, 0, float("nan"))
    with pytest.raises(InputError, match="Position 99"):
        steered(tiny_target, 0, 1.0, position=99)


def test_the_verb_takes_the_largest_value_of_the_dashboard(tiny_target, tmp_path, capsys):
    directory = tmp_path / "target"
    tiny_target.model.save_pretrained(directory)
    tiny_target.tokenizer.save_pretrained(directory)
    hook = residual_hook(tiny_target.site.layer)
    parts(16, model=str(directory), hook_name=hook).save(tmp_path / "sae")
    asked = ["steer-latent", TEXT, "--sae", str(tmp_path / "sae"), "--latent", "1"]
    assert run(asked) != 0
    assert "Give --value" in capsys.readouterr().err
    assert run([*asked, "--value", "3", "--tokens", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["value"], found["latent"]) == (3.0, 1)
