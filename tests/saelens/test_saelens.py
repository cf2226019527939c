"""What we write, SAELens and sparsify load, and compute the same with; and the other way round.

Run by `make test-saelens`, in an environment of its own: they bring a hundred packages.
"""

from __future__ import annotations

import pytest
import torch

from nlakit import sae
from nlakit.sae.autoencoder import SparseAutoencoder, wanted_shapes
from nlakit.sae.config import SaeConfig

sae_lens = pytest.importorskip("sae_lens")
sparsify = pytest.importorskip("sparsify")

WIDTH, LATENTS = 16, 40


def made(architecture: str, **more) -> SparseAutoencoder:
    k = 5 if architecture == "topk" else None
    config = SaeConfig(
        architecture=architecture,
        d_in=WIDTH,
        d_sae=LATENTS,
        k=k,
        model="tiny",
        hook_name="blocks.3.hook_resid_post",
        **more,
    )
    seeds = torch.Generator().manual_seed(0)
    weights = {
        name: torch.randn(shape, generator=seeds) for name, shape in wanted_shapes(config).items()
    }
    return SparseAutoencoder(config, weights)


def rows() -> torch.Tensor:
    return torch.randn(50, WIDTH, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("architecture", ["standard", "topk", "jumprelu", "gated"])
@pytest.mark.parametrize("subtract", [True, False])
def test_saelens_computes_the_same_with_what_we_write(tmp_path, architecture, subtract):
    ours = made(architecture, subtract_b_dec=subtract)
    ours.save(tmp_path, format="saelens")
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path))
    assert theirs.cfg.architecture() == architecture
    assert theirs.cfg.metadata.hook_name == "blocks.3.hook_resid_post"
    with torch.no_grad():
        latents = theirs.encode(rows())
        assert torch.allclose(latents, ours.encode(rows()), atol=1e-5)
        assert torch.allclose(theirs.decode(latents), ours.reconstruct(rows()), atol=1e-4)


@pytest.mark.parametrize("normalization", ["layer_norm", "constant_norm_rescale"])
def test_saelens_normalizes_as_we_do(tmp_path, normalization):
    ours = made("standard", normalization=normalization)
    ours.save(tmp_path, format="saelens")
    theirs = sae_lens.SAE.load_from_disk(str(tmp_path))
    with torch.no_grad():
        assert torch.allclose(theirs(rows()), ours.reconstruct(rows()), atol=1e-4)


@pytest.mark.parametrize("rescale", [True, False])
def test_we_compute_the_same_with_what_saelens_trains(tmp_path, rescale):
    config = sae_lens.BatchTopKTrainingSAEConfig(
        d_in=WIDTH, d_sae=LATENTS, k=5, rescale_acts_by_decoder_norm=rescale
    )
    theirs = sae_lens.BatchTopKTrainingSAE(config)
    with torch.no_grad():
        theirs.W_dec.mul_(torch.linspace(0.5, 2, LATENTS)[:, None])
        theirs.topk_threshold.fill_(0.3)
    theirs.save_inference_model(str(tmp_path))
    reloaded = sae_lens.SAE.load_from_disk(str(tmp_path))
    ours = sae.load(tmp_path)
    assert ours.architecture == "jumprelu"
    with torch.no_grad():
        assert torch.allclose(reloaded.encode(rows()), ours.encode(rows()), atol=1e-5)
        assert torch.allclose(reloaded(rows()), ours.reconstruct(rows()), atol=1e-4)


def test_sparsify_computes_the_same_with_what_we_write(tmp_path):
    ours = made("topk")
    ours.save(tmp_path, format="sparsify")
    theirs = sparsify.SparseCoder.load_from_disk(tmp_path)
    with torch.no_grad():
        assert torch.allclose(theirs(rows()).sae_out, ours.reconstruct(rows()), atol=1e-4)


def test_we_compute_the_same_with_what_sparsify_writes(tmp_path):
    config = sparsify.SparseCoderConfig(k=5, num_latents=LATENTS)
    theirs = sparsify.SparseCoder(WIDTH, config)
    with torch.no_grad():
        theirs.b_dec.normal_(generator=torch.Generator().manual_seed(2))
    directory = tmp_path / "layers.7"
    theirs.save_to_disk(directory)
    ours = sae.load(directory)
    assert ours.config.layer == 7
    with torch.no_grad():
        assert torch.allclose(theirs(rows()).sae_out, ours.reconstruct(rows()), atol=1e-5)
