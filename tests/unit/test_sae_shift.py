"""SHIFT on activations whose two facts have a latent each."""

from __future__ import annotations

import pytest
import torch

from nlakit.errors import InputError
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.config import SaeConfig
from nlakit.sae.shift import Labelled, ablated, shift


def known():
    """Two latents, one a component."""
    config = SaeConfig(architecture="standard", d_in=2, d_sae=2)
    zero = torch.zeros(2)
    weights = {"W_enc": torch.eye(2), "b_enc": zero, "W_dec": torch.eye(2), "b_dec": zero}
    return SparseAutoencoder(config, weights)


def rows(seed, agree):
    seeds = torch.Generator().manual_seed(seed)
    wanted = torch.rand(800, generator=seeds) < 0.5
    spurious = wanted.clone() if agree else torch.rand(800, generator=seeds) < 0.5
    # The spurious fact is written more plainly than the wanted one.
    noise = torch.randn(800, 2, generator=seeds) * torch.tensor([0.6, 0.1])
    return Labelled(torch.stack([wanted, spurious], 1) * 2 + 1 + noise, wanted, spurious)


def test_ablation_takes_out_what_a_latent_writes():
    x = torch.tensor([[3.0, 4.0]])
    assert ablated(known(), x, [1]).tolist() == [[3.0, 0.0]]


def test_a_head_loses_the_spurious_fact_and_keeps_the_wanted_one():
    names = ("x", "wanted", "spurious")
    found = shift(known(), rows(0, True), rows(1, False), rows(2, False), [1], names=names)
    before, _, after, oracle = found.lines
    assert before.spurious > 0.9 and before.worst_group < 0.5
    assert after.spurious < 0.6 and after.worst_group > 0.85
    assert after.wanted == pytest.approx(oracle.wanted, abs=0.03)


def test_rows_that_are_not_ambiguous_are_refused():
    with pytest.raises(InputError, match="differ"):
        shift(known(), rows(0, False), rows(1, False), rows(2, False), [1], names=("", "", ""))
    with pytest.raises(InputError, match="2 of the four groups"):
        shift(known(), rows(0, True), rows(1, False), rows(2, True), [1], names=("", "", ""))
