"""Two dictionaries whose neighbours are known; the map's places come from a stand-in for UMAP."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from nlakit.errors import InputError, MissingExtraError
from nlakit.sae.autoencoder import SparseAutoencoder
from nlakit.sae.config import SaeConfig
from nlakit.sae.dual_map import dual_map, plot


def with_directions(rows):
    W_dec = torch.tensor(rows)
    config = SaeConfig(architecture="standard", d_in=W_dec.shape[1], d_sae=len(W_dec))
    weights = {
        "W_enc": W_dec.T.contiguous(),
        "b_enc": torch.zeros(len(W_dec)),
        "W_dec": W_dec,
        "b_dec": torch.zeros(W_dec.shape[1]),
    }
    return SparseAutoencoder(config, weights)


ONE = with_directions([[2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
OTHER = with_directions([[0.0, 3.0], [1.0, 0.0]])


class StandIn:
    """Keeps the first two components."""

    def __init__(self, **settings):
        assert settings["random_state"] == 1

    def fit_transform(self, rows):
        return rows[:, :2]


@pytest.fixture
def umap(monkeypatch):
    module = types.ModuleType("umap")
    module.UMAP = StandIn
    monkeypatch.setitem(sys.modules, "umap", module)


def test_each_latent_has_its_nearest_in_the_other_dictionary(umap):
    found = dual_map((ONE, OTHER), ([0, 2], [0, 1]), ("a", "b"))
    told = {(p.dictionary, p.latent): (p.nearest, round(p.cosine, 3)) for p in found.points}
    assert told[0, 0] == (1, 1.0)
    assert told[1, 1] == (0, 1.0)
    assert told[1, 0] == (2, 0.707)
    assert sum(found.across[0]) == sum(found.within[1]) == 2
    assert found.mean_within[1] == pytest.approx(0.0)
    assert plot(found).count("h.1") == 8


def test_dictionaries_of_two_models_have_no_map(umap):
    with pytest.raises(InputError, match="widths 2 and 3"):
        dual_map((ONE, with_directions([[1.0, 0.0, 0.0]])), ([0], [0]), ("a", "b"))


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(MissingExtraError, match=r"nlakit\[umap\]"):
        dual_map((ONE, OTHER), ([0, 1], [0, 1]), ("a", "b"))
